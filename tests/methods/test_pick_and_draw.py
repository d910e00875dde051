"""Pick-and-Draw on tiny models: the losses against oracles, and the guidance in a sampler's loop."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from devtools.random_models import tiny_pipeline
from palp_core.methods.pick_and_draw import guidance as pick_and_draw
from palp_core.methods.pick_and_draw.guidance import LONGEST_STEP, PickAndDraw, PickAndDrawConfig, descended
from palp_core.methods.pick_and_draw.losses import (
    BLUR,
    PALETTE_SIZE,
    draw_loss,
    reference_palette,
    reference_region,
    relaxed_emd,
    smoothed,
    subject_places,
)
from palp_core.methods.pick_and_draw.reference import ReferenceTrajectory
from palp_core.models.attention import (
    REGION_LEVEL,
    LayerAttention,
    PromptedDenoiser,
    prompted,
    recorded_attention,
    word_maps,
)
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.noise import NoiseLevels

PROMPT = "a sketch of a cat"


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def backbone(request, tmp_path_factory):
    return DiffusersBackbone(tiny_pipeline(request.param, tmp_path_factory.mktemp("tiny")), device="cpu")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path_factory.mktemp("tiny")), device="cpu")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guidance(backbone, latents=None, mask=None, reference=None, template="a sketch of a dog", **config) -> PickAndDraw:
    latents = random(1, 4, 8, 8, seed=9) if latents is None else latents
    return PickAndDraw(
        prompted(backbone, PROMPT, "cat"),
        reference or prompted(backbone, "a cat", "cat"),
        None if template is None else prompted(backbone, template, "dog"),
        latents,
        backbone.levels,
        PickAndDrawConfig(**{"draw_weight": 1.0, **config}),
        mask,
    )


def counted(denoiser: PromptedDenoiser) -> tuple[PromptedDenoiser, list[float]]:
    """The denoiser, and the levels at which it has been called."""
    levels: list[float] = []

    def denoise(x, sigma):
        levels.append(sigma[0].item())
        return denoiser.denoise(x, sigma)

    return denoiser._replace(denoise=denoise), levels


def sample(denoise, cond, x: torch.Tensor, sigmas: list[float], guide: PickAndDraw | None = None) -> torch.Tensor:
    """Euler's method, as k-diffusion has it."""
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        levels = torch.full((len(x),), sigma)
        with torch.no_grad():
            x = guide(x, levels) if guide else x
            denoised = denoise(x, levels, [cond])
        x = x + (x - denoised) / sigma * (following - sigma)
    return x


LEVELS = [10.0, 4.0, 1.5, 0.5]


def test_relaxed_emd_is_the_written_out_loop():
    features, palette, weights = (
        random(2, 5, 3),
        random(7, 3, seed=1),
        torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]),
    )
    wanted = []
    for row, inside in zip(features, weights, strict=True):
        nearest = []
        for feature, kept in zip(row, inside, strict=True):
            if kept:
                distances = [1 - (feature @ p / (feature.norm() * p.norm())).item() for p in palette]
                nearest.append(min(distances))
        wanted.append(sum(nearest) / len(nearest))
    assert relaxed_emd(features, palette, weights).tolist() == pytest.approx(wanted, abs=1e-6)


def test_relaxed_emd_is_a_lower_bound_of_the_exact_one():
    for seed in range(5):
        features, palette = random(1, 12, 4, seed=seed), random(12, 4, seed=seed + 50)
        cost = 1 - torch.nn.functional.cosine_similarity(features[0, :, None], palette[None], dim=-1)
        rows, columns = linear_sum_assignment(cost.numpy())
        exact = cost[rows, columns].mean().item()
        assert relaxed_emd(features, palette, torch.ones(1, 12)).item() <= exact + 1e-6
    shuffled = features[0, torch.randperm(12)]  # the same features: both are zero
    assert relaxed_emd(features, shuffled, torch.ones(1, 12)).item() == pytest.approx(0, abs=1e-6)


def test_smoothing_is_a_gaussian():
    dot = torch.zeros(1, 5, 5)
    dot[0, 2, 2] = 1
    blurred = smoothed(dot)
    assert blurred.sum().item() == pytest.approx(1)
    assert (blurred[0, 2, 3] / blurred[0, 2, 2]).item() == pytest.approx(math.exp(-1 / (2 * BLUR**2)))
    torch.testing.assert_close(smoothed(torch.ones(1, 1, 4)), torch.ones(1, 1, 4))


