"""The PALP gradient against autograd through the written formula, its sign, and a step's calls of the denoiser."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject, load_lora_file, save_run
from palp_core.errors import SettingError
from palp_core.methods.alignment import NoisySample, alignment_loss, renoise
from palp_core.methods.scores import Delta, Nfsd, Palp, Sds, Views
from palp_core.models.backbone import Conditioning
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.lora import attached_lora
from palp_core.models.noise import NoiseLevels
from palp_core.training.loop import Training

SIGMA = torch.tensor([0.2, 1.5, 9.0])


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


@pytest.fixture
def v_backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd2", tmp_path, prediction="v_prediction"), device="cpu")


@torch.no_grad()
def difference(score, denoise, base_model, sample, noise, levels=None, **prompts):
    """Delta of a score for prompts by their names."""
    x_hat = renoise(sample, noise)
    prompts = {name: [cond] for name, cond in prompts.items()}
    return score.difference(Views(denoise, base_model, x_hat, noise, sample.sigma, prompts, levels, sample.region))


def noise_of(backbone, x, sigma, cond, scale=1.0, null=None):
    """eps_hat with guidance, one sample and one prompt at a time: the formula, not our batching."""
    rows = []
    for i in range(len(x)):
        estimates = []
        for c in [cond] if scale == 1.0 else [null, cond]:
            denoised = backbone.denoise(x[i : i + 1], sigma[i : i + 1], [c])
            estimates.append((x[i : i + 1] - denoised) / sigma[i])
        rows.append(estimates[0] if scale == 1.0 else (1 - scale) * estimates[0] + scale * estimates[1])
    return torch.cat(rows)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("beta", [7.5, 1.0])
def test_gradient_is_that_of_the_written_formula(backbone, rescale, beta):
    config = AlignmentConfig(0.7, Palp(15.0, beta), rescale=rescale)
    null, clean, personal = (backbone.encode_prompt(p, {}) for p in ("", "a sketch of a cat", "a photo of a cat"))
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    column = SIGMA.view(-1, 1, 1, 1)
    x = x0 + column * noise
    with attached_lora(backbone, rank=4, seed=0) as lora:
        for parameter in lora.parameters():  # away from zero, so that the two models differ
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        prediction = (x - backbone.denoise(x, SIGMA, [personal])) / column
        sample = NoisySample(x, noise, SIGMA, prediction, weight=backbone.prediction.loss_weight(SIGMA) * SIGMA**2)
        named = {"null": null, "clean": clean, "photo": personal}
        delta = difference(config.score, backbone.denoise, lora.disabled, sample, noise, **named)
        ours = torch.autograd.grad(alignment_loss(delta, sample, config), lora.parameters(), retain_graph=True)

        x0_hat = x - column * noise_of(backbone, x, SIGMA, personal)
        with torch.no_grad():
            x_hat = x0_hat + column * noise
            with lora.disabled():
                aligned = noise_of(backbone, x_hat, SIGMA, clean, 15.0, null)
            expected = aligned - noise_of(backbone, x_hat, SIGMA, personal, beta, null)
        # The loss of which the paper states the gradient: d/d x0_hat = weight * Delta, over sigma where rescaled.
        direction = 0.7 * expected / (column if rescale else 1.0) / x.numel()
        theirs = torch.autograd.grad(x0_hat, lora.parameters(), direction)
    torch.testing.assert_close(delta, expected, rtol=1e-3, atol=1e-4)
    assert max(g.norm() for g in ours) > 0
    for mine, written in zip(ours, theirs, strict=True):
        assert (mine - written).norm() < 1e-3 * written.norm()


def test_delta_is_what_the_prompt_changes_in_either_model(backbone):
    """Inside the region (1 + push)*(E_pre(y_c) - E_pre(c_P)) - (E_theta(y) - E_theta(y_P)), at the re-noised estimate
    under y; outside, where the photo's surroundings are, without what was learned of them."""
    region = torch.zeros(3, 1, 8, 8)
    region[:, :, :5] = 1
    texts = ("a sketch of a dog", "a photo of a dog", "a sketch of a cat", "a photo of a cat")
    clean, neutral, target, personal = (backbone.encode_prompt(text, {}) for text in texts)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    column = SIGMA.view(-1, 1, 1, 1)
    x = x0 + column * noise
    with attached_lora(backbone, rank=4, seed=0) as lora, torch.no_grad():
        for parameter in lora.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        prediction = noise_of(backbone, x, SIGMA, target)
        sample = NoisySample(x, noise, SIGMA, prediction, weight=torch.ones(3), region=region)
        named = {"clean": clean, "class_photo": neutral, "target": target, "photo": personal}
        delta = difference(Delta(0.5), backbone.denoise, lora.disabled, sample, noise, **named)
        x_hat = x - column * prediction + column * noise
        with lora.disabled():
            clean_noise, neutral_noise = (noise_of(backbone, x_hat, SIGMA, cond) for cond in (clean, neutral))
        target_noise, personal_noise = (noise_of(backbone, x_hat, SIGMA, cond) for cond in (target, personal))
    inside = 1.5 * (clean_noise - neutral_noise) - (target_noise - personal_noise)
    outside = (clean_noise - target_noise) + 0.5 * (clean_noise - neutral_noise)
    expected = torch.where(region > 0, inside, outside)
    torch.testing.assert_close(delta, expected, rtol=1e-3, atol=1e-4)


