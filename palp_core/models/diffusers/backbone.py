"""Pipelines of the diffusers library as a Backbone, for use without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..backbone import DTYPES, Backbone, Conditioning, LearnedWords, Precision, some_weights
from ..families import Targets
from ..memory import frozen
from .flow import FlowNetwork, architecture_of
from .flow_text import FlowText
from .loading import Pipeline, check_trainable, chosen_device, load_pipeline, pipeline_family
from .placing import placed
from .text import TextEncoders
from .unet import UNet
from .vae import SCALED, decode, encode


class DiffusersBackbone(Backbone):
    """A loaded pipeline. Its modules are trained where they are and put back; the pipeline is never copied.

    device: where to train, by default CUDA if there is one. precision: `auto` computes in the dtype of the denoiser's
    weights. Raises ModelError for a model of which nothing can be learned: one that takes more than latents
    (inpainting), one that is known to be distilled to a few steps, or a precision that its weights lack.
    """

    def __init__(self, pipeline: Pipeline, device: torch.device | str | None = None, precision: Precision = "auto"):
        self.pipeline = pipeline
        self.device = chosen_device(device)
        self.family = pipeline_family(pipeline)
        check_trainable(pipeline)
        architecture = architecture_of(pipeline)
        if architecture is None:
            self.network, self.latents = UNet(pipeline, self.family), SCALED
            self.text = TextEncoders(pipeline, self.family, self.device)
        else:
            self.network, self.latents = FlowNetwork(pipeline, architecture), architecture.latents
            self.text = FlowText(pipeline, architecture, self.device)
        self.denoiser, self.joint = self.network.module, self.network.joint
        self.prediction, self.levels = self.network.prediction, self.network.levels
        self.native_resolution = self.network.native_resolution
        self.compute_dtype = self._chosen_dtype(precision)

    def _chosen_dtype(self, precision: Precision) -> torch.dtype:
        weights = self.network.dtype
        chosen = weights if precision == "auto" else DTYPES[precision]
        if chosen == torch.float32 != weights:
            raise ModelError(f"precision is fp32, but the model's weights are {weights}. Load it in float32.")
        return chosen

    def denoise(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        inputs = self.prediction.network_input(x, sigma)
        with self.autocast():
            output = self.network.predict(inputs, sigma, conds)
        return self.prediction.denoised(x, sigma, output.float())

    def fingerprint(self) -> Iterator[str | Tensor]:
        for name, part in sorted(self.pipeline.components.items()):
            if isinstance(part, nn.Module):
                yield name
                yield some_weights(part.parameters())

    def encode_prompt(self, prompt: str, words: LearnedWords) -> Conditioning:
        return self.text.encode(prompt, words)

    def token_positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        return self.text.positions(prompt, word, words)

    def encode_image(self, image: Tensor) -> Tensor:
        return encode(self.pipeline.vae, image, self.device, self.latents)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return decode(self.pipeline.vae, latents, self.device, self.latents)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        return self.text.vectors(word)

    def token_embeddings(self) -> dict[str, Tensor]:
        return self.text.tables()

    def projections(self, targets: Targets = "attention") -> dict[str, tuple[str, ...]]:
        return self.network.projections(targets)

    def checkpointed_modules(self) -> list[nn.Module]:
        return self.network.checkpointed_modules()

    def text_encoders(self) -> list[nn.Module]:
        return self.text.modules()

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


def load_backbone(model: str | Path, device: torch.device | str | None, precision: Precision) -> DiffusersBackbone:
    """Load a model for training: in the precision's numbers on a GPU, by default bf16, and in fp32 elsewhere."""
    on_gpu = {"auto": torch.bfloat16, **DTYPES}
    dtype = on_gpu[precision] if chosen_device(device).type == "cuda" else torch.float32
    return DiffusersBackbone(load_pipeline(model, dtype), device, precision)
