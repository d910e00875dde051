"""Where the tokens of a word stand in what the host's text encoders make of a prompt, whatever the family."""

from __future__ import annotations

from ...palp_core.models.attention import cross_attention_layers
from ...palp_core.models.joint_attention import JointLayout
from .families import family_of, joint_layout
from .sequences import sequence_content, sequence_positions
from .text import check_clip, content_positions, token_positions


class PromptReader:
    """Reads prompts for one MODEL and one CLIP. Raises ModelError where the MODEL's text attention cannot be seen."""

    def __init__(self, model, clip):
        check_clip(clip)
        self.clip, self.tokenizer = clip, clip.tokenizer
        self.family = self.joint = None  # any UNet with text attention will do
        if not has_cross_attention(model):
            self.family = family_of(model, clip)
            self.joint: JointLayout | None = joint_layout(model.model, self.family)
        if self.joint is None:
            cross_attention_layers(model.model.diffusion_model)  # raises where there is none
        self._lengths: dict[str, int] = {}

    def find(self, prompt: str, word: str) -> tuple[int, ...]:
        """Find a word's tokens. Raises PromptError where the prompt does not hold it."""
        if self.joint is None:
            return token_positions(self.tokenizer, prompt, word)
        return sequence_positions(self.tokenizer, self.family, prompt, word, self._length(prompt))

    def content(self, prompt: str) -> tuple[int, ...]:
        """Find a prompt's own tokens: neither start, nor end, nor padding, nor a template."""
        if self.joint is None:
            return content_positions(self.tokenizer, prompt)
        return sequence_content(self.tokenizer, self.family, prompt, self._length(prompt))

    def _length(self, prompt: str) -> int:
        if prompt not in self._lengths:
            self._lengths[prompt] = self.clip.encode_from_tokens(self.clip.tokenize(prompt)).shape[1]
        return self._lengths[prompt]


def has_cross_attention(model) -> bool:
    """Whether the host's MODEL is a UNet that attends to the prompt in layers of its own."""
    network = model.model.diffusion_model
    return any(name.endswith(".attn2") and hasattr(module, "to_q") for name, module in network.named_modules())