def test_delta_trains_the_prediction_of_the_target_prompt(backbone):
    """The paper's is taken under the neutral prompt alone, and reaches the word through that."""
    changed = {}
    for score in (Palp(2, 1), Delta(1)):
        alignment = AlignmentConfig(10, score)
        config = PersonalizationConfig(steps=1, resolution=64, rank=2, learning_rate=1e-3, alignment=alignment)
        run = Training(
            Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V] in snow", config)
        )
        encode, graded = backbone.encode_prompt, []

        def recorded(prompt, words, encode=encode, graded=graded):
            cond = encode(prompt, words)
            if cond.tensors["context"].requires_grad:
                cond.tensors["context"].register_hook(lambda gradient: graded.append(prompt))
            return cond

        backbone.encode_prompt = recorded
        list(run.steps())
        backbone.encode_prompt = encode
        changed[score.name] = set(graded)
    assert changed["palp"] == {"a photo of [V]"}
    assert changed["delta"] == {"a photo of [V]", "a sketch of [V] in snow"}


def test_a_model_of_v_is_moved_by_the_same_formula_in_its_own_prediction(v_backbone):
    """In v, the paper's gradient of eps_hat is that of v_hat, and the step does not fade at large noise."""
    backbone, config = v_backbone, AlignmentConfig(0.7, Palp(15.0, 1.0))
    null, clean, personal = (backbone.encode_prompt(p, {}) for p in ("", "a sketch of a cat", "a photo of a cat"))
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    signal, spread = 1 / (1 + SIGMA**2).sqrt(), SIGMA / (1 + SIGMA**2).sqrt()  # of latents at unit variance

    def v_of(denoised, eps):
        return signal.view(-1, 1, 1, 1) * eps - spread.view(-1, 1, 1, 1) * denoised

    column = SIGMA.view(-1, 1, 1, 1)
    x = x0 + column * noise
    with attached_lora(backbone, rank=4, seed=0) as lora:
        for parameter in lora.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        denoised = backbone.denoise(x, SIGMA, [personal])
        e = (x - denoised) / column
        sample = NoisySample(x, noise, SIGMA, e, weight=backbone.prediction.loss_weight(SIGMA) * SIGMA**2)
        named = {"null": null, "clean": clean, "photo": personal}
        delta = difference(config.score, backbone.denoise, lora.disabled, sample, noise, **named)
        ours = torch.autograd.grad(alignment_loss(delta, sample, config), lora.parameters(), retain_graph=True)
        # A difference of eps_hat as one of v_hat, at the same x: D = x - sigma*eps_hat.
        v_delta = v_of(-column * delta, delta)
        theirs = torch.autograd.grad(v_of(denoised, e), lora.parameters(), -0.7 * v_delta / x.numel())
    for mine, written in zip(ours, theirs, strict=True):
        assert (mine - written).norm() < 1e-3 * written.norm()


