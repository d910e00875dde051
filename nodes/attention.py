"""Record Attention and Attention Heatmap: what each word of a prompt attends to while the stock samplers work."""

from __future__ import annotations

import math

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io, ui
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch import Tensor

from ..palp_core.methods.heatmap import HeatMaps, overlay, word_heat, word_share
from ..palp_core.models.attention import compiled_model, cross_attention_layers, is_decoder, recorded_attention
from .host.progress import show_text
from .host.text import check_clip, content_positions, spelled_out, spelled_word, token_positions
from .widgets import CATEGORY

KEY = "palp_record_attention"

Recording = io.Custom("PALP_ATTENTION")
OTHER_ASPECT = 0.05  # log of a ratio; scaling a picture rounds its sides by less


class AttentionRecording:
    """The maps of a prompt's tokens in the latest sampling with it, and the wrappers that record them."""

    def __init__(self, tokenizer, prompt: str, contexts: list[Tensor]):
        self.tokenizer = tokenizer
        self.prompt = prompt
        #: (1, T, C) each, by which the prompt's rows are known; several where CLIP is scheduled.
        self.contexts = contexts
        self.tokens = content_positions(tokenizer, prompt)
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

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        """Around each evaluation of the model; rows with another prompt, and parts of the picture, are passed over."""
        matches = (matching_rows(c_crossattn, context) for context in self.contexts)
        rows, repeats = max(matches, key=lambda match: len(match[0]))
        if len(rows) == 0 or tuple(x.shape[-2:]) != self._size:
            return executor(x, t, c_concat, c_crossattn, *args, **kwargs)
        network = executor.class_obj.diffusion_model
        with recorded_attention(network, self.tokens, rows, repeats, only=is_decoder) as layers:
            output = executor(x, t, c_concat, c_crossattn, *args, **kwargs)
        self.heat.add(layers, self._size, self._batch)
        return output

    def positions(self, word: str) -> list[int]:
        """Which of the recorded tokens are the word's. Raises ValueError where it is not in the prompt."""
        word = spelled_word(self.tokenizer, word)
        return [self.tokens.index(at) for at in token_positions(self.tokenizer, self.prompt, word)]

    def maps(self, image: Tensor) -> Tensor:
        """(B, K, h, w) for pictures (B, H, W, C). Raises ValueError where there is none, or not one for each."""
        if self.heat.runs == 0:
            raise ValueError(
                "nothing was recorded. Connect Record Attention's MODEL to the sampler, its CONDITIONING to the "
                "sampler's positive input, and the picture that comes of it to this node. Where ComfyUI had kept that "
                "picture from an earlier run, queue with another seed."
            )
        maps, (pictures, height, width) = self.heat.maps, image.shape[:3]
        if len(maps) != pictures:
            raise ValueError(
                f"image holds {pictures} pictures, but {len(maps)} were sampled with the recording. Connect the "
                "pictures that came of that sampling, all of them."
            )
        sides = maps.shape[-2:]
        if abs(math.log(height * sides[1] / (width * sides[0]))) > OTHER_ASPECT:
            raise ValueError(
                f"image is {width} x {height} pixels, but what was recorded last were latents of {sides[1]} x "
                f"{sides[0]}: a tile, or another sampler's. Use one Record Attention for each sampler, and none for "
                "what samples in tiles."
            )
        return maps


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


class RecordAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_RecordAttention",
            display_name="Record Attention",
            category=CATEGORY,
            description=(
                "Records, while a sampler works, where in the picture each word of the prompt gets its attention. "
                "Attention Heatmap shows it. The picture is the same as without."
            ),
            search_aliases=["daam", "attention map", "cross attention", "heatmap", "palp"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL. It is left as it was."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint, or of Load PALP LoRA."),
                io.String.Input(
                    "prompt",
                    default="a sketch of a cat in Paris at night",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt to sample with, and whose words are recorded.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For one KSampler, whose latest run is recorded."),
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The encoded prompt: the KSampler's positive input."
                ),
                Recording.Output(display_name="recording", tooltip="For Attention Heatmap, one for each word."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, prompt):
        cross_attention_layers(model.model.diffusion_model)  # raises where there is none
        check_clip(clip)
        prompt = spelled_out(clip.tokenizer, prompt)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        recording = AttentionRecording(clip.tokenizer, prompt, [context for context, _ in conditioning])
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, recording.sample)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, recording.apply_model)
        return io.NodeOutput(patched, conditioning, recording)


class AttentionHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PALP_AttentionHeatmap",
            display_name="Attention Heatmap",
            category=CATEGORY,
            description=(
                "Shows where in a picture a word of its prompt got its attention (DAAM), as colours over the picture "
                "and as a mask: whether a learned word has swallowed the rest of the prompt, for example."
            ),
            search_aliases=["daam", "attention map", "cross attention", "word mask", "palp"],
            is_output_node=True,
            inputs=[
                Recording.Input("recording", tooltip="From Record Attention."),
                io.Image.Input("image", tooltip="The pictures that were sampled with the recording, decoded."),
                io.String.Input(
                    "word",
                    default="cat",
                    tooltip="A word of the prompt, or several in a row; a learned word is embedding:NAME, or [V].",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Of the colours over the picture: 0 shows the picture alone, 1 the heat alone.",
                ),
                io.String.Input(
                    "against",
                    default="",
                    tooltip="Other words of the prompt, with commas between them: shows where the word wins against "
                    "them. For what fills the background, as a place does. Empty: the word by itself.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="overlay", tooltip="The picture with the word's heat over it."),
                io.Mask.Output(
                    display_name="mask", tooltip="The heat: white at the word's hottest place, black at its coldest."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, recording, image, word, opacity, against=""):
        tokens, maps = recording.positions(word), recording.maps(image)
        others = [token for other in against.split(",") if other.strip() for token in recording.positions(other)]
        heat = word_heat(maps, tokens, tuple(image.shape[1:3]), sorted(set(others) - set(tokens)))
        picture = overlay(image, heat, opacity)
        share = word_share(maps, tokens).mean().item()
        show_text(cls.hidden.unique_id, f"{word.strip()}: {share:.0%} of the attention that the prompt's words get")
        return io.NodeOutput(picture, heat, ui=ui.PreviewImage(picture, cls=cls))