def test_draw_loss_sees_where_attention_lies_not_how_much_there_is():
    maps = torch.rand(2, 4, 6) + 0.1
    assert draw_loss({"a": maps}, {"a": maps * 3}).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert (draw_loss({"a": maps}, {"a": maps.flip(-1)}) > 0.01).all()
    zero = maps.clone().requires_grad_()
    draw_loss({"a": zero}, {"a": maps}).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_a_step_is_the_written_formula_and_bounded():
    x, gradient, sigma = random(2, 4, 8, 8), random(2, 4, 8, 8, seed=1), torch.tensor([3.0, 3.0])
    torch.testing.assert_close(descended(x, sigma, gradient, 1e-3), x - 1e-3 * (1 + 9) * gradient)
    far = descended(x, sigma, gradient, 1e3)
    moved = (far - x).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(moved, torch.full((2,), LONGEST_STEP * 10**0.5))


def test_the_range_of_levels():
    sigmas = torch.linspace(0.1, 10, 101)
    assert NoiseLevels(sigmas).span(0, 1) == (0.0, math.inf)
    low, high = NoiseLevels(sigmas).span(0.25, 0.5)
    assert (low, high) == (pytest.approx(sigmas[50].item()), pytest.approx(sigmas[75].item()))


@pytest.mark.parametrize("weights", [{"draw_weight": 0.0}, {"pick_weight": 0.0}], ids=["pick", "draw"])
def test_losses_fall_over_the_iterations(backbone, weights):
    guide = guidance(backbone, iterations=8, step_size=0.05, end_percent=1.0, **weights)
    x = random(2, 4, 8, 8) * 4
    moved = guide(x, torch.tensor([4.0, 4.0]))
    assert not torch.equal(moved, x) and moved.shape == x.shape and not moved.requires_grad
    values = [step.pick + step.draw for step in guide.history]
    assert len(values) == 8 and values[-1] < 0.99 * values[0]


def test_drawing_moves_the_map_towards_a_template_that_lies_elsewhere(sd1):
    """The template is another picture's attention, mirrored: a layout that the latents do not have."""
    guide = guidance(sd1, pick_weight=0.0, iterations=12, step_size=0.1, end_percent=1.0)
    x, sigma = random(1, 4, 8, 8), torch.tensor([2.0])

    def maps_of(latents):
        with torch.no_grad(), recorded_attention(sd1.denoiser, guide.generation.tokens) as layers:
            guide.generation.denoise(latents, sigma)
        return word_maps(layers)

    templates = {name: m.flip(-1) for name, m in maps_of(x).items()}
    guide._template_maps = lambda *_: templates
    before, after = (draw_loss(maps_of(latents), templates).item() for latents in (x, guide(x, sigma)))
    assert after < 0.9 * before


def test_no_weight_is_no_guidance(backbone):
    cond = backbone.encode_prompt(PROMPT, {})
    start = random(1, 4, 8, 8) * 10
    plain = sample(backbone.denoise, cond, start.clone(), LEVELS)
    for off in (
        {"pick_weight": 0.0, "draw_weight": 0.0},
        {"step_size": 0.0},
        {"start_percent": 0.5, "end_percent": 0.5},
        {"pick_weight": 0.0, "template": None},
    ):
        guide = guidance(backbone, **off)
        guide.generation, calls = counted(guide.generation)
        guide.reference, more = counted(guide.reference)
        assert torch.equal(sample(backbone.denoise, cond, start.clone(), LEVELS, guide), plain)
        assert calls == more == []


def test_only_the_first_part_of_the_schedule_is_guided(backbone):
    guide = guidance(backbone, start_percent=0.1, end_percent=0.6)
    guide.generation, calls = counted(guide.generation)
    low, high = backbone.levels.span(0.1, 0.6)
    cond = backbone.encode_prompt(PROMPT, {})
    levels = [14.0, 4.0, 1.5, 0.5, 0.05]
    guided_picture = sample(backbone.denoise, cond, random(1, 4, 8, 8) * 14, levels, guide)
    plain = sample(backbone.denoise, cond, random(1, 4, 8, 8) * 14, levels)
    assert calls == pytest.approx([level for level in levels if low < level <= high]) and 0 < len(calls) < 5
    assert not torch.equal(guided_picture, plain) and torch.isfinite(guided_picture).all()


def test_pictures_of_a_batch_are_guided_each_by_itself(backbone):
    x = random(2, 4, 8, 12) * 2
    together = guidance(backbone, end_percent=1.0)(x, torch.tensor([2.0, 2.0]))
    alone = [guidance(backbone, end_percent=1.0)(part, torch.tensor([2.0])) for part in x.split(1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 16), (9, 7)], ids=str)