def gaussian(mean):
    """The exact denoiser of data that are N(mean, 1): an oracle without a network."""

    def denoise(x, sigma, cond):
        variance = sigma.view(-1, 1, 1, 1) ** 2
        return (x + variance * mean) / (1 + variance)

    return denoise


@pytest.mark.parametrize(
    "score", [Palp(1, 1), Sds(1), Nfsd(1)]
)  # delta says nothing of a difference that all prompts share
def test_a_step_on_the_alignment_alone_moves_the_estimate_towards_the_prompt(score):
    """The pre-trained model knows data around 0; the personalized one thinks they are around 3."""
    learned = torch.tensor(3.0, requires_grad=True)
    untouched = torch.zeros(())
    active = {"mean": learned}

    class Pretrained(nullcontext):
        def __enter__(self):
            active["mean"] = untouched

        def __exit__(self, *args):
            active["mean"] = learned

    def denoise(x, sigma, conds):
        added = torch.stack([cond.tensors["shift"] for cond in conds])  # by the prompt: 0 for the null prompt
        shift = added.repeat_interleave(len(x) // len(conds)).view(-1, 1, 1, 1)
        return gaussian(active["mean"] + shift)(x, sigma, conds)

    cond = Conditioning({"shift": torch.tensor(0.0)})
    prompts = {"null": cond, "clean": cond, "photo": cond, "negative": Conditioning({"shift": torch.tensor(5.0)})}
    config = AlignmentConfig(1.0, score)
    levels = NoiseLevels(torch.full((10,), 2.0))  # above the sample's: nfsd takes its form for small noise
    generator = torch.Generator().manual_seed(0)
    distances = []
    for _ in range(30):
        noise = torch.randn(64, 1, 2, 2, generator=generator)
        sigma = torch.full((64,), 1.0)
        x = 3.0 + noise
        sample = NoisySample(x, noise, sigma, prediction=(x - denoise(x, sigma, [cond])) / 1.0, weight=torch.ones(64))
        delta = difference(score, denoise, Pretrained, sample, noise, levels, **prompts)
        (gradient,) = torch.autograd.grad(alignment_loss(delta, sample, config), [learned])
        with torch.no_grad():
            learned -= 0.5 * gradient
        distances.append((learned.item(), delta.square().mean().item()))
    assert distances[-1][0] < 2.5, "the estimate must come nearer to what the pre-trained model expects"
    if score.name == "palp":
        assert distances[-1][1] < 0.5 * distances[0][1], "Delta must shrink"


def prepared(backbone, alignment: AlignmentConfig, **settings) -> Training:
    config = PersonalizationConfig(resolution=64, rank=2, alignment=alignment, **settings)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))


def calls_of_steps(backbone, alignment: AlignmentConfig, steps: int) -> list[list[tuple[int, bool]]]:
    """The denoiser's calls in each step of batch 3, by batch size and whether they carry gradients."""
    calls = []
    denoise = backbone.denoise

    def counted(x, sigma, cond):
        calls[-1].append((len(x), torch.is_grad_enabled()))
        return denoise(x, sigma, cond)

    run = prepared(backbone, alignment, steps=steps, batch_size=3)
    with run.method.learning() as learner:  # which looks for the subject first
        backbone.denoise = counted
        for _ in range(steps):
            calls.append([])
            learner.step()
    return calls


TRAINED, LOOKED_AT, TWICE = (3, True), (3, False), (6, False)
DELTA = [TRAINED, TRAINED, TWICE, TWICE]


