"""The one contract between our algorithms and a diffusion model: `denoise(x, sigma, cond) -> denoised`.

Convention of k-diffusion (arXiv 2206.00364, sec. 2): x = x0 + sigma * eps in latent units, and the model is a function
D(x; sigma, c) that estimates x0. The noise estimate is eps_hat = (x - D) / sigma. Whether the network itself predicts
eps, v or a flow is known only inside a backbone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .families import Family, Targets
from .joint_attention import JointLayout
from .memory import free_memory
from .noise import NoiseLevels, Prediction, per_sample

Precision = Literal["auto", "bf16", "fp16", "fp32"]

#: One learned word: encoder name (clip_l, t5xxl, ...) -> its vectors, (N, C) with N the number of vectors.
WordVectors = Mapping[str, Tensor]
#: Learned words by placeholder, as it stands in a prompt.
LearnedWords = Mapping[str, WordVectors]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders say of one prompt; what it holds is known to the backbone that made it alone."""

    #: Tensors by name, each a batch of one. Their lengths may differ from prompt to prompt.
    tensors: Mapping[str, Tensor]

    def with_size(self, size: Tensor | None) -> Conditioning:
        """Tell what a photo's size was, (1, 6): its height and width, the crop's top and left, and what it became.

        size: None for models that are told no sizes. Without, pictures are told to be as large as what is drawn.
        """
        return self if size is None else Conditioning({**self.tensors, "size": size})

    def at(self, sigma: Tensor) -> Conditioning:
        """Return what is said at a noise level, (1,): at all the same."""
        return self

    def detach(self) -> Conditioning:
        return Conditioning({name: tensor.detach() for name, tensor in self.tensors.items()})


class Denoiser(Protocol):
    """D(x; sigma, c). x: (B, ...) in latent units; sigma: (B,). Returns (B, ...), float32.

    conds: as many prompts as divide the batch; each stands for as many samples in a row.
    """

    def __call__(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor: ...


class Backbone(ABC):
    """A text-to-image latent diffusion model, as personalization sees it."""

    family: Family
    prediction: Prediction
    device: torch.device
    compute_dtype: torch.dtype
    #: Side of the square pictures that the model was trained on, pixels.
    native_resolution: int
    #: The noise levels that the model was trained on.
    levels: NoiseLevels
    #: The network that gets LoRA.
    denoiser: nn.Module
    #: How the network lays picture and prompt into one sequence; None where it has cross-attention.
    joint: JointLayout | None = None
    #: Whether weights that do not fit on the device stay in RAM; None where that is not offered.
    offloading: bool | None = None

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, conds: Sequence[Conditioning]) -> Tensor:
        """Estimate x0, as a `Denoiser` does. Differentiable in x, the adapters and the conditionings."""

    @abstractmethod
    def encode_prompt(self, prompt: str, words: LearnedWords) -> Conditioning:
        """Encode one prompt, a batch of one. Differentiable in the vectors of the words that occur in the prompt.

        CLIP reads a prompt of any length, and ComfyUI's weights, (word:1.2). Raises PromptError when the prompt is
        longer than another text encoder keeps, or names an `embedding:NAME` that is none of the words.
        """

    @abstractmethod
    def token_positions(self, prompt: str, word: str, words: LearnedWords) -> tuple[int, ...]:
        """Find where the tokens of a word, or of a placeholder, stand in the prompt's conditioning; all occurrences.

        Raises PromptError when the prompt does not hold the word.
        """

    @abstractmethod
    def encode_image(self, image: Tensor) -> Tensor:
        """Encode (H, W, 3) in 0..1, sides multiples of the family's; (1, C, ..., h, w), the mean of the posterior."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode (B, C, ..., h, w) to pictures (B, H, W, 3) in 0..1, float32, on the CPU."""

    @abstractmethod
    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """Copy the frozen embedding rows of a word's tokens: encoder name -> (N, C), float32, on the CPU."""

    @abstractmethod
    def token_embeddings(self) -> dict[str, Tensor]:
        """Return the whole table of each text encoder, not to be changed: encoder name -> (vocabulary, C)."""

    @abstractmethod
    def projections(self, targets: Targets = "attention") -> dict[str, tuple[str, ...]]:
        """Name what LoRA is attached to: key without suffix (lora_unet_...) -> modules of the denoiser.

        Several modules are one projection where another program holds them as one: they share `lora_down`, and the
        rows of `lora_up` are theirs one after the other.
        """

    @abstractmethod
    def checkpointed_modules(self) -> list[nn.Module]:
        """List the blocks of the denoiser to recompute in the backward pass when memory is short."""

    @abstractmethod
    def text_encoders(self) -> list[nn.Module]:
        """List the text encoders."""

    @abstractmethod
    def training(self, learn_words: bool) -> AbstractContextManager[None]:
        """Make the model ready for gradients and put all that is not needed out of the way; undo both at the end.

        learn_words: the text encoders are needed in every step.
        """

    @abstractmethod
    def fingerprint(self) -> Iterator[str | Tensor]:
        """Yield texts and small tensors on the CPU that tell this model, its text encoders and VAE from others."""

    def compute_in_bf16(self) -> None:
        """Compute in bf16 from now on. Weights stay as they are."""
        self.compute_dtype = torch.bfloat16

    def free_memory(self) -> float | None:
        """Return what a training may take of the device's memory, GB; None where nothing tells it, as on a CPU."""
        return free_memory(self.device)

    def autocast(self) -> torch.autocast:
        """Mixed precision for the denoiser: adapters and optimizer stay float32, matrix products run in half."""
        half = self.compute_dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.compute_dtype if half else torch.bfloat16, enabled=half)