def test_any_size_of_picture_and_reference(backbone, size):
    guide = guidance(backbone, latents=random(1, 4, 12, 8, seed=3), end_percent=1.0)
    x = random(1, 4, *size)
    moved = guide(x, torch.tensor([2.0]))
    assert moved.shape == x.shape and not torch.equal(moved, x)


@pytest.mark.parametrize("reference", ["noise", "inversion"])
def test_the_reference_is_computed_once_per_level(sd1, reference):
    denoiser, levels = counted(prompted(sd1, "a cat", "cat"))
    config = PickAndDrawConfig(reference=reference, iterations=3, end_percent=1.0)
    generation, latents = prompted(sd1, PROMPT, "cat"), random(1, 4, 8, 8, seed=9)
    guide = PickAndDraw(generation, denoiser, None, latents, sd1.levels, config)
    for level in (4.0, 2.0, 4.0, 2.0):
        guide(random(1, 4, 8, 8), torch.tensor([level]))
    assert len(levels) == len(set(levels))
    if reference == "noise":
        assert levels == [region_level(sd1), 4.0, 2.0]


def test_no_more_levels_are_kept_than_samplers_come_back_to(sd1):
    denoiser, levels = counted(prompted(sd1, "a cat", "cat"))
    guide = PickAndDraw(
        prompted(sd1, PROMPT, "cat"),
        denoiser,
        None,
        random(1, 4, 8, 8, seed=9),
        sd1.levels,
        PickAndDrawConfig(end_percent=1.0),
    )
    for level in (8.0, 4.0, 2.0, 4.0, 8.0):
        guide(random(1, 4, 8, 8), torch.tensor([level]))
    assert levels == [region_level(sd1), 8.0, 4.0, 2.0, 8.0]


def test_inversion_is_the_way_that_sampling_goes_back(sd1):
    """From the inverted noise, Euler's method over the same levels returns about where it came from."""
    denoiser = prompted(sd1, "a cat", "cat")
    latents = random(1, 4, 8, 8, seed=9)
    way = ReferenceTrajectory(denoiser.denoise, latents, sd1.levels, reference="inversion")
    top = 2.0
    x = noisy = way.at(torch.tensor([top]))
    levels = [level for level in way._levels if level < top]
    for sigma, following in zip([top, *reversed(levels)], [*reversed(levels), 0.0], strict=True):
        x = x + (x - denoiser.denoise(x, torch.tensor([sigma]))) / sigma * (following - sigma)
    assert (x - latents).norm() < 0.5 * (noisy - latents).norm()
    between = way.at(torch.tensor([levels[-1]]))
    assert torch.equal(between, way._inverted[len(levels) - 1][0])


def region_level(backbone) -> float:
    return backbone.levels.at(REGION_LEVEL).item()


def test_the_noised_reference_has_the_same_noise_at_every_level(sd1):
    latents = random(1, 4, 8, 8, seed=9)
    way = ReferenceTrajectory(None, latents, sd1.levels, seed=5)
    low, high = (way.at(torch.tensor([s])) - latents for s in (1.0, 3.0))
    torch.testing.assert_close(high, 3 * low)
    assert 0.8 < low.std() < 1.2


