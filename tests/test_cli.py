"""The command `palp` as a user types it, on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from palp_core import cli, load_lora_file
from tiny import pictures, tiny_pipeline

NAME = "my_cat"


@pytest.fixture
def model(tmp_path) -> Path:
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "model", safe_serialization=True)
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures((64, 64), (80, 64))):
        Image.fromarray((picture * 255).byte().numpy()).save(folder / f"{number}.png")
    return folder


def palp(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["palp", *(str(a) for a in arguments)])
    cli.main()


def train_arguments(model: Path, photos: Path, out: Path, **settings) -> list[str]:
    settings = {"steps": 3, "rank": 2, "resolution": 64, "batch-size": 1, "seed": 5, **settings}
    given = ["train", "--model", model, "--images", photos, "--class-word", "cat", "--prompt", "a sketch of [V]"]
    return [*given, "--out", out, "--name", NAME, *(str(x) for k, v in settings.items() for x in (f"--{k}", v))]


def test_train_then_info_then_generate(monkeypatch, capsys, tmp_path, model, photos):
    out = tmp_path / "loras"
    palp(monkeypatch, *train_arguments(model, photos, out, **{"alignment.weight": 0.5}))
    file = out / f"{NAME}_00001.safetensors"
    assert capsys.readouterr().out.strip().endswith(file.name)
    assert {path.name for path in out.iterdir()} == {file.name, f"{NAME}_00001.loss.png"}
    info = load_lora_file(file).info
    assert info.settings["alignment"]["weight"] == 0.5 and info.steps == 3 and info.rank == 2

    palp(monkeypatch, "info", file)
    said = capsys.readouterr().out
    assert "a sketch of [V]" in said and f"embedding:{NAME}_00001" in said and "rank 2" in said
    palp(monkeypatch, "info", file, "--json")
    assert json.loads(capsys.readouterr().out)["seed"] == 5

    drawn = tmp_path / "pictures"
    common = ["generate", file, "--model", model, "--out", drawn, "--size", "64", "--steps", "2", "--count", "2"]
    palp(monkeypatch, *common, "--prompt", "[V] in Rome")
    images = [np.asarray(Image.open(path)) for path in sorted(drawn.iterdir())]
    assert len(images) == 2 and images[0].shape == (64, 64, 3) and not np.array_equal(*images)


def test_ctrl_c_keeps_what_was_learned_and_resume_goes_on(monkeypatch, tmp_path, model, photos):
    out = tmp_path / "loras"
    monkeypatch.setattr(cli, "SAVE_STATE_EVERY", 2)
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "whole", steps=4))

    save = cli.save_unfinished

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "save_unfinished", save_and_stop)
    palp(monkeypatch, *train_arguments(model, photos, out, steps=4))
    assert (out / f"{NAME}_step2_00001.safetensors").exists()
    monkeypatch.setattr(cli, "save_unfinished", save)
    palp(monkeypatch, *train_arguments(model, photos, out, steps=4), "--resume")
    assert not list(out.glob(".*"))
    whole, resumed = (load_lora_file(folder / f"{NAME}_00001.safetensors").lora for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_resume_with_other_photos_is_refused(monkeypatch, tmp_path, model, photos):
    out = tmp_path / "loras"
    monkeypatch.setattr(cli, "SAVE_STATE_EVERY", 1)
    monkeypatch.setattr(cli.Path, "unlink", lambda *_, **__: None)  # as if it had been killed before the end
    palp(monkeypatch, *train_arguments(model, photos, out))
    monkeypatch.undo()
    next(photos.iterdir()).unlink()
    with pytest.raises(SystemExit, match="other photos"):
        palp(monkeypatch, *train_arguments(model, photos, out), "--resume")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model", "nowhere"), "neither a folder"),
        (("--images", "nowhere"), "there is no picture"),
        (("--prompt", "a cat"), "has no placeholder"),
        (("--name", "../cat"), "must be a plain name"),
        (("--resume",), "no unfinished training"),
    ],
)
def test_bad_input_is_one_line_without_a_traceback(monkeypatch, tmp_path, model, photos, change, message):
    with pytest.raises(SystemExit, match=f"palp: .*{message}"):
        palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras"), *change)


def test_help_has_the_settings_of_the_config_with_their_meaning():
    shown = subprocess.run([sys.executable, "-m", "palp_core", "train", "--help"], capture_output=True, text=True)
    said = " ".join(shown.stdout.replace("│", " ").split())
    assert "--alignment.weight" in said and "--max-grad-norm" in said
    assert "Rank of the LoRA; 4 to 64." in said


def test_the_unfinished_state_is_a_safetensors_file(tmp_path, monkeypatch, model, photos):
    seen = []
    save = cli.save_unfinished

    def look(file, *rest):
        save(file, *rest)
        with safe_open(file, "pt") as opened:
            seen.append((opened.metadata()["identity"], "steps" in opened.keys()))

    monkeypatch.setattr(cli, "SAVE_STATE_EVERY", 1)
    monkeypatch.setattr(cli, "save_unfinished", look)
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras"))
    assert len(seen) == 3 and len(set(seen)) == 1 and seen[0][1]
