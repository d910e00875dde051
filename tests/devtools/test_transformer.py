"""The transformer's training in miniature: called as diffusers calls it, resumable, and able to cool down."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from devtools.toyworld import transformer as training
from devtools.toyworld.pictures import draw_some
from devtools.toyworld.training import save_arrays
from devtools.toyworld.transformer_plan import (
    ADAM_BETAS,
    WEIGHT_DECAY,
    MuonAdamW,
    TransformerPlan,
    new_transformer,
    orthogonal,
    shifted,
    spread_levels,
)
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER
from palp_core.toyworld.transformer import SIZES, velocity

TINY = TransformerPlan(pictures=6, held_out=2, batch=2, warmup=1)


def prepared(work: Path) -> Path:
    """Put the plan's pictures into a new work folder."""
    work.mkdir(exist_ok=True)
    save_arrays(work / "pictures.npz", **asdict(draw_some((0, 0), TINY.pictures)))
    return work


def randomized(seed: int = 0):
    """Make a transformer none of whose layers is 0."""
    torch.manual_seed(seed)
    transformer = new_transformer()
    for parameter in transformer.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return transformer


def test_the_velocity_is_what_the_transformers_own_call_gives_negated_at_one_minus_the_level():
    transformer = randomized()
    noisy, levels, context = torch.randn(2, 8, 16, 16), torch.tensor([0.2, 0.9]), torch.randn(2, 32, 128)
    with torch.no_grad():
        own = transformer(list(noisy[:, :, None]), 1 - levels, list(context)).sample
        torch.testing.assert_close(velocity(transformer, noisy, levels, context), -torch.stack(own)[:, :, 0])


def test_a_new_transformer_says_0_and_has_the_width_that_other_implementations_round_to():
    transformer = new_transformer()
    with torch.no_grad():
        assert not velocity(transformer, torch.randn(1, 8, 16, 16), torch.tensor([0.5]), torch.randn(1, 32, 128)).any()
    assert transformer.layers[0].feed_forward.w1.out_features % 256 == 0
    assert transformer.t_embedder.mlp[0].out_features == SIZES["dim"]


def test_levels_are_spread_and_more_of_them_are_high():
    levels = torch.cat([spread_levels(16, torch.Generator().manual_seed(seed)) for seed in range(200)])
    assert 0 < levels.min() < 0.05 and 0.98 < levels.max() < 1
    assert levels.median().item() == pytest.approx(2 / 3, abs=0.02)
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == [0.0, 0.75, 1.0]


def test_orthogonal_brings_singular_values_near_1():
    for shape in ((3, 48, 16), (2, 16, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.max() < 1.1 and values[:, :10].min() > 0.9
    assert not orthogonal(torch.zeros(1, 4, 4)).any()


def test_matrices_of_the_blocks_get_muon_and_all_else_that_is_used_adamw():
    transformer = new_transformer()
    matrices, others = (group["params"] for group in MuonAdamW(transformer).param_groups)
    assert len(matrices) == 7 * (SIZES["n_layers"] + 2 * SIZES["n_refiner_layers"])
    assert len(matrices) + len(others) == len(list(transformer.parameters())) - 2


def test_muon_moves_every_other_step_and_adamw_every_one_as_torchs_does():
    transformer = new_transformer()
    optimizer = MuonAdamW(transformer)
    (matrix, *_), (other, *_) = (group["params"] for group in optimizer.param_groups)
    like = other.detach().clone().requires_grad_()
    torchs = torch.optim.AdamW([like], lr=1e-2, betas=ADAM_BETAS, weight_decay=WEIGHT_DECAY)
    before = matrix.detach().clone()
    for moved in (False, True):
        for parameter in transformer.parameters():
            parameter.grad = torch.randn(parameter.shape)
        like.grad = other.grad.clone()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()
        torchs.step()
        torch.testing.assert_close(other, like)
        assert torch.equal(matrix, before) is not moved


def test_the_teacher_answers_at_the_levels_that_it_knows():
    pipeline, plan = load_pipeline(MODEL_FOLDER), TINY
    lessons = training.Lessons(pipeline, torch.empty(0), None, plan)
    noisy, truth, context = torch.randn(3, 8, 16, 16), torch.randn(3, 8, 16, 16), torch.randn(3, 32, 128)
    levels = torch.tensor([0.01, 0.5, 0.97])
    with torch.no_grad():
        velocities = lessons.taught(noisy, levels, context, truth)
        scaled = noisy[1:2] * 2**0.5  # the UNet's own process has x0*alpha + noise*sigma, both 0.7 at s = 0.5
        timestep = lessons.levels.nearest(torch.ones(1))
        v = pipeline.unet(scaled, timestep, context[1:2]).sample
    assert torch.equal(velocities[[0, 2]], truth[[0, 2]])
    x0, noise = (scaled - v) / 2**0.5, (scaled + v) / 2**0.5
    torch.testing.assert_close(velocities[1:2], noise - x0, atol=1e-4, rtol=1e-4)


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does_and_cools_down_beside_it(tmp_path):
    whole_work, parts_work = prepared(tmp_path / "whole"), prepared(tmp_path / "parts")
    training.train(TINY, whole_work, until=2)
    for until in (1, 2):
        training.train(TINY, parts_work, until)
    whole, parts = (load_file(training.checkpoint_file(work)) for work in (whole_work, parts_work))
    assert whole.keys() == parts.keys() and whole["step"] == 2
    for key in whole:
        assert torch.equal(whole[key], parts[key]), key
    training.train(TINY, whole_work, cooldown=1)
    assert load_file(whole_work / "cooldown_2_1.safetensors")["step"] == 3
    assert load_file(training.checkpoint_file(whole_work))["step"] == 2


def test_what_is_exported_is_the_average_and_draws(tmp_path, capsys, monkeypatch):
    training.train(TINY, prepared(tmp_path), until=1)
    checkpoint, out = training.checkpoint_file(tmp_path), tmp_path / "transformer.safetensors"
    training.export(checkpoint, out)
    exported = load_file(out)
    assert exported.keys() == new_transformer().state_dict().keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, load_file(checkpoint)[f"average.{name}"].half())
    monkeypatch.setattr(training, "DRAWING_STEPS", 1)
    training.draw(checkpoint, tmp_path / "grid.png", [2.0], 1)
    assert "guidance 2.0: style" in capsys.readouterr().out and (tmp_path / "grid.png").exists()