def test_a_mask_says_where_the_palette_comes_from(sd1):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1
    guide = guidance(sd1, mask=mask)
    with torch.no_grad(), recorded_attention(sd1.denoiser, (1,), keep_features=lambda _: True) as layers:
        guide.reference.denoise(random(1, 4, 8, 8), torch.tensor([2.0]))
    palette = reference_palette(layers, mask)
    for name, layer in layers.items():
        height, width = layer.maps.shape[-2:]
        inside = layer.features.unflatten(1, (height, width))[0, : height // 2, : width // 2].flatten(0, 1)
        assert torch.equal(palette[name], inside)


def test_where_the_subject_is_does_not_depend_on_the_level_that_is_guided(sd1):
    first, second = (guidance(sd1, end_percent=1.0) for _ in range(2))
    for guide, levels in ((first, (5.0, 2.0)), (second, (2.0, 5.0))):
        for level in levels:
            guide.palette(torch.tensor([level]))
    assert torch.equal(first._region, second._region) and 0 < first._region.mean() < 1


def test_only_the_subjects_place_moves_and_the_one_that_the_template_has_for_it():
    def map_with_peak(at: int) -> torch.Tensor:
        heat = torch.full((1, 1, 4, 4), 0.1)
        heat.view(-1)[at] = 0.9
        return heat

    layers = {
        "up_blocks.0": LayerAttention(map_with_peak(5), None),
        "down_blocks.0": LayerAttention(map_with_peak(0), None),  # coarser in meaning: only the way up says where
    }
    alone = subject_places(layers, {}, (4, 4), threshold=0.5)
    assert alone.shape == (1, 1, 4, 4) and alone.flatten().nonzero().flatten().tolist() == [5]
    template = {"up_blocks.0": map_with_peak(10)[:, 0], "down_blocks.0": map_with_peak(3)[:, 0]}
    both = subject_places(layers, template, (4, 4), threshold=0.5)
    assert both.flatten().nonzero().flatten().tolist() == [5, 10]


@pytest.mark.parametrize("weights", [{"draw_weight": 0.0}, {"pick_weight": 0.0}, {}], ids=["pick", "draw", "both"])
def test_the_surroundings_stay_as_they_are(sd1, weights):
    x = random(1, 4, 8, 8) * 2
    moved = guidance(sd1, end_percent=1.0, **weights)(x, torch.tensor([2.0])) != x
    places = moved.any(dim=1)
    assert 0 < places.float().mean() < 1 and torch.equal(moved, places[:, None].expand_as(moved))


def test_a_large_palette_is_thinned_out(sd1):
    denoiser = prompted(sd1, "a cat", "cat")
    with torch.no_grad(), recorded_attention(sd1.denoiser, (1,), keep_features=lambda _: True) as layers:
        denoiser.denoise(random(1, 4, 48, 48), torch.tensor([2.0]))
    sizes = {len(features) for features in reference_palette(layers, torch.ones(1, 1, 48, 48)).values()}
    assert max(sizes) == PALETTE_SIZE


def test_a_word_that_attends_nowhere_asks_for_a_mask(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    for name, module in backbone.denoiser.named_modules():
        if name.endswith("attn2.to_q"):
            module.weight.data.zero_()  # every place attends to every token alike
    x, sigma = random(1, 4, 8, 8), torch.tensor([2.0])
    with pytest.raises(ValueError, match=r"attends nowhere in the reference picture.*Connect a mask"):
        guidance(backbone, end_percent=1.0)(x, sigma)
    guidance(backbone, end_percent=1.0, mask=torch.ones(1, 1, 8, 8))(x, sigma)


@pytest.mark.parametrize(("coldest", "warned"), [(0.7, True), (0.1, False)])
def test_a_word_that_attends_almost_evenly_is_warned_of(sd1, monkeypatch, caplog, coldest, warned):
    maps = torch.linspace(coldest, 1.0, 16).view(1, 1, 4, 4)
    region, contrast = reference_region({"up_blocks.0": LayerAttention(maps, None)}, 0.4)
    assert region.shape == (1, 1, 4, 4) and region.sum() == 9 and contrast == pytest.approx(1 - coldest)
    monkeypatch.setattr(pick_and_draw, "reference_region", lambda *_: (region, contrast))
    guide = guidance(sd1, end_percent=1.0)
    guide(random(1, 4, 8, 8), torch.tensor([2.0]))
    assert ("Connect a mask" in guide.warning) == ("hardly anywhere" in caplog.text) == warned


def test_hooks_are_gone_after_an_error(backbone):
    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.denoiser.modules())

    def fail(x, sigma):
        backbone.denoise(x, sigma, [backbone.encode_prompt(PROMPT, {})])
        raise RuntimeError("no memory left")

    before = hooks()
    guide = guidance(backbone, end_percent=1.0)
    for part in ("generation", "reference", "template"):
        broken = guidance(backbone, end_percent=1.0)
        setattr(broken, part, getattr(guide, part)._replace(denoise=fail))
        with pytest.raises(RuntimeError, match="no memory left"):
            broken(random(1, 4, 8, 8), torch.tensor([2.0]))
        assert hooks() == before


def test_a_gradient_that_overflows_is_an_error(sd1):
    guide = guidance(sd1, end_percent=1.0, mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"not finite.*bf16"):
        guide(torch.full((1, 4, 8, 8), torch.nan), torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pick_weight": -1.0}, "pick_weight is -1.0"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"iterations": 0}, "iterations is 0"),
        ({"start_percent": 0.6, "end_percent": 0.5}, "start_percent is 0.6 and end_percent 0.5"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"reference": "null-text"}, "reference is 'null-text'"),
    ],
)
def test_settings_are_checked(config, message):
    with pytest.raises(ValueError, match=message):
        PickAndDrawConfig(**config)
