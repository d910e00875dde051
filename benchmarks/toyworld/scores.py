"""How far the scores that PALP is compared with differ from its own, on one and the same training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palp_core.methods.alignment import AlignmentConfig, NoisySample, renoise
from palp_core.methods.personalization_learner import Weights
from palp_core.methods.scores import PromptName, Views
from palp_core.models.backbone import Backbone, Conditioning, predict_noise
from palp_core.models.noise import per_sample
from palp_core.toyworld.scenes import Individual, new_individual
from palp_core.toyworld.world import PAPERS_ALIGNMENT, World, load_world, personalization
from palp_core.training.loop import Training

from .methods import METHODS
from .pairs import INDIVIDUALS, PROMPTS, target
from .statistics import mean_of_independent

#: Shares of the noise schedule at which scores are compared.
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: In the place of the paper's, each with what it shares with it.
OTHERS = {"SDS": METHODS["sds"], "NFSD": METHODS["nfsd"], "fresh noise": METHODS["fresh_noise"]}


@dataclass(frozen=True)
class Scores:
    """Print the cosine between Delta of the paper's score and that of others, by noise level, while it trains.

    On the test individuals and the first test prompt; mean and standard error over individuals.
    """

    steps: int = 150
    #: Steps between two comparisons.
    every: int = 50
    #: Noises for each photo and level.
    noises: int = 8

    def run(self) -> None:
        world = load_world()
        individuals = torch.stack([cosines(world, new_individual(n, word), self) for word, n in INDIVIDUALS["test"]])
        print("| noise level |", " | ".join(OTHERS), "|")
        print("|---" * (1 + len(OTHERS)) + "|")
        for level, by_score in zip(LEVELS, individuals.unbind(1), strict=True):
            shown = [mean_of_independent(values.tolist()) for values in by_score.unbind(1)]
            print(f"| {level:.0%} |", " | ".join(shown), "|")


def cosines(world: World, individual: Individual, settings: Scores) -> Tensor:
    """Average over the training on one individual, (levels, other scores)."""
    prompt = target(individual.class_word, PROMPTS["test"][0]).prompt("a [V]")
    run = personalization(world, individual, prompt, settings.steps, 0, PAPERS_ALIGNMENT)
    return torch.stack(list(compared(run, settings))).mean(dim=0)


def compared(run: Training[Weights], settings: Scores) -> Iterator[Tensor]:
    """Train, and yield (levels, other scores) every so many steps."""
    method, encode = run.method, run.method.backbone.encode_prompt
    subject = method.subjects["[V]"]
    with torch.no_grad():
        x0 = method.backbone.encode_image(subject.images[0]).expand(settings.noises, -1, -1, -1)
        null, clean = encode("", {}), encode(method.clean_prompt, {})
    for step in run.steps():
        if (step.index + 1) % settings.every == 0:
            random = torch.Generator().manual_seed(step.index)
            with torch.no_grad():
                photo = encode(subject.personalization_prompt, run.learner.result().words)
                prompts = {"null": [null], "clean": [clean], "negative": [null], "photo": [photo]}
                levels = [at_level(run, x0, level, prompts, random) for level in LEVELS]
            yield torch.stack(levels)


def at_level(
    run: Training[Weights],
    x0: Tensor,
    level: float,
    prompts: dict[PromptName, list[Conditioning]],
    random: torch.Generator,
) -> Tensor:
    """Take the cosine of each other score's Delta with the paper's, mean over the batch of x0; (other scores,)."""
    backbone = run.method.backbone
    same, fresh = (torch.randn(x0.shape, generator=random).to(x0) for _ in range(2))
    sample = noisy(backbone, x0, same, level, prompts["photo"])

    def delta(config: AlignmentConfig) -> Tensor:
        """(B, CHW)."""
        noise = fresh if config.noise == "fresh" else same
        renoised, base_model = renoise(sample, noise), run.learner.lora.disabled
        views = Views(backbone.denoise, base_model, renoised, noise, sample.sigma, prompts, backbone.levels)
        return config.score.difference(views).flatten(1)

    paper = delta(PAPERS_ALIGNMENT)
    return torch.stack([cosine_similarity(paper, delta(config)).mean() for config in OTHERS.values()])


def noisy(backbone: Backbone, x0: Tensor, noise: Tensor, level: float, photo: list[Conditioning]) -> NoisySample:
    """Noise x0, (B, C, H, W), to one level, and ask the personalized model about it."""
    sigma = backbone.levels.at(level).expand(len(x0))
    x = x0 + per_sample(sigma, x0) * noise
    (prediction,) = predict_noise(backbone.denoise, x, sigma, [photo])
    return NoisySample(x, noise, sigma, prediction, torch.ones_like(sigma))
