"""CLIP and DINOv2 from folders: what they encode is what transformers says, and what is not one is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.random_judges import CLIP_PIXELS, DINO_PIXELS, SIDE, save_tiny_clip, save_tiny_dino
from palp_core.errors import ModelError
from palp_core.evaluation.pretrained import load_clip, load_dino

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder and model of each."""
    folder = tmp_path_factory.mktemp("judges")
    return {
        name: (folder / name, save(folder / name))
        for name, save in (("clip", save_tiny_clip), ("dino", save_tiny_dino))
    }


def pixels(pictures: list, processing: dict) -> torch.Tensor:
    """What a model sees of pictures that have its size already."""
    mean, std = (torch.tensor(processing[name]) for name in ("image_mean", "image_std"))
    return ((torch.stack(pictures) - mean) / std).movedim(-1, 1)


def in_8_bits(*size: int) -> torch.Tensor:
    return torch.randint(256, size, generator=torch.Generator().manual_seed(0)) / 255


def test_clip_encodes_as_its_model_does(saved):
    folder, model = saved["clip"]
    judge = load_clip(folder, CPU)
    pictures = list(in_8_bits(2, SIDE, SIDE, 3))
    with torch.no_grad():
        image = model(pixel_values=pixels(pictures, CLIP_PIXELS), **judge.tokenizer("a cat", return_tensors="pt"))
    # its own embeddings have length 1
    found = torch.nn.functional.normalize(judge.encode_pictures(pictures), dim=-1)
    torch.testing.assert_close(found, image.image_embeds, atol=1e-4, rtol=1e-3)
    texts = torch.nn.functional.normalize(judge.encode_texts(["a cat", "a longer text"]), dim=-1)
    torch.testing.assert_close(texts[:1], image.text_embeds, atol=1e-4, rtol=1e-3)


def test_dino_encodes_as_its_model_does(saved):
    folder, model = saved["dino"]
    pictures = list(in_8_bits(2, SIDE, SIDE, 3))
    with torch.no_grad():
        expected = model(pixel_values=pixels(pictures, DINO_PIXELS)).pooler_output
    found = load_dino(folder, CPU).encode_pictures(pictures)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_pictures_may_have_any_sizes(saved):
    pictures = [in_8_bits(40, 60, 3), in_8_bits(SIDE, SIDE, 3)]
    assert load_clip(saved["clip"][0], CPU).encode_pictures(pictures).shape == (2, 8)
    assert load_dino(saved["dino"][0], CPU).encode_pictures(pictures).shape == (2, 16)


def test_a_prompt_that_is_cut_is_told(saved, caplog):
    judge = load_clip(saved["clip"][0], CPU)
    judge.encode_texts(["a cat " * 100])
    assert "CLIP reads 154 of the 402 tokens of the prompt" in caplog.text


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("embeddings.cls_token")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def of_another_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_beside_others(folder):
    pickled(folder)
    save_file({"a": torch.ones(1)}, folder / "adapter.safetensors")


def cut_off(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no folder"),
        (without_a_weight, "lacks weights, such as embeddings.cls_token"),
        (of_another_kind, "holds a model of type 'clip', and not DINOv2"),
        (pickled, r"holds no \*\.safetensors"),
        (pickled_beside_others, "cannot be loaded as DINOv2"),
        (cut_off, "cannot be loaded as DINOv2"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "holds no preprocessor_config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "has a config.json without a model_type"),
    ],
)
def test_what_is_no_dino_is_refused_with_the_command_that_gets_one(saved, tmp_path, damage, message):
    folder = tmp_path / "dino"
    shutil.copytree(saved["dino"][0], folder)
    damage(folder)
    with pytest.raises(ModelError, match=rf"--dino \S+dino {message}.*hf download facebook/dinov2-base") as raised:
        load_dino(folder, CPU)
    assert "\n" not in str(raised.value)
