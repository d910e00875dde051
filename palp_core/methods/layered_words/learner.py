"""What P+ and NeTI have in common: a word for each layer learns by the model's own denoising loss, and is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.backbone import Backbone
from ...models.layer_contexts import Reading, layered, read_by_layer, text_layers
from ...models.memory import recomputed_in_backward
from ...models.noise import per_sample
from ...models.sampling import sample, sampling_levels
from ...training.data import Example, draw_batch, encode_examples, stack_batch
from ...training.objective import denoising_loss, draw_noise
from ...training.optimizer_kinds import check_optimizer
from ..concept import Concept, check_sentences, start_vectors
from ..previews import square_latents
from ..templates import SLOT, WORD
from ..word_learner import WordLearner
from .neti import NetiConfig, NetiWord
from .p_plus import PPlusConfig, PPlusWord

#: What each learns, by its settings.
WORDS = {PPlusConfig: PPlusWord, NetiConfig: NetiWord}


class LearnedLayers(NamedTuple):
    """What a training has learned, on the CPU, float32."""

    tensors: dict[str, Tensor]
    steps: int  # optimisation steps behind them


class LayeredWord:
    """P+ or NeTI on a UNet and a concept; its input is checked when it is made.

    Raises PalpError, before any training, that names the argument and the remedy, such as for a transformer.
    """

    def __init__(self, backbone: Backbone, concept: Concept, config: PPlusConfig | NetiConfig):
        self.backbone, self.concept, self.config = backbone, concept, config
        self.resolution = config.resolution_for(backbone)
        self.kind = WORDS[type(config)]
        self.layers = text_layers(backbone.denoiser, self.kind.title)
        check_optimizer(config.optimizer)
        self.initial = start_vectors(backbone, concept, 1, config.seed)
        check_sentences(backbone, concept, self.initial)

    @contextmanager
    def learning(self) -> Iterator[LayeredWordLearner]:
        """Make the model ready and give the learner; at the end the model is as it was found."""
        backbone, images, masks = self.backbone, self.concept.images, self.concept.masks
        examples = encode_examples(backbone, "the concept", images, masks, self.resolution, self.config.flip)
        recomputed = backbone.checkpointed_modules() if self.config.gradient_checkpointing else []
        with (
            backbone.training(learn_words=True),
            recomputed_in_backward(recomputed),
            read_by_layer(list(self.layers.values())),
        ):
            yield LayeredWordLearner(self, examples)


class LayeredWordLearner(WordLearner):
    """The word while it learns: what is read of it in each layer."""

    def __init__(self, method: LayeredWord, examples: list[Example]):
        backbone, concept, config = method.backbone, method.concept, method.config
        self.resolution, self.layers = method.resolution, len(method.layers)
        self.word = method.kind(backbone, method.initial, self.layers, config).to(backbone.device)
        trained = {f"layered.{name}": tensor for name, tensor in self.word.named_parameters()}
        super().__init__(backbone, concept, config, examples, trained, self.word.weight_decay)

    def _pass(self) -> dict[str, Tensor]:
        examples = draw_batch(self.examples, self.config.batch_size, self.random)
        x0, mask, _ = stack_batch(examples, self.backbone.device)
        sigma, noise = draw_noise(self.backbone.levels, x0, self.random)
        photos = self.concept.draw_sentences(examples, self.random)
        told = self.word.encode([photo.prompt.replace(SLOT, WORD) for photo in photos], sigma, self.random)
        conds = [cond.with_size(photo.size) for cond, photo in zip(told, photos, strict=True)]
        denoised = self.backbone.denoise(x0 + per_sample(sigma, x0) * noise, sigma, conds)
        loss = denoising_loss(denoised, x0, self.backbone.prediction.loss_weight(sigma), mask)
        self.optimizer.backward(loss)
        return {"sigma": sigma.mean(), "denoising_loss": loss}

    @torch.no_grad()
    def draw(self, prompt: str, placeholder: str, guidance_scale: float, seed: int, steps: int) -> Tensor:
        """Draw a prompt that names the word by a placeholder, (H, W, 3) in 0..1. steps: of sampling.

        guidance_scale: 0 for the family's own.
        """
        backbone, scale = self.backbone, guidance_scale or self.backbone.family.guidance_scale
        empty = backbone.encode_prompt("", {})
        null = layered([Reading(empty, empty)] * self.layers)
        shape = square_latents(backbone, self.concept.images[0], self.examples[0], self.resolution)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        levels = sampling_levels(backbone.levels, steps)
        with self.optimizer.averaged():
            told = self.word.told(prompt.replace(placeholder, WORD))
            return backbone.decode_latents(sample(backbone, noise, levels, null, told, scale))[0]

    def result(self) -> LearnedLayers:
        with self.optimizer.averaged():
            learned = self.word.state_dict().items()
            return LearnedLayers({name: t.detach().to("cpu", copy=True) for name, t in learned}, self.done)
