"""Stable Diffusion 1.x, 2.x and SDXL of the diffusers library as a Backbone, for use without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..backbone import DTYPES, Backbone, Conditioning, LearnedWords, Precision
from ..families import Family
from ..memory import frozen
from ..noise import PREDICTIONS, NoiseLevels, Prediction
from .loading import Pipeline, chosen_device, pipeline_family
from .placing import placed
from .text import TextEncoders
from .unet import original_block_name, size_conditioning
from .vae import decode, encode

#: Noise level that stands for "no signal left" in schedules with zero terminal SNR; finite, as samplers use it.
SMALLEST_ALPHA_CUMPROD = 4.8973451890853435e-08


class DiffusersBackbone(Backbone):
    """A loaded pipeline. Its modules are trained where they are and put back; the pipeline is never copied.

    device: where to train, by default CUDA if there is one. precision: `auto` computes in the dtype of the UNet's
    weights. Raises ModelError for a UNet that takes more than latents (inpainting) or a precision its weights lack.
    """

    def __init__(self, pipeline: Pipeline, device: torch.device | str | None = None, precision: Precision = "auto"):
        self.pipeline = pipeline
        self.denoiser = pipeline.unet
        self.device = chosen_device(device)
        self.family = pipeline_family(pipeline)
        self.prediction = _prediction(pipeline)
        self.native_resolution = _native_resolution(pipeline, self.family, self.prediction)
        self.compute_dtype = pipeline.unet.dtype if precision == "auto" else DTYPES[precision]
        if self.compute_dtype == torch.float32 != pipeline.unet.dtype:
            raise ModelError(
                f"precision is fp32, but the UNet's weights are {pipeline.unet.dtype}. Load it in float32."
            )
        alphas = pipeline.scheduler.alphas_cumprod.double().clamp(min=SMALLEST_ALPHA_CUMPROD)
        self.levels = NoiseLevels(((1 - alphas) / alphas).sqrt().float())
        self.text = TextEncoders(pipeline, self.family, self.device)

    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        unet = self.denoiser
        inputs = self.prediction.network_input(x, sigma).to(unet.dtype)
        extra = None if cond.pooled is None else size_conditioning(self.pipeline, x, cond.pooled)
        with self.autocast():
            output = unet(inputs, self.levels.nearest(sigma), cond.context.to(unet.dtype), added_cond_kwargs=extra)
        return self.prediction.denoised(x, sigma, output.sample.float())

    def encode_prompt(self, prompt: str, words: LearnedWords) -> Conditioning:
        return self.text.encode(prompt, words)

    def token_positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        return self.text.positions(prompt, word, words)

    def encode_image(self, image: Tensor) -> Tensor:
        return encode(self.pipeline.vae, image, self.device)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return decode(self.pipeline.vae, latents, self.device)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        return self.text.vectors(word)

    def token_embeddings(self) -> dict[str, Tensor]:
        return self.text.tables()

    def kohya_name(self, module_name: str) -> str:
        if self.family.original_block_names:
            module_name = original_block_name(module_name, self.denoiser.config.layers_per_block)
        return f"lora_unet_{module_name.replace('.', '_')}"

    def checkpointed_modules(self) -> list[nn.Module]:
        kinds = ("BasicTransformerBlock", "ResnetBlock2D")
        return [m for m in self.denoiser.modules() if type(m).__name__ in kinds]

    @contextmanager
    def training(self, learn_words: bool) -> Iterator[None]:
        encoders = self.text.modules()
        needed = [self.denoiser, *(encoders if learn_words else [])]
        idle = [self.pipeline.vae, *([] if learn_words else encoders)]
        with ExitStack() as stack:
            stack.enter_context(frozen(self.denoiser, *encoders))
            stack.enter_context(placed(torch.device("cpu"), idle))
            stack.enter_context(placed(self.device, needed))
            yield


def _native_resolution(pipeline: Pipeline, family: Family, prediction: Prediction) -> int:
    """The configuration's, where it is told as a square, else the family's; pixels."""
    size = pipeline.unet.config.sample_size  # of latents
    return size * pipeline.vae_scale_factor if isinstance(size, int) else family.native_resolutions[prediction.name]


def _prediction(pipeline: Pipeline) -> Prediction:
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    names = {"epsilon": "epsilon", "v_prediction": "v"}
    if kind not in names:
        raise ModelError(f"the model predicts {kind!r}; PALP trains models that predict epsilon or v_prediction.")
    return PREDICTIONS[names[kind]]
