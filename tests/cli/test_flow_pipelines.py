"""The command `palp` on pipelines with transformers: trained, told of and drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools.random_flow_models import PIPELINES, tiny_flow_pipeline
from devtools.random_models import pictures, tiny_pipeline
from palp_core.cli import main as cli
from palp_core.files.lora_file import load_lora_file
from palp_core.models.families import FLUX, KLEIN, QWEN_IMAGE, Z_IMAGE

NAME = "my_cat"
FILE = f"{NAME}_00001.safetensors"
DRAW = ("--size", "64", "--steps", "2", "--count", "1")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray((pictures((64, 64))[0] * 255).byte().numpy()).save(folder / "cat.png")
    return folder


def palp(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["palp", *map(str, arguments)])
    cli.main()


def saved(family: str, tmp_path: Path) -> Path:
    folder = tmp_path / family
    tiny_flow_pipeline(family, tmp_path / "made").save_pretrained(folder)
    return folder


def train(monkeypatch, model: Path, photos: Path, out: Path, *more: object) -> Path:
    told = ("--class-word", "cat", "--target-prompt", "a sketch of [V]", "--out", out, "--file-name", NAME)
    sizes = ("--steps", 1, "--rank", 2, "--resolution", 64, "--batch-size", 1, "--learning-rate", 0.1)
    palp(monkeypatch, "train", "--model", model, "--images", photos, *told, *sizes, *more)
    return out / FILE


@pytest.mark.parametrize("family", list(PIPELINES))
def test_train_then_info_then_generate(monkeypatch, capsys, tmp_path, photos, family):
    model = saved(family, tmp_path)
    file = train(monkeypatch, model, photos, tmp_path / "loras", "--trigger", "zwx")
    trained = load_lora_file(file)
    assert trained.info.family == family and trained.info.prediction == "flow" and trained.words == {}
    assert trained.info.prompt == "a sketch of zwx cat"
    capsys.readouterr()
    palp(monkeypatch, "info", file)
    assert "zwx cat" in capsys.readouterr().out

    drawn = tmp_path / "pictures"
    common = ("generate", file, "--model", model, "--out", drawn, *DRAW)
    palp(monkeypatch, *common)
    palp(monkeypatch, *common, "--prompt", "[V] in Rome", "--guidance-scale", 2)
    images = [np.asarray(Image.open(path)) for path in sorted(drawn.iterdir())]
    assert [image.shape for image in images] == [(64, 64, 3)] * 2 and not np.array_equal(*images)


def test_what_a_model_does_not_read_is_said(monkeypatch, tmp_path, photos):
    flux, drawn = saved(FLUX.name, tmp_path), tmp_path / "pictures"
    file = train(monkeypatch, flux, photos, tmp_path / "loras")
    common = ("generate", file, "--out", drawn, *DRAW, "--model")
    with pytest.raises(SystemExit, match=r"palp: negative_prompt is given, but FLUX.1 dev reads none"):
        palp(monkeypatch, *common, flux, "--negative-prompt", "ugly")
    with pytest.raises(SystemExit, match="tokens, but the text encoder keeps 512"):
        palp(monkeypatch, *common, flux, "--prompt", "a [V] " + "and a very long way to go " * 60)
    with pytest.raises(SystemExit, match="the file was made for flux, and the model is z_image"):
        palp(monkeypatch, *common, saved(Z_IMAGE.name, tmp_path))
    tiny_pipeline("sd1", tmp_path / "made").save_pretrained(tmp_path / "sd1")
    with pytest.raises(SystemExit, match="the file was made for flux, and the model is sd1"):
        palp(monkeypatch, *common, tmp_path / "sd1")
    assert not drawn.exists()


def test_a_negative_prompt_is_read_where_there_is_guidance(monkeypatch, tmp_path, photos):
    model = saved(QWEN_IMAGE.name, tmp_path)
    file, drawn = train(monkeypatch, model, photos, tmp_path / "loras"), tmp_path / "pictures"
    for prompt in ("", "a very ugly sketch"):
        palp(monkeypatch, "generate", file, "--model", model, "--out", drawn, *DRAW, "--negative-prompt", prompt)
    images = [np.asarray(Image.open(path)) for path in sorted(drawn.iterdir())]
    assert not np.array_equal(*images)


def test_a_file_is_drawn_on_a_distilled_model_that_cannot_be_trained(monkeypatch, tmp_path, photos):
    file = train(monkeypatch, saved(KLEIN.name, tmp_path), photos, tmp_path / "loras")
    pipeline, distilled = tiny_flow_pipeline(KLEIN.name, tmp_path / "made"), tmp_path / "distilled"
    pipeline.register_to_config(is_distilled=True)
    pipeline.save_pretrained(distilled)
    palp(monkeypatch, "generate", file, "--model", distilled, "--out", tmp_path / "pictures", *DRAW)
    assert len(list((tmp_path / "pictures").iterdir())) == 1
    with pytest.raises(SystemExit, match=r"palp: the model is a FLUX.2 Klein that was distilled"):
        train(monkeypatch, distilled, photos, tmp_path / "more")