@pytest.mark.parametrize(
    ("alignment", "calls"),
    [
        (AlignmentConfig(weight=0), [[TRAINED]]),
        (AlignmentConfig(score=Palp(15, 7.5)), [[TRAINED, TWICE, TWICE]]),
        (AlignmentConfig(score=Palp(7.5, 1)), [[TRAINED, TWICE, LOOKED_AT]]),
        (AlignmentConfig(score=Palp(1, 1)), [[TRAINED, LOOKED_AT, LOOKED_AT]]),
        (AlignmentConfig(score=Sds()), [[TRAINED, TWICE]]),
        (AlignmentConfig(score=Nfsd()), [[TRAINED, (9, False)]]),
        (AlignmentConfig(score=Delta(interval=1)), [DELTA, [LOOKED_AT, TRAINED, *DELTA], DELTA]),
        (AlignmentConfig(score=Delta(interval=1, null_prior=0)), [DELTA, DELTA]),
        (AlignmentConfig(score=Delta(interval=2)), [DELTA, [TRAINED], DELTA, [LOOKED_AT, TRAINED, TRAINED]]),
        (AlignmentConfig(score=Delta(interval=3, null_prior=0)), [DELTA, [TRAINED], [TRAINED], DELTA]),
    ],
)
def test_a_step_calls_the_denoiser_no_more_than_the_arithmetic_needs(backbone, alignment, calls):
    assert calls_of_steps(backbone, alignment, len(calls)) == calls


def test_one_step_in_three_counts_three_times(backbone):
    """So that the weight means the same at any interval."""
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = NoisySample(x, x, SIGMA, x, weight=torch.ones(3))
    once, thrice = (alignment_loss(x, sample, AlignmentConfig(0.7, Delta(interval=n))) for n in (1, 3))
    torch.testing.assert_close(thrice, 3 * once)


def test_every_step_learns_the_photo_and_every_other_keeps_the_prompt(backbone):
    """What a step does not measure is not in its losses."""
    steps = list(prepared(backbone, AlignmentConfig(score=Delta(interval=2, null_prior=0)), steps=4).steps())
    assert [list(step.losses) for step in steps] == 2 * [["denoising_loss", "score_gap"], ["denoising_loss"]]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"noise": "none"}, "noise"),
        ({"weight": -1.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
    ],
)
def test_bad_settings_are_named(wrong, named):
    with pytest.raises(SettingError, match=named):
        AlignmentConfig(**wrong)


def test_bad_scales_are_named():
    with pytest.raises(SettingError, match=r"alpha is 0\.5; it must be 1 to 100"):
        Palp(alpha=0.5)
    with pytest.raises(SettingError, match=r"push is -1; it must be 0 to 10"):
        Delta(push=-1)
    with pytest.raises(SettingError, match="beta is inf"):
        Palp(beta=float("inf"))


@dataclass(frozen=True)
class Halfway:
    """A score of one's own: part of the way from what the base model says of nothing to the prompt."""

    name = "halfway"
    trains = "target"
    prompts = frozenset({"null", "clean", "target"})
    needs_region = True
    pull: float = 0.5
    interval: int = 1
    null_prior: float = 0.0

    def difference(self, views):
        null, clean = views.base("null", "clean")
        (target,) = views.personalized("target")
        return views.region * (torch.lerp(null, clean, self.pull) - target)


def test_a_new_score_is_one_class(backbone, tmp_path):
    """It trains, is shown by its gap, and its settings are in the file, with no other line of code."""
    config = PersonalizationConfig(steps=2, resolution=64, rank=2, alignment=AlignmentConfig(1.0, Halfway(pull=0.25)))
    run = Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))
    assert all(step.losses["score_gap"] > 0 for step in run.steps())
    saved = load_lora_file(save_run(run, tmp_path, "halfway"))
    assert saved.info.settings["alignment"]["score"] == {
        "name": "halfway",
        "pull": 0.25,
        "interval": 1,
        "null_prior": 0.0,
    }
