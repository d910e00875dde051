"""The host's own MODEL, CLIP and VAE as a Backbone: trained where they are, and left as they were found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sd1_clip
import comfy.utils
import torch
from torch import Tensor, nn

from ...palp_core.errors import ModelError
from ...palp_core.models.backbone import DTYPES, Backbone, Conditioning, LearnedWords, Precision
from ...palp_core.models.families import Targets
from ...palp_core.models.memory import frozen
from .compat import without_dynamic_memory
from .families import diffusers_names, family_of, joint_layout, levels_of, native_resolution, prediction_of
from .fingerprint import fingerprint
from .gradients import (
    check_is_loaded,
    differentiable_attention,
    differentiable_text_encoder,
    differentiable_transformer,
    make_differentiable,
)
from .lora import check_lora_is_in_weights
from .offloading import free_memory, load_partially, streamed
from .sequences import sequence_positions
from .text import (
    LearnedWordsTokenizer,
    token_positions,
    token_table,
    word_vectors,
)

#: More than any card has: the host then moves every other model off it.
ALL_MEMORY = 1e20
#: Side of a picture for one of its latents, where a network asks for the picture's size: SDXL.
PIXELS = 8
#: What the host calls the numbers of `Conditioning.with_size`.
PHOTO_SIZE = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")


class ComfyBackbone(Backbone):
    """Raises ModelError for a model family that is not supported, or parts that do not belong together."""

    def __init__(self, model, clip, vae, precision: Precision = "auto", offloading: bool = False):
        if vae is None:
            raise ModelError("vae is missing: the checkpoint has none. Load one, and connect it.")
        check_lora_is_in_weights("model", model)
        if clip is not None:
            check_lora_is_in_weights("clip", clip.patcher)
        self.vae = vae
        self._given_model, self._given_clip = model, clip
        self.family = family_of(model, clip)
        self.prediction = prediction_of(model, self.family)
        self.native_resolution = native_resolution(model, self.family, self.prediction)
        self.patcher = _with_precision(without_dynamic_memory(model), precision)
        self.device = self.patcher.load_device
        self.model = self.patcher.model
        self.denoiser = self.model.diffusion_model
        self.levels = levels_of(self.patcher, self.family, self.prediction)
        self.compute_dtype = DTYPES[precision] if precision != "auto" else _inference_dtype(self.patcher)
        self.joint = joint_layout(self.model, self.family)
        self.offloading = offloading
        self._loaded_for_training = False
        self._trained: list = []  # what is loaded for a training that goes on

    @cached_property
    def clip(self):
        """Copied where it must be, once it is needed: what only denoises has no use for it."""
        return _plain_clip(self._given_clip)

    def denoise(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self.prediction.name == "flow":  # the host has x_t and s where we have x and sigma
            x, sigma = self.prediction.network_input(x, sigma), sigma / (1 + sigma)
        block = len(x) // len(conds)
        inputs = [self._network_inputs(part, cond) for part, cond in zip(x.split(block), conds, strict=True)]
        parts: list[Tensor | None] = [None] * len(conds)
        for group in alike(inputs):
            rows = torch.cat([torch.arange(at * block, (at + 1) * block) for at in group]).to(x.device)
            found = self._apply(x[rows], sigma[rows], [inputs[at] for at in group])
            for at, part in zip(group, found.split(block), strict=True):
                parts[at] = part
        return torch.cat(parts)

    def _network_inputs(self, x: Tensor, cond: Conditioning) -> dict:
        """What the host's own samplers would hand the network with these latents, as its COND objects."""
        named = {name: t.item() if name == "guidance" else t for name, t in cond.tensors.items()}
        size = {"width": x.shape[-1] * PIXELS, "height": x.shape[-2] * PIXELS}
        if "size" in named:
            size = dict(zip(PHOTO_SIZE, named.pop("size")[0].tolist(), strict=True))
        named = {"pooled_output": None, **named}  # which older hosts ask for where there is none
        conds = self.model.extra_conds(noise=x, device=x.device, prompt_type="positive", **size, **named)
        return {name: c.process_cond(batch_size=len(x), device=x.device, area=None) for name, c in conds.items()}

    def _apply(self, x: Tensor, sigma: Tensor, inputs: list[dict]) -> Tensor:
        options = {"optimized_attention_override": differentiable_attention}
        joined = {name: cond.concat([other[name] for other in inputs[1:]]) for name, cond in inputs[0].items()}
        with self.autocast():
            return self.model.apply_model(x, sigma, transformer_options=options, **joined)

    def fingerprint(self) -> Iterator[str | Tensor]:
        for patcher in (self.patcher, self._given_clip.patcher, getattr(self.vae, "patcher", None)):
            if patcher is not None:  # which a VAE of another node pack may do without
                yield from fingerprint(patcher)
        yield repr(self._given_clip.layer_idx)

    def encode_prompt(self, prompt: str, words: LearnedWords) -> Conditioning:
        tokens = LearnedWordsTokenizer(self.clip.tokenizer, words).tokenize_with_weights(prompt)
        encoder = self.clip.cond_stage_model
        if not self._loaded_for_training:
            self.clip.load_model(tokens)
            make_differentiable(encoder, self.clip.patcher.load_device)
        encoder.reset_clip_options()
        if self.clip.layer_idx is not None:
            encoder.set_clip_options({"layer": self.clip.layer_idx})
        encoder.set_clip_options({"execution_device": self.clip.patcher.load_device})
        context, pooled, *more = encoder.encode_token_weights(tokens)
        encoded = {"cross_attn": context, "pooled_output": pooled, **(more[0] if more else {})}
        if self.family.guidance == "distilled":  # where it was trained without guidance, and learns best
            encoded["guidance"] = torch.tensor(1.0)
        return Conditioning({name: t.to(self.device) for name, t in encoded.items() if torch.is_tensor(t)})

    def token_positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        tokenizer = LearnedWordsTokenizer(self.clip.tokenizer, words)
        if not self.family.is_transformer:
            return token_positions(tokenizer, prompt, word)
        with torch.no_grad():
            length = self.encode_prompt(prompt, words).tensors["cross_attn"].shape[1]
        return sequence_positions(tokenizer, self.family, prompt, word, length)

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():  # in which its weights may have been loaded
            latents = self.vae.encode(image[None])
        latents = latents.clone()
        channels = self.model.latent_format.latent_channels
        if latents.ndim != 2 + self.model.latent_format.latent_dimensions or latents.shape[1] != channels:
            raise ModelError(
                f"vae makes latents of shape {tuple(latents.shape)}, but the model takes {channels} channels. "
                "Connect the VAE of the same checkpoint."
            )
        return self.model.process_latent_in(latents.float())

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        with self._kept_loaded(), torch.inference_mode():
            decoded = self.vae.decode(self.model.process_latent_out(latents))
        return decoded.float().clamp(0, 1).cpu().flatten(0, -4)  # some VAEs give each picture as a film of one

    @contextmanager
    def _kept_loaded(self) -> Iterator[None]:
        """While it trains, the host makes no room for others with what trains, and the others go when they are done."""
        if not self._trained:
            yield
            return
        loaded = comfy.model_management.current_loaded_models
        ours = [entry for entry in loaded if any(entry.model is patcher for patcher in self._trained)]
        for entry in ours:
            loaded.remove(entry)
        others = list(loaded)
        try:
            yield
        finally:
            comfy.model_management.free_memory(ALL_MEMORY, self.device, keep_loaded=others)
            loaded.extend(ours)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        for name in self.family.encoders:
            if getattr(self.clip.cond_stage_model, name, None) is None:
                raise ModelError(
                    f"clip has no {name}, which a learned word of {self.family.title} needs. Load it, or set "
                    "subject_word to text."
                )
        return word_vectors(self.clip, self.family.encoders, word)

    def token_embeddings(self) -> dict[str, Tensor]:
        text_encoder = self.clip.cond_stage_model
        return {name: token_table(text_encoder, name).weight.detach() for name in self.family.encoders}

    def projections(self, targets: Targets = "attention") -> dict[str, tuple[str, ...]]:
        layers = self.family.lora_layers(targets)
        names = [n for n, _ in self.denoiser.named_modules() if layers.fullmatch(n)]
        kohya = {name: name for name in names}
        if not self.family.original_block_names:  # which are the host's
            kohya = diffusers_names(self.model.model_config.unet_config)
        return {f"lora_unet_{kohya[name].replace('.', '_')}": (name,) for name in names}

    def checkpointed_modules(self) -> list[nn.Module]:
        if not self.family.is_transformer:
            return [m for m in self.denoiser.modules() if type(m).__name__ in ("BasicTransformerBlock", "ResBlock")]
        stacks = [part for part in self.denoiser.children() if isinstance(part, nn.ModuleList)]
        return [block for stack in stacks for block in stack]

    def text_encoders(self) -> list[nn.Module]:
        return [self._given_clip.cond_stage_model]

    def compute_in_bf16(self) -> None:
        super().compute_in_bf16()
        self.patcher = _with_precision(self.patcher, "bf16")

    def free_memory(self) -> float | None:
        return free_memory(self.device)

    @contextmanager
    def training(self, learn_words: bool) -> Iterator[None]:
        patchers = [self.patcher, self.clip.patcher] if learn_words else [self.patcher]
        with ExitStack() as stack:
            stack.callback(self._release)
            self._load(patchers)
            for patcher in patchers:  # the host may keep the text encoder elsewhere than the model
                make_differentiable(patcher.model, patcher.load_device)
            stack.enter_context(frozen(*(patcher.model for patcher in patchers)))
            stack.enter_context(streamed(self.denoiser, self.device))
            stack.enter_context(self.differentiable())
            if learn_words:
                stack.enter_context(differentiable_text_encoder(self.clip.cond_stage_model))
            self._loaded_for_training, self._trained = learn_words, patchers
            yield

    def _load(self, patchers: list) -> None:
        """Load what trains onto its device; the network, which comes first, in part where the user chose so."""
        if self.offloading:
            load_partially(*patchers)
        else:
            comfy.model_management.load_models_gpu(patchers, memory_required=ALL_MEMORY, force_full_load=True)
        for patcher in patchers[self.offloading :]:
            check_is_loaded(patcher.model, patcher.load_device)

    def differentiable(self) -> AbstractContextManager[None]:
        """Make a context in which a backward pass through the network is right."""
        if not self.family.is_transformer:
            return nullcontext()
        return differentiable_transformer(self.denoiser, self.checkpointed_modules())

    def _release(self) -> None:
        """Copies of our making (other precision, plain memory) are taken off the device: nobody else will do it."""
        self._loaded_for_training, self._trained = False, []
        pairs = ((self.patcher, self._given_model), (self.clip.patcher, self._given_clip.patcher))
        copies = [patcher for patcher, given in pairs if patcher is not given]
        loaded = comfy.model_management.current_loaded_models
        others = [m for m in loaded if not any(m.model is copy for copy in copies)]
        for copy in copies:
            comfy.model_management.free_memory(ALL_MEMORY, copy.load_device, keep_loaded=others)


def alike(inputs: Sequence[dict]) -> list[list[int]]:
    """Group by number what the host can concatenate, as its samplers do: prompts of other lengths have other shapes."""
    groups: list[list[int]] = []
    for number, conds in enumerate(inputs):
        for group in groups:
            first = inputs[group[0]]
            if first.keys() == conds.keys() and all(first[name].can_concat(conds[name]) for name in first):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _plain_clip(clip):
    patcher = without_dynamic_memory(clip.patcher)
    if patcher is clip.patcher:
        return clip
    plain = clip.clone()
    plain.patcher, plain.cond_stage_model = patcher, patcher.model
    return plain


def _inference_dtype(patcher) -> torch.dtype:
    """What the host computes in when it samples, a choice of the user's included."""
    return patcher.get_model_object("manual_cast_dtype") or patcher.model.get_dtype()


def _with_precision(patcher, precision: Precision):
    if precision == "auto" or DTYPES[precision] == _inference_dtype(patcher):
        return patcher
    clone = patcher.clone()
    clone.set_model_compute_dtype(DTYPES[precision])
    return clone
