"""Rivals: what a step minimizes is the formula of their authors, and all else is plain training's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from benchmarks.toyworld.methods import METHODS
from benchmarks.toyworld.rivals import Dco, Preservation, TLora, rival_training
from benchmarks.toyworld.rivals.direction import OnSphere
from benchmarks.toyworld.rivals.t_lora import components
from benchmarks.toyworld.rivals.training import Sample
from benchmarks.toyworld.rows import read_rows
from benchmarks.toyworld.run import Run
from benchmarks.toyworld.twin import twin_world
from palp_core.methods.alignment import AlignmentConfig
from palp_core.models.noise import per_sample
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import load_world, personalization

STEPS = 2


@pytest.fixture(scope="module")
def world():
    return load_world("cpu")


def plain(world):
    prompt = "a sketch of a [V] on the beach"
    return personalization(world, new_individual(11, "cat"), prompt, STEPS, 0, AlignmentConfig(weight=0))


def learned(run) -> torch.Tensor:
    for _ in run.steps():
        pass
    words = [v.flatten() for word in run.result.words.values() for v in word.values()]
    return torch.cat([*(tensor.flatten() for tensor in run.result.lora.values()), *words])


@pytest.fixture
def looked_at(world):
    """A noisy latent and what the UNet itself says of it: v, and v of the base model, for each prompt."""
    random = torch.Generator().manual_seed(0)
    backbone, unet = world.backbone, world.backbone.pipeline.unet
    timesteps = torch.tensor([100, 700])
    sigma = backbone.levels.sigmas[timesteps]
    x0, noise = (torch.randn(2, 8, 16, 16, generator=random) for _ in range(2))
    prompts = {"photo": "a photo of a cat", "class_photo": "a photo of a mug", "null": ""}
    with torch.no_grad():
        conds = {name: [backbone.encode_prompt(text, {})] for name, text in prompts.items()}
    bias = unet.conv_out.bias.detach().clone()

    class Base:
        """The base model is the model with another bias of the last layer."""

        def __enter__(self):
            unet.conv_out.bias.data = bias + 0.3

        def __exit__(self, *_):
            unet.conv_out.bias.data = bias

    x = x0 + per_sample(sigma, x0) * noise
    sample = Sample(backbone, Base, x0, x, sigma, **conds)
    scheduler = world.backbone.pipeline.scheduler
    noisy = scheduler.add_noise(x0, noise, timesteps)

    def v(prompt: str, base: bool = False) -> torch.Tensor:
        said = unet(noisy, timesteps, conds[prompt][0].tensors["context"].expand(2, -1, -1)).sample
        return said + 0.3 if base else said

    with torch.no_grad():
        yield sample, v, scheduler.get_velocity(x0, noise, timesteps)


@pytest.mark.parametrize("prompt", ["class_photo", "null"])
def test_preservation_holds_another_prompts_prediction_beside_the_photos_loss(looked_at, prompt):
    sample, v, wanted = looked_at
    expected = F.mse_loss(v("photo"), wanted) + 0.7 * F.mse_loss(v(prompt), v(prompt, base=True))
    assert Preservation(prompt, 0.7).loss(sample).item() == pytest.approx(expected.item(), rel=1e-4)


def test_dco_compares_the_photos_loss_with_the_base_models(looked_at):
    sample, v, wanted = looked_at
    apart = F.mse_loss(v("photo"), wanted) - F.mse_loss(v("class_photo", base=True), wanted)
    expected = -torch.log(torch.sigmoid(-20 * apart))
    assert Dco(beta=20).loss(sample).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_rival_of_no_weight_is_plain_training(world):
    """It sees the same photos, noise and words in the same order."""
    assert torch.equal(learned(rival_training(plain(world).method, Preservation("null", 0.0))), learned(plain(world)))


def test_fewer_components_work_at_high_noise():
    works = components(torch.tensor([0.0, 0.5, 0.999]), rank=8, least=2)
    assert works.sum(dim=1).tolist() == [8, 5, 2] and works[2].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_t_lora_begins_as_the_base_model_and_ends_as_it_was_found(world):
    backbone = world.backbone
    with torch.no_grad():
        cond = [backbone.encode_prompt("a cat", {})]
    x, sigma = torch.ones(2, 8, 16, 16), backbone.levels.sigmas[torch.tensor([10, 990])]

    def drawn() -> torch.Tensor:
        with torch.no_grad():
            return backbone.denoise(x, sigma, cond)

    before, run = drawn(), rival_training(plain(world).method, TLora(least=0.25))
    with run.method.learning() as learner:
        start = drawn()
        assert torch.allclose(start, before, atol=1e-4)
        layers = [layer for parts in learner.learner.lora.layers.values() for layer in parts]
        with torch.no_grad():
            for layer in layers:
                layer.lora_B["palp"].weight[:, 4:] += 0.05  # a quarter of 16 works at any noise
        changed = (drawn() - start).abs().amax(dim=(1, 2, 3))
        assert changed[0] > 1e-3 and changed[1] == 0
        with learner.learner.lora.disabled():
            assert torch.equal(drawn(), before)
        learner.step()
    assert torch.equal(drawn(), before) and "denoise" not in vars(backbone)


def test_rivals_are_methods_of_the_benchmark_also_on_the_twin_that_predicts_noise(tmp_path, run, small):
    weights, rows = tmp_path / "unet.safetensors", tmp_path / "rows.jsonl"
    save_file(load_world("cpu").backbone.pipeline.unet.half().state_dict(), weights)
    assert twin_world(weights).backbone.prediction.name == "epsilon"
    rivals = ["output_preservation", "blank_preservation", "dco", "t_lora"]
    on_twin = ["--unet", weights, "--guidance", 5, "--results", rows]
    run("run", "--methods", *rivals, "--seeds", 0, "--steps", 1, "--pictures", 2, *on_twin)
    found = read_rows(rows)
    assert [(row["method"], row["step"]) for row in found] == [(name, 1) for name in rivals]
    assert all(row["seconds"] > 0 and 0 <= row["text_alignment"] <= 1 for row in found)
    with pytest.raises(SystemExit, match="give --results"):
        run("run", "--methods", "dco", "--unet", weights)


def test_the_papers_scales_follow_the_guidance_of_the_model():
    cells = Run(methods=("palp", "sds", "delta"), seeds=(0,), prompts=1, individuals=1, guidance=7.0).cells()
    palp, sds, delta = (cell.method for cell in cells)
    assert (palp.score.alpha, palp.score.beta, sds.score.alpha) == (14, 7, 14) and delta == METHODS["delta"]


def test_the_direction_of_a_word_is_learned_and_its_length_stays():
    """Each row turns by the rate along the sphere, down the gradient, and towards where it started with the prior."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(2, 5, generator=random) * 3
    word, pulled = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = OnSphere([{"params": [word], "lr": 0.01}], kappa=0.0)
    word.grad = torch.randn(2, 5, generator=random)
    optimizer.step()
    lengths = [rows.detach().norm(dim=-1) for rows in (start, word)]
    assert torch.allclose(*lengths)
    directions = [rows.detach() / n[:, None] for rows, n in zip((start, word), lengths, strict=True)]
    assert torch.allclose((directions[0] * directions[1]).sum(-1).acos().tan(), torch.tensor(0.01), rtol=0.01)
    downhill = -word.grad + (word.grad * directions[0]).sum(-1, keepdim=True) * directions[0]
    assert torch.cosine_similarity(directions[1] - directions[0], downhill, dim=-1).min() > 0.999

    optimizer = OnSphere([{"params": [pulled], "lr": 0.01}], kappa=1.0)
    pulled.data = word.detach().clone()
    pulled.grad = torch.zeros_like(pulled)
    optimizer.step()
    assert torch.allclose(pulled.detach(), start, atol=1e-3)
