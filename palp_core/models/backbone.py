"""The one contract between our algorithms and a diffusion model: `denoise(x, sigma, cond) -> denoised`.

Convention of k-diffusion (arXiv 2206.00364, sec. 2): x = x0 + sigma * eps in latent units, and the model is a function
D(x; sigma, c) that estimates x0. The noise estimate is eps_hat = (x - D) / sigma. Whether the network itself predicts
eps or v is known only inside a backbone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Family = Literal["sd1", "sd2", "sdxl"]
Prediction = Literal["epsilon", "v"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]

#: One learned word: encoder name (clip_l, clip_g, clip_h) -> its vectors, (N, C) with N the number of vectors.
WordVectors = Mapping[str, Tensor]
#: Placeholder, as it stands in a prompt -> its learned word.
Placeholders = Mapping[str, WordVectors]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Conditioning(NamedTuple):
    """What the text encoders say of one prompt, or of a batch of prompts."""

    context: Tensor  # (B, T, C)
    pooled: Tensor | None = None  # (B, P); SDXL only

    def expand(self, batch: int) -> Conditioning:
        """The conditioning of one prompt, for `batch` samples; a view."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return Conditioning(self.context.expand(batch, -1, -1), pooled)

    def detach(self) -> Conditioning:
        return Conditioning(self.context.detach(), None if self.pooled is None else self.pooled.detach())


def concatenate(conds: list[Conditioning]) -> Conditioning:
    """Stack along the batch axis, so that several prompts share one call of the denoiser."""
    pooled = None if conds[0].pooled is None else torch.cat([c.pooled for c in conds])
    return Conditioning(torch.cat([c.context for c in conds]), pooled)


class Backbone(ABC):
    """A text-to-image latent diffusion model, as personalization sees it."""

    family: Family
    prediction: Prediction
    device: torch.device
    compute_dtype: torch.dtype
    #: Noise levels the model was trained on, ascending, (N,), in latent units.
    sigmas: Tensor
    #: The network whose attention projections get LoRA.
    denoiser: nn.Module
    #: Names of the text encoders in the order in which their outputs are joined.
    encoders: tuple[str, ...]

    def sigma_at(self, share: float) -> Tensor:
        """The noise level at a share of the schedule, 0 up to but not 1; (), float32."""
        return self.sigmas[int(share * len(self.sigmas))].to(self.device, torch.float32)

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        """Estimate x0. x: (B, C, H, W) in latent units; sigma: (B,); cond: batch B. Returns (B, C, H, W) float32.

        Differentiable in x, the adapters and the conditioning.
        """

    @abstractmethod
    def encode_prompt(self, prompt: str, placeholders: Placeholders) -> Conditioning:
        """Batch of one. Differentiable in the vectors of the placeholders that occur in the prompt.

        Raises ValueError when the prompt is longer than the text encoder keeps.
        """

    @abstractmethod
    def token_positions(self, prompt: str, word: str, placeholders: Placeholders) -> tuple[int, ...]:
        """Where the tokens of a word, or of a placeholder, stand in the prompt's conditioning; all occurrences.

        Raises ValueError when the prompt does not hold the word.
        """

    @abstractmethod
    def encode_image(self, image: Tensor) -> Tensor:
        """(H, W, 3) in 0..1, sides multiples of 64 -> latents (1, C, h, w); deterministic (mean of the posterior)."""

    @abstractmethod
    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """The frozen embedding rows of a word's tokens: encoder name -> (N, C), float32, on the CPU."""

    @abstractmethod
    def token_embeddings(self) -> dict[str, Tensor]:
        """The whole table of each text encoder, not to be changed: encoder name -> (vocabulary, C), in its own type."""

    @abstractmethod
    def kohya_name(self, module_name: str) -> str:
        """A projection's name inside the denoiser -> its LoRA key without suffix (lora_unet_...)."""

    @abstractmethod
    def checkpointed_modules(self) -> list[nn.Module]:
        """Blocks of the denoiser to recompute in the backward pass when memory is short."""

    @abstractmethod
    def training(self, learn_words: bool) -> AbstractContextManager[None]:
        """Make the model ready for gradients and put all that is not needed out of the way; undo both at the end.

        learn_words: the text encoders are needed in every step.
        """

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Weight of (denoised - x0)^2 that makes it the model's own training loss, on eps or on v. (B,) -> (B,)."""
        if self.prediction == "v":
            return (sigma**2 + 1) / sigma**2
        return sigma**-2

    def autocast(self) -> torch.autocast:
        """Mixed precision for the denoiser: adapters and optimizer stay float32, matrix products run in half."""
        half = self.compute_dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.compute_dtype if half else torch.bfloat16, enabled=half)


def nearest_timestep(sigma: Tensor, sigmas: Tensor) -> Tensor:
    """Index of the training noise level nearest in log space. sigma: (B,), sigmas: (N,) ascending -> (B,) int64."""
    return (sigma.log()[:, None] - sigmas.to(sigma).log()[None]).abs().argmin(dim=1)


@contextmanager
def recomputed_in_backward(modules: list[nn.Module]) -> Iterator[None]:
    """Gradient checkpointing for any module tree: each module keeps its inputs only and runs again in the backward."""

    own = [module.__dict__.get("forward") for module in modules]  # another extension's, if there is one

    def wrap(module: nn.Module) -> None:
        forward = module.forward
        module.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    try:
        for module in modules:
            wrap(module)
        yield
    finally:
        restore_forwards(modules, own)


def restore_forwards(modules: list[nn.Module], own: list) -> None:
    """Give each module the `forward` that it had on the instance, or none."""
    for module, forward in zip(modules, own, strict=True):
        module.__dict__.pop("forward", None)
        if forward is not None:
            module.forward = forward


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for a gradient, and dropout is off; flags and modes are put back."""
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(m, m.training) for module in modules for m in module.modules()]
    try:
        for module in modules:
            module.requires_grad_(False).train(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
