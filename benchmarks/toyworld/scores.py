"""How far the scores that PALP is compared with differ from its own, on one and the same training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palp_core.methods.alignment import AlignmentConfig, NoisySample
from palp_core.methods.personalization import Personalization
from palp_core.methods.scores import NFSD_SMALL_NOISE, AlignmentPrompts, SubjectPrompts, score_difference
from palp_core.models.backbone import Backbone, predict_noise
from palp_core.toyworld.scenes import Individual, new_individual
from palp_core.toyworld.world import PAPERS_ALIGNMENT, World, load_world, personalization

from .heatmaps import mean_pm
from .pairs import INDIVIDUALS, PROMPTS, target

#: Shares of the noise schedule at which scores are compared.
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
#: In the place of the paper's, each with what it shares with it.
OTHERS = {
    "SDS": replace(PAPERS_ALIGNMENT, score="sds"),
    "NFSD": replace(PAPERS_ALIGNMENT, score="nfsd", negative_prompt=""),
    "fresh noise": replace(PAPERS_ALIGNMENT, noise="fresh"),
}


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
            shown = [mean_pm(values.tolist()) for values in by_score.unbind(1)]
            print(f"| {level:.0%} |", " | ".join(shown), "|")


def cosines(world: World, individual: Individual, settings: Scores) -> Tensor:
    """Mean over the training on one individual, (levels, other scores)."""
    prompt = target(individual.class_word, PROMPTS["test"][0]).prompt("a [V]")
    run = personalization(world, individual, prompt, settings.steps, 0, PAPERS_ALIGNMENT)
    return torch.stack(list(compared(world.backbone, run, settings))).mean(dim=0)


def compared(backbone: Backbone, run: Personalization, settings: Scores) -> Iterator[Tensor]:
    """(levels, other scores) every so many steps."""
    subject = run.subjects["[V]"]
    with torch.no_grad():
        x0 = backbone.encode_image(subject.images[0]).expand(settings.noises, -1, -1, -1)
        null = backbone.encode_prompt("", {})
        prompts = AlignmentPrompts(null, backbone.encode_prompt(run.clean_prompt, {}), negative=null)
    for step in run.steps():
        if (step.index + 1) % settings.every == 0:
            random = torch.Generator().manual_seed(step.index)
            with torch.no_grad():
                photo = SubjectPrompts(
                    backbone.encode_prompt(subject.personalization_prompt, run.learner.result().words)
                )
                levels = [at_level(backbone, run, x0, level, photo, prompts, random) for level in LEVELS]
            yield torch.stack(levels)


def at_level(
    backbone: Backbone,
    run: Personalization,
    x0: Tensor,
    level: float,
    photo: SubjectPrompts,
    prompts: AlignmentPrompts,
    random: torch.Generator,
) -> Tensor:
    """Cosine of each other score's Delta with that of the paper's, mean over the batch of x0, (other scores,)."""
    same, fresh = (torch.randn(x0.shape, generator=random).to(x0) for _ in range(2))
    sample = noisy(backbone, x0, same, level, photo)
    small_noise = backbone.sigma_at(NFSD_SMALL_NOISE)

    def delta(config: AlignmentConfig) -> Tensor:
        """(B, CHW)."""
        noise = fresh if config.noise == "fresh" else same
        untouched = run.untouched()
        return score_difference(
            backbone.denoise, untouched, sample, photo, prompts, noise, small_noise, config
        ).flatten(1)

    paper = delta(PAPERS_ALIGNMENT)
    return torch.stack([cosine_similarity(paper, delta(config)).mean() for config in OTHERS.values()])


def noisy(backbone: Backbone, x0: Tensor, noise: Tensor, level: float, prompts: SubjectPrompts) -> NoisySample:
    """x0, (B, C, H, W), with noise of one level, and what the personalized model says of it."""
    sigma = backbone.sigma_at(level).expand(len(x0))
    x = x0 + sigma.view(-1, 1, 1, 1) * noise
    (prediction,) = predict_noise(backbone.denoise, x, sigma, [prompts.photo])
    return NoisySample(x, noise, sigma, prediction, torch.ones_like(sigma))
