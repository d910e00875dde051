"""A finished file that came without the folder of its training is taken, and not trained again."""

from __future__ import annotations

import shutil

import pytest

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Personalization, PersonalizationConfig, Subject, Training, save_run
from palp_core.methods.result import personalization_folder
from palp_core.models.diffusers.backbone import DiffusersBackbone


@pytest.fixture
def training(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path / "model"), "cpu")

    def make(steps: int = 2, seed: int = 0) -> Training:
        config = PersonalizationConfig(steps=steps, seed=seed, resolution=64, rank=2, batch_size=1)
        return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))

    return make


def test_a_file_without_its_folder_is_known_by_itself(training, tmp_path):
    runs, loras = tmp_path / "palp", tmp_path / "loras"

    def found(run: Training, anew: bool = False):
        steps = run.method.config.steps
        return personalization_folder(run.method, runs, "cat", anew, [loras]).result(steps, [loras])

    run = training()
    assert found(run) is None  # neither of them is there
    list(run.steps())
    (loras / "of_others.safetensors").parent.mkdir()
    (loras / "of_others.safetensors").write_bytes(b"no file of tensors")
    path = save_run(run, loras, "cat")
    shutil.rmtree(runs)
    assert found(training()) == path
    assert found(training(), anew=True) is None
    assert found(training(steps=3)) is None and found(training(seed=1)) is None
    damaged = path.read_bytes()
    path.write_bytes(damaged[:-4] + b"\0\0\0\1")
    assert found(training()) is None
