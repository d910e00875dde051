"""The host's own MODEL, CLIP and VAE as a Backbone: trained where they are, and left as they were found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sd1_clip
import comfy.utils
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...palp_core.models.backbone import (
    DTYPES,
    Backbone,
    Conditioning,
    Family,
    Placeholders,
    Precision,
    Prediction,
    frozen,
    restore_forwards,
)
from ...palp_core.models.prompts import too_long, unknown_word
from .text import LearnedWordsTokenizer, check_clip, token_positions, token_table

FAMILIES: dict[tuple[str, ...], Family] = {("l",): "sd1", ("h",): "sd2", ("l", "g"): "sdxl"}
SUPPORTED = "PALP works with Stable Diffusion 1.x, 2.x and SDXL text-to-image models"
#: More than any card has: the host then moves every other model off it.
ALL_MEMORY = 1e20


class ComfyBackbone(Backbone):
    """Raises ValueError for a model family that is not supported, or parts that do not belong together."""

    def __init__(self, model, clip, vae, precision: Precision = "auto"):
        if vae is None:
            raise ValueError("vae is missing: the checkpoint has none. Load one, and connect it.")
        self.vae = vae
        self._given_model, self._given_clip = model, clip
        self.encoder_keys, self.family = _family(model, clip)
        self.encoders = tuple(f"clip_{key}" for key in self.encoder_keys)
        self.prediction = _prediction(model)
        self.patcher = _with_precision(_without_dynamic_memory(model), precision)
        self.device = self.patcher.load_device
        self.model = self.patcher.model
        self.denoiser = self.model.diffusion_model
        self.sigmas = self.patcher.get_model_object("model_sampling").sigmas.clone()
        self.compute_dtype = DTYPES[precision] if precision != "auto" else _inference_dtype(self.patcher)
        self._names = _diffusers_names(self.model.model_config.unet_config)
        self._loaded_for_training = False

    @cached_property
    def clip(self):
        """Copied where it must be, once it is needed: what only denoises has no use for it."""
        return _clip_without_dynamic_memory(self._given_clip)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = {"optimized_attention_override": _differentiable_attention}
        inputs = {"c_crossattn": cond.context, "transformer_options": options}
        if cond.pooled is not None:
            height, width = (side * 8 for side in x.shape[-2:])
            inputs["y"] = self.model.encode_adm(pooled_output=cond.pooled, width=width, height=height, device=x.device)
        with self.autocast():
            return self.model.apply_model(x, sigma, **inputs)

    def encode_prompt(self, prompt: str, placeholders: Placeholders) -> Conditioning:
        tokens = LearnedWordsTokenizer(self.clip.tokenizer, placeholders).tokenize_with_weights(prompt)
        self._check_length(prompt, tokens)
        if not self._loaded_for_training:
            self.clip.load_model(tokens)
        encoder = self.clip.cond_stage_model
        encoder.reset_clip_options()
        if self.clip.layer_idx is not None:
            encoder.set_clip_options({"layer": self.clip.layer_idx})
        encoder.set_clip_options({"execution_device": self.clip.patcher.load_device})
        context, pooled = encoder.encode_token_weights(tokens)[:2]
        return Conditioning(context.to(self.device), pooled.to(self.device) if self.family == "sdxl" else None)

    def _check_length(self, prompt: str, tokens: dict[str, list[list[tuple]]]) -> None:
        """The host would split a long prompt into several windows, which the other prompts of a step do not have."""
        rows = tokens[self.encoder_keys[0]]
        if len(rows) > 1:
            end = rows[0][-1][0]
            words = sum(not (isinstance(token, int) and token == end) for row in rows for token, *_ in row[1:])
            raise too_long(prompt, words, len(rows[0]) - 2)

    def token_positions(self, prompt: str, word: str, placeholders: Placeholders) -> tuple[int, ...]:
        return token_positions(LearnedWordsTokenizer(self.clip.tokenizer, placeholders), prompt, word)

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents = self.vae.encode(image[None])
        channels = self.model.latent_format.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(
                f"vae makes latents of shape {tuple(latents.shape)}, but the model takes {channels} channels. "
                "Connect the VAE of the same checkpoint."
            )
        return self.model.process_latent_in(latents.float())

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        vectors = {}
        tokens = self.clip.tokenizer.tokenize_with_weights(word)
        for key in self.encoder_keys:
            tokenizer = getattr(self.clip.tokenizer, f"clip_{key}")
            row = [token for token, *_ in tokens[key][0][1:]]
            if not all(isinstance(token, int) for token in row):
                raise ValueError(f"the word {word!r} names an embedding. Use a plain word that the model knows.")
            numbers = torch.tensor(row[: row.index(tokenizer.end_token)])
            if len(numbers) == 0:  # a small vocabulary has the end token for what it does not know
                raise unknown_word(word)
            weight = token_table(self.clip.cond_stage_model, f"clip_{key}").weight.detach()
            vectors[f"clip_{key}"] = weight[numbers.to(weight.device)].to("cpu", torch.float32)
        return vectors

    def token_embeddings(self) -> dict[str, Tensor]:
        text_encoder = self.clip.cond_stage_model
        return {name: token_table(text_encoder, name).weight.detach() for name in self.encoders}

    def kohya_name(self, module_name: str) -> str:
        if self.family != "sdxl":  # kohya names SDXL's blocks as the original code, and the host, do
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


def make_differentiable(module: nn.Module, device: torch.device) -> None:
    """Weights that were loaded in inference mode cannot take part in a backward pass: put a clone in each one's place.

    One tensor at a time, so that there is never a second copy of the model; values stay the same. Raises ValueError
    where a part of the model is not on its device: a backward pass needs all of it there.
    """
    if any(parameter.device.type != device.type for parameter in module.parameters()):
        raise ValueError(
            f"{type(module).__name__} was not loaded onto {device} as a whole. Start ComfyUI without --novram."
        )
    clones: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is None or _is_differentiable(tensor):
                    continue
                if id(tensor) not in clones:
                    clone = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    clones[id(tensor)] = nn.Parameter(clone, requires_grad=False) if is_parameter else clone
                tensors[name] = clones[id(tensor)]


def _is_differentiable(tensor: Tensor) -> bool:
    """Whether autograd can save it: not an inference tensor, nor one that was made as such and has moved since.

    A parameter's `.data` that was given to it in inference mode makes it an inference tensor; one that was created in
    inference mode and given plain data later says that it is none, but still has no version counter.
    """
    try:
        _ = tensor._version
    except RuntimeError:
        return False
    return not tensor.is_inference()


@contextmanager
def differentiable_text_encoder(encoder: nn.Module) -> Iterator[None]:
    """The host's CLIP layers add to their input in place, which autograd forbids: give them copies to work on.

    Layers run again in the backward pass: the host casts their weights to float32 as it goes, and autograd would keep
    that second copy of all of them.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    layers = [m for m in encoder.modules() if type(m).__name__ == "CLIPLayer"]
    own = [layer.__dict__.get("forward") for layer in layers]

    def wrap(layer: nn.Module) -> None:
        forward = layer.forward

        def on_copy(x: Tensor, *args) -> Tensor:
            return forward(x.clone(), *args)

        def run(x: Tensor, *args) -> Tensor:
            return checkpoint(on_copy, x, *args, use_reentrant=False)

        layer.forward = run

    handles = []
    try:
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(), *inputs[1:])))
        for layer in layers:
            wrap(layer)
        yield
    finally:
        for handle in handles:
            handle.remove()
        restore_forwards(layers, own)