def some_weights(parameters: Iterable[Tensor]) -> Tensor:
    """Copy a few numbers of each parameter, float32, on the CPU, one behind the other; (N,)."""
    few = [parameter.detach().flatten()[:4].to("cpu").float() for parameter in parameters]
    return torch.cat(few) if few else torch.empty(0)


def predicted_noise(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """Return eps_hat = (x - D)/sigma, (B, ...)."""
    return (x - denoised) / per_sample(sigma, x)


def predict_noise(
    denoise: Denoiser, x: Tensor, sigma: Tensor, prompts: Sequence[Sequence[Conditioning]]
) -> tuple[Tensor, ...]:
    """Return eps_hat = (x - D)/sigma for each of several prompts, in one call of the denoiser; (B, ...) each.

    prompts: each as one conditioning for all samples, or as one for each sample.
    """
    count, most = len(prompts), max(map(len, prompts))
    conds = [cond for prompt in prompts for cond in (prompt if len(prompt) == most else [*prompt] * most)]
    denoised = denoise(x.repeat(count, *[1] * (x.ndim - 1)), sigma.repeat(count), conds)  # (count*B, ...)
    return tuple(predicted_noise(x, part, sigma) for part in denoised.chunk(count))


P = TypeVar("P")


def guided(predict: Callable[..., tuple[Tensor, ...]], null: P, prompt: P, scale: float) -> Tensor:
    """Guide without a classifier: E^a(c) = (1 - a)*E(null) + a*E(c), PALP eq. 4. Returns (B, ...).

    predict: any number of prompts -> a prediction for each. At a = 1 the null prompt is not evaluated.
    """
    if scale == 1:
        return predict(prompt)[0]
    unconditional, conditional = predict(null, prompt)
    return (1 - scale) * unconditional + scale * conditional


def guided_noise(
    denoise: Denoiser, x: Tensor, sigma: Tensor, null: Conditioning, cond: Conditioning, scale: float
) -> Tensor:
    """Return the guided eps_hat of a denoiser, (B, ...)."""
    return guided(lambda *conds: predict_noise(denoise, x, sigma, [[c] for c in conds]), null, cond, scale)
