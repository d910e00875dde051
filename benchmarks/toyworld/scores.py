"""How far the scores that PALP is compared with differ from its own, on one and the same training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from palp_core.alignment import (
    NFSD_SMALL_NOISE,
    AlignmentConfig,
    AlignmentPrompts,
    NoisySample,
    SubjectPrompts,
    predict_noise,
    score_difference,
)
from palp_core.backbone import Backbone
from palp_core.personalization import Personalization
from palp_core.toyworld.figures import mean_and_error
from palp_core.toyworld.world import PAPERS_ALIGNMENT, World, load_world, new_individual, personalization

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
        individuals = torch.stack([cosines(world, n, self) for n in range(len(INDIVIDUALS["test"]))])
        print("| noise level |", " | ".join(OTHERS), "|")
        print("|---" * (1 + len(OTHERS)) + "|")
        for level, by_score in zip(LEVELS, individuals.unbind(1), strict=True):
            shown = ["{:.3f} ± {:.3f}".format(*mean_and_error(values)) for values in by_score.unbind(1)]
            print(f"| {level:.0%} |", " | ".join(shown), "|")


def cosines(world: World, number: int, settings: Scores) -> Tensor:
    """Of one test individual, mean over its training, (levels, other scores)."""
    class_word, individual = INDIVIDUALS["test"][number]
    prompt = target(class_word, PROMPTS["test"][0]).prompt("a [V]")
    who = new_individual(individual, class_word)
    run = personalization(world, who, prompt, settings.steps, 0, PAPERS_ALIGNMENT)
    return torch.stack(list(compared(world, run, settings))).mean(dim=0)


def compared(world: World, run: Personalization, settings: Scores) -> Iterator[Tensor]:
    """(levels, other scores) every so many steps."""
    for step in run.steps():
        if (step.index + 1) % settings.every == 0:
            random = torch.Generator().manual_seed(step.index)
            yield torch.stack([at_level(world, run, level, settings.noises, random) for level in LEVELS])


@torch.no_grad()
def at_level(world: World, run: Personalization, level: float, noises: int, random: torch.Generator) -> Tensor:
    """Cosine of each other score's Delta with that of the paper's, mean over noises, (other scores,)."""
    backbone = world.backbone
    subject = run.subjects["[V]"]
    photo = SubjectPrompts(backbone.encode_prompt(subject.personalization_prompt, run.snapshot().words))
    null = backbone.encode_prompt("", {})
    prompts = AlignmentPrompts(null, backbone.encode_prompt(run.clean_prompt, {}), negative=null)
    x0 = backbone.encode_image(subject.images[0]).expand(noises, -1, -1, -1)
    same, fresh = (torch.randn(x0.shape, generator=random).to(x0) for _ in range(2))
    sample = noisy(backbone, x0, same, level, photo)

    def delta(config: AlignmentConfig) -> Tensor:
        """(noises, CHW)."""
        noise = fresh if config.noise == "fresh" else same
        small_noise = sigma_at(backbone, NFSD_SMALL_NOISE)
        untouched = run.untouched()
        return score_difference(
            backbone.denoise, untouched, sample, photo, prompts, noise, small_noise, config
        ).flatten(1)

    paper = delta(PAPERS_ALIGNMENT)
    return torch.stack([cosine_similarity(paper, delta(config)).mean() for config in OTHERS.values()])


def noisy(backbone: Backbone, x0: Tensor, noise: Tensor, level: float, prompts: SubjectPrompts) -> NoisySample:
    """x0, (B, C, H, W), with noise of one level, and what the personalized model says of it."""
    sigma = sigma_at(backbone, level).expand(len(x0))
    x = x0 + sigma.view(-1, 1, 1, 1) * noise
    (prediction,) = predict_noise(backbone.denoise, x, sigma, [prompts.photo])
    return NoisySample(x, noise, sigma, prediction, torch.ones_like(sigma))


def sigma_at(backbone: Backbone, level: float) -> Tensor:
    """At a share of the noise schedule, ()."""
    return backbone.sigmas[int(level * len(backbone.sigmas))].to(backbone.device)