def _differentiable_attention(_chosen, *args, **kwargs) -> Tensor:
    """PyTorch's attention in place of what the user chose for sampling, some of which has no backward pass."""
    return attention_pytorch(*args, **kwargs)


def _without_dynamic_memory(patcher):
    """Hosts with dynamic VRAM stream weights in: for training they make a plain copy of the model from its file."""
    if not patcher.is_dynamic():
        return patcher
    if "disable_dynamic" not in inspect.signature(patcher.clone).parameters:
        raise ValueError(
            "this ComfyUI computes no gradients with dynamic VRAM. Start it without --fast dynamic_vram, or update."
        )
    if patcher.cached_patcher_init is None:
        raise ValueError(
            "the node that loaded this model does not say how to load it again, which gradients with dynamic VRAM "
            "need. Use ComfyUI's own loader, or start ComfyUI with --disable-dynamic-vram."
        )
    if hasattr(patcher, "get_non_dynamic_delegate"):  # reads the file once for one MODEL, and again for a copy of it
        return patcher.get_non_dynamic_delegate()
    return patcher.clone(disable_dynamic=True)


def _clip_without_dynamic_memory(clip):
    patcher = _without_dynamic_memory(clip.patcher)
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


def _family(model, clip) -> tuple[tuple[str, ...], Family]:
    """The keys of the CLIP's encoders (l, g, h), and the family that CLIP and MODEL agree on."""
    check_clip(clip)
    encoder, base = clip.cond_stage_model, model.model
    parts = {name for name, part in encoder.named_children() if isinstance(part, comfy.sd1_clip.SDClipModel)}
    keys = tuple(key for key in "lgh" if f"clip_{key}" in parts)
    kind = {comfy.model_base.BaseModel: "sd", comfy.model_base.SDXL: "sdxl"}.get(type(base))
    config = base.model_config.unet_config
    if kind is None or "context_dim" not in config:
        raise ValueError(f"model is of the family {type(base.model_config).__name__}. {SUPPORTED}: load one of these.")
    if config["in_channels"] != base.latent_format.latent_channels or base.concat_keys:
        raise ValueError(f"model is an inpainting or editing model. {SUPPORTED}: load one of these.")
    family = FAMILIES.get(keys) if len(keys) == len(parts) else None  # other encoders beside them: SD 3, Flux
    width = sum(token_table(encoder, f"clip_{key}").weight.shape[-1] for key in keys)
    if family is None or (family == "sdxl") != (kind == "sdxl") or width != config["context_dim"]:
        raise ValueError(
            f"clip ({type(encoder).__name__}) does not belong to model ({type(base.model_config).__name__}). "
            "Connect MODEL and CLIP of the same checkpoint."
        )
    return keys, family


def _prediction(model) -> Prediction:
    sampling = model.get_model_object("model_sampling")
    kinds = {comfy.model_sampling.EPS: "epsilon", comfy.model_sampling.V_PREDICTION: "v"}
    for kind, prediction in kinds.items():
        same = type(sampling).calculate_denoised is kind.calculate_denoised
        if same and isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
            return prediction
    raise ValueError(
        "model samples in a way that PALP does not know (neither eps- nor v-prediction on discrete noise levels). "
        "Connect the checkpoint's MODEL before nodes such as ModelSamplingContinuousEDM or LCM."
    )


def _diffusers_names(unet_config: dict) -> dict[str, str]:
    """The host's module names -> diffusers', without `.weight`."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    return {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for theirs, ours in names.items()}
