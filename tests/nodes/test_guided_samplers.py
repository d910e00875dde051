"""Pick-and-Draw moves every sampler of the host alike: its step on an analytic denoiser, and where that leads."""

from __future__ import annotations

import pytest
import torch

from devtools import host_models
from devtools.random_models import tiny_pipeline

pytestmark = pytest.mark.host

SHAPE = (1, 4, 8, 8)
#: Of a short sampling and of a longer one, whose steps lead down less far.
STEPS = (12, 30)
#: What draws random numbers while it samples; the same seed does not give the same numbers for other latents.
RANDOM = ("ancestral", "sde", "ddpm", "lcm", "sa_solver", "seeds")


@pytest.fixture(scope="module")
def parts(host, comfyui_path, tmp_path_factory):
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    pipeline = tiny_pipeline("sd1", tmp_path_factory.mktemp("tiny"), make_tokenizer=make_tokenizer)
    return host_models.host_parts(pipeline, "sd1")


class Constant:
    """Stands for the guidance: a step of .02 of the latents' deviation, always along the same direction."""

    history, warning = ("",), ""

    def __init__(self, direction: torch.Tensor):
        self.direction = direction

    def covers(self, sigma: float) -> bool:
        return sigma > 1.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x + 0.02 * (1 + sigma**2).sqrt().view(-1, 1, 1, 1) * self.direction


def gaussian(x: torch.Tensor, sigma: torch.Tensor, **_kwargs) -> torch.Tensor:
    """D for data of mean .5 and deviation .7."""
    square = (sigma**2).view(-1, 1, 1, 1)
    return (square * 0.5 + 0.49 * x) / (square + 0.49)


def shift(parts, sampler: str, steps: int, monkeypatch) -> float:
    """How far the guided sample lies from the unguided one, along the guidance's direction."""
    import comfy.sample
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.nodes.host.guided_sampling import GuidanceSource, GuidedSampling, guided_model
    from palp_pack.palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig

    model, clip, vae = parts
    direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(GuidedSampling, "_prepare", lambda self, guider: Constant(direction))
    monkeypatch.setattr(model.model, "apply_model", gaussian)
    source = GuidanceSource(
        ComfyBackbone(model, clip, vae), None, None, None, torch.zeros(SHAPE), None, PickAndDrawConfig(), None
    )
    samples = []
    with torch.inference_mode():
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("a cat"))
        for patched in (model, guided_model(source, [])):
            latents, noise = torch.zeros(SHAPE), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
            torch.manual_seed(0)
            samples.append(
                comfy.sample.sample(
                    patched, noise, steps, 1.0, sampler, "normal", positive, positive, latents, seed=3
                ).clone()
            )
    moved = model.model.process_latent_in(samples[1]) - model.model.process_latent_in(samples[0])
    assert torch.isfinite(moved).all()
    return ((moved * direction).sum() / direction.square().sum()).item()


def is_random(sampler: str) -> bool:
    return any(part in sampler for part in RANDOM)


def test_every_sampler_moves_as_eulers_method_does(parts, monkeypatch):
    """Some hand the model a copy of their latents, some look twice in a step: none may lose the step or turn it."""
    import comfy.samplers

    def shares(names: list[str], steps: int) -> dict[str, float]:
        eulers = shift(parts, "euler", steps, monkeypatch)
        assert eulers > 0.01
        return {name: round(shift(parts, name, steps, monkeypatch) / eulers, 2) for name in names}

    names = comfy.samplers.SAMPLER_NAMES
    assert min(shares([name for name in names if is_random(name)], STEPS[0]).values()) > 0
    for steps in STEPS:
        moved = shares([name for name in names if not is_random(name)], steps)
        assert not {name: share for name, share in moved.items() if not 0.5 < share < 2}


def test_only_the_samplers_own_functions_see_the_empty_prompts_prediction_moved(host):
    from palp_pack.nodes.host.guided_sampling import POST_CFG, with_moved_uncond

    seen = []
    options = {POST_CFG: [lambda args: seen.append(args["uncond_denoised"])] * 2, "other": 1}
    moved = with_moved_uncond(options, 1, torch.tensor(10.0))  # the first is another node's
    for function in moved[POST_CFG]:
        function({"uncond_denoised": torch.tensor(1.0)})
    assert seen == [1.0, 11.0] and moved["other"] == 1 and len(options[POST_CFG]) == 2


def test_a_level_between_two_belongs_to_the_step_from_the_higher_one(host):
    from palp_pack.nodes.host.guided_sampling import next_ratio

    levels = [10.0, 4.0, 1.0, 0.0]
    assert [next_ratio(levels, level) for level in (10.0, 7.0, 4.0, 1.0)] == [0.4, 0.4, 0.25, 0.0]
    assert next_ratio([1.0, 0.9999, 0.5], 1.0) < 1
    assert [next_ratio([0.0, 1.0, 4.0], level) for level in (0.0, 1.0, 4.0)] == [0.0] * 3  # flipped by a node
