"""The host's own MODEL, CLIP and VAE as a Backbone: trained where they are, and left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sd1_clip
import comfy.utils
import torch
from torch import Tensor, nn

from ...palp_core.errors import ModelError, PromptError
from ...palp_core.models.backbone import DTYPES, Backbone, Conditioning, LearnedWords, Precision
from ...palp_core.models.memory import frozen
from ...palp_core.models.noise import NoiseLevels
from ...palp_core.models.prompts import too_long, unknown_word
from .compat import without_dynamic_memory
from .families import diffusers_names, encoder_key, family_of, native_resolution, prediction_of
from .gradients import differentiable_attention, differentiable_text_encoder, make_differentiable
from .text import LearnedWordsTokenizer, token_positions, token_table

#: More than any card has: the host then moves every other model off it.
ALL_MEMORY = 1e20


class ComfyBackbone(Backbone):
    """Raises ModelError for a model family that is not supported, or parts that do not belong together."""

    def __init__(self, model, clip, vae, precision: Precision = "auto"):
        if vae is None:
            raise ModelError("vae is missing: the checkpoint has none. Load one, and connect it.")
        self.vae = vae
        self._given_model, self._given_clip = model, clip
        self.family = family_of(model, clip)
        self.prediction = prediction_of(model)
        self.native_resolution = native_resolution(model, self.family, self.prediction)
        self.patcher = _with_precision(without_dynamic_memory(model), precision)
        self.device = self.patcher.load_device
        self.model = self.patcher.model
        self.denoiser = self.model.diffusion_model
        self.levels = NoiseLevels(self.patcher.get_model_object("model_sampling").sigmas.clone())
        self.compute_dtype = DTYPES[precision] if precision != "auto" else _inference_dtype(self.patcher)
        self._names = diffusers_names(self.model.model_config.unet_config)
        self._loaded_for_training = False

    @cached_property
    def clip(self):
        """Copied where it must be, once it is needed: what only denoises has no use for it."""
        return _plain_clip(self._given_clip)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = {"optimized_attention_override": differentiable_attention}
        inputs = {"c_crossattn": cond.context, "transformer_options": options}
        if cond.pooled is not None:
            height, width = (side * 8 for side in x.shape[-2:])
            inputs["y"] = self.model.encode_adm(pooled_output=cond.pooled, width=width, height=height, device=x.device)
        with self.autocast():
            return self.model.apply_model(x, sigma, **inputs)

    def encode_prompt(self, prompt: str, words: LearnedWords) -> Conditioning:
        tokens = LearnedWordsTokenizer(self.clip.tokenizer, words).tokenize_with_weights(prompt)
        self._check_length(prompt, tokens)
        if not self._loaded_for_training:
            self.clip.load_model(tokens)
        encoder = self.clip.cond_stage_model
        encoder.reset_clip_options()
        if self.clip.layer_idx is not None:
            encoder.set_clip_options({"layer": self.clip.layer_idx})
        encoder.set_clip_options({"execution_device": self.clip.patcher.load_device})
        context, pooled = encoder.encode_token_weights(tokens)[:2]
        return Conditioning(context.to(self.device), pooled.to(self.device) if self.family.pooled else None)

    def _check_length(self, prompt: str, tokens: dict[str, list[list[tuple]]]) -> None:
        """The host would split a long prompt into several windows, which the other prompts of a step do not have."""
        rows = tokens[encoder_key(self.family.encoders[0])]
        if len(rows) > 1:
            end = rows[0][-1][0]
            count = sum(not (isinstance(token, int) and token == end) for row in rows for token, *_ in row[1:])
            raise too_long(prompt, count, len(rows[0]) - 2)

    def token_positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        return token_positions(LearnedWordsTokenizer(self.clip.tokenizer, words), prompt, word)

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents = self.vae.encode(image[None])
        channels = self.model.latent_format.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ModelError(
                f"vae makes latents of shape {tuple(latents.shape)}, but the model takes {channels} channels. "
                "Connect the VAE of the same checkpoint."
            )
        return self.model.process_latent_in(latents.float())

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        decoded = self.vae.decode(self.model.process_latent_out(latents))
        return decoded.float().clamp(0, 1).cpu()

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        vectors = {}
        tokens = self.clip.tokenizer.tokenize_with_weights(word)
        for name in self.family.encoders:
            tokenizer = getattr(self.clip.tokenizer, name)
            row = [token for token, *_ in tokens[encoder_key(name)][0][1:]]
            if not all(isinstance(token, int) for token in row):
                raise PromptError(f"the word {word!r} names an embedding. Use a plain word that the model knows.")
            numbers = torch.tensor(row[: row.index(tokenizer.end_token)])
            if len(numbers) == 0:  # a small vocabulary has the end token for what it does not know
                raise unknown_word(word)
            weight = token_table(self.clip.cond_stage_model, name).weight.detach()
            vectors[name] = weight[numbers.to(weight.device)].to("cpu", torch.float32)
        return vectors

    def token_embeddings(self) -> dict[str, Tensor]:
        text_encoder = self.clip.cond_stage_model
        return {name: token_table(text_encoder, name).weight.detach() for name in self.family.encoders}

    def kohya_name(self, module_name: str) -> str:
        if not self.family.original_block_names:  # which are the host's
            module_name = self._names[module_name]
        return f"lora_unet_{module_name.replace('.', '_')}"

    def checkpointed_modules(self) -> list[nn.Module]:
        return [m for m in self.denoiser.modules() if type(m).__name__ in ("BasicTransformerBlock", "ResBlock")]

    @contextmanager
    def training(self, learn_words: bool) -> Iterator[None]:
        patchers = [self.patcher, self.clip.patcher] if learn_words else [self.patcher]
        with ExitStack() as stack:
            stack.callback(self._release)
            comfy.model_management.load_models_gpu(patchers, memory_required=ALL_MEMORY, force_full_load=True)
            for patcher in patchers:  # the host may keep the text encoder elsewhere than the model
                make_differentiable(patcher.model, patcher.load_device)
            stack.enter_context(frozen(*(patcher.model for patcher in patchers)))
            if learn_words:
                stack.enter_context(differentiable_text_encoder(self.clip.cond_stage_model))
            self._loaded_for_training = learn_words
            yield

    def _release(self) -> None:
        """Copies of our making (other precision, plain memory) are taken off the device: nobody else will do it."""
        self._loaded_for_training = False
        pairs = ((self.patcher, self._given_model), (self.clip.patcher, self._given_clip.patcher))
        copies = [patcher for patcher, given in pairs if patcher is not given]
        loaded = comfy.model_management.current_loaded_models
        others = [m for m in loaded if not any(m.model is copy for copy in copies)]
        for copy in copies:
            comfy.model_management.free_memory(ALL_MEMORY, copy.load_device, keep_loaded=others)


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
