"""What a prompt's words attend to, recorded while the host's samplers work."""

from __future__ import annotations

import math

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ...palp_core.errors import OVERFLOWS, PromptError, SettingError
from ...palp_core.methods.heatmap import HeatMaps
from ...palp_core.models.attention import compiled_model, is_decoder, recorded_attention
from ...palp_core.models.joint_attention import JointLayout
from .gradients import differentiable_attention
from .reader import PromptReader
from .text import spelled_word

KEY = "palp_record_attention"
OTHER_ASPECT = 0.05  # log of a ratio; scaling a picture rounds its sides by less


class AttentionRecording:
    """The maps of a prompt's tokens in the latest sampling with it, and the wrappers that record them."""

    def __init__(self, prompt_reader: PromptReader, prompt: str, contexts: list[Tensor], joint: JointLayout | None):
        self.reader = prompt_reader
        self.prompt = prompt
        #: (1, T, C) each, by which the prompt's rows are known; several where CLIP is scheduled.
        self.contexts = contexts
        self.tokens = prompt_reader.content(prompt)
        self.joint = joint
        self.heat = HeatMaps()
        self._size, self._batch = (0, 0), 0

    def sample(self, executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        """Around a whole sampling: it is recorded afresh."""
        if TORCH_COMPILE_KWARGS in guider.model_options:  # by a node behind ours
            raise compiled_model()
        self.heat = HeatMaps()
        self._size, self._batch = tuple(noise.shape[-2:]), len(noise)
        try:
            return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)
        finally:
            self.heat.to("cpu")

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, options=None, **kwargs):
        """Around each evaluation of the model; rows with another prompt, and parts of the picture, are passed over."""
        matches = (matching_rows(c_crossattn, context) for context in self.contexts)
        rows, repeats = max(matches, key=lambda match: len(match[0]))
        if len(rows) == 0 or tuple(x.shape[-2:]) != self._size:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        network = executor.class_obj.diffusion_model
        if self.joint is not None:
            options = plain_attention(options or {})
        recorded = recorded_attention(network, self.tokens, rows, repeats, only=is_decoder, joint=self.joint)
        with recorded as layers:
            output = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        self.heat.add(layers, self._size, self._batch)
        return output

    def positions(self, word: str) -> list[int]:
        """Which of the recorded tokens are the word's. Raises PromptError where it is not in the prompt."""
        word = spelled_word(self.reader.tokenizer, word)
        return [self.tokens.index(at) for at in self.reader.find(self.prompt, word)]

    def maps(self, image: Tensor) -> Tensor:
        """(B, K, h, w) for pictures (B, H, W, C).

        Raises PromptError where there is none, or not one for each, and SettingError where the model overflowed.
        """
        if self.heat.runs == 0:
            raise PromptError(
                "nothing was recorded. Connect Record Attention's MODEL to the sampler, its CONDITIONING to the "
                "sampler's positive input, and the picture that comes of it to this node. Where ComfyUI had kept that "
                "picture from an earlier run, queue with another seed."
            )
        maps, (pictures, height, width) = self.heat.maps, image.shape[:3]
        if len(maps) != pictures:
            raise PromptError(
                f"image holds {pictures} pictures, but {len(maps)} were sampled with the recording. Connect the "
                "pictures that came of that sampling, all of them."
            )
        sides = maps.shape[-2:]
        if abs(math.log(height * sides[1] / (width * sides[0]))) > OTHER_ASPECT:
            raise PromptError(
                f"image is {width} x {height} pixels, but what was recorded last were latents of {sides[1]} x "
                f"{sides[0]}: a tile, or another sampler's. Use one Record Attention for each sampler, and none for "
                "what samples in tiles."
            )
        if not maps.isfinite().all():
            raise SettingError(f"the attention that was recorded is {OVERFLOWS}")
        return maps


def recorded_model(model, recording: AttentionRecording):
    """Return a clone of the host's MODEL that is recorded while it is sampled."""
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, recording.sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, recording.apply_model)
    return patched


def plain_attention(options: dict) -> dict:
    """Let the network attend by torch's own function, which can be seen, whatever was chosen for speed."""
    return {**options, "optimized_attention_override": differentiable_attention}


def matching_rows(context: Tensor | None, prompt: Tensor) -> tuple[Tensor, int]:
    """The rows of a batch's context, (R, T', C), that begin with a prompt's, (1, T, C), and how often they hold it."""
    length = prompt.shape[1]
    if context is None or context.shape[-1] != prompt.shape[-1] or context.shape[1] < length:
        return torch.empty(0, dtype=torch.long), 1
    prompt = prompt.to(context)
    rows = (context[:, :length] == prompt).flatten(1).all(dim=1).nonzero()[:, 0]
    repeats = context.shape[1] // length  # the host repeats a prompt that shares a batch with a longer one
    repeated = context.shape[1] % length == 0 and bool((context[rows] == prompt.repeat(1, repeats, 1)).all())
    return rows, repeats if repeated else 1
