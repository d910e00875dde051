"""Embedding files: ours, which other tools read, and theirs, which we read; nothing unsafe, nothing overwritten."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.faults.seams import no_space
from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, TextualInversion, TextualInversionConfig, load_embedding, save_word
from palp_core.errors import FileError
from palp_core.files import writing
from palp_core.files.embedding_file import fitting_vectors, save_embedding
from palp_core.files.safetensors_file import first_writable_folder, reserve
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

CONFIG = TextualInversionConfig(steps=2, resolution=64, learning_rate=1e-2, vectors=2, seed=7)
ROWS = torch.arange(64.0).reshape(2, 32)
WORD = {"clip_l": ROWS}
PARTS = {"clip_l": ("tokenizer", "text_encoder"), "clip_h": ("tokenizer", "text_encoder")}
PARTS["clip_g"] = ("tokenizer_2", "text_encoder_2")


def describe(name: str) -> dict[str, str]:
    return {"name": name}


def trained(family, folder, steps=2) -> TextualInversion:
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    backbone = DiffusersBackbone(tiny_pipeline(family, folder, prediction), device="cpu")
    run = Training(TextualInversion(backbone, Concept(pictures((64, 64)), "c"), CONFIG))
    iterator = run.steps()
    for _ in range(steps):
        next(iterator)
    iterator.close()
    return run


# --- what we save ---


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_is_read_is_what_was_learned(family, tmp_path):
    run = trained(family, tmp_path)
    path = save_word(run, tmp_path, "cat")
    assert path == tmp_path / "cat.safetensors"
    assert set(load_file(path)) == ({"clip_l", "clip_g"} if family == "sdxl" else {"emb_params"})
    read = fitting_vectors(load_embedding(path), run.method.backbone)
    assert read.keys() == set(run.method.backbone.family.encoders)
    assert all(torch.equal(rows, run.result.vectors[encoder]) for encoder, rows in read.items())


def test_the_file_describes_itself(tmp_path):
    with safe_open(save_word(trained("sd1", tmp_path), tmp_path, "cat"), "pt") as file:
        fields = file.metadata()
    info = json.loads(fields["palp_embedding"])
    assert (info["family"], info["initial_word"], info["kind"], info["vectors"]) == ("sd1", "c", "object", 2)
    assert info["steps"] == 2 and info["settings"]["seed"] == 7
    assert fields["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert fields["modelspec.trigger_phrase"] == "cat"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_loads_the_word(family, tmp_path):
    run = trained(family, tmp_path)
    path = save_word(run, tmp_path, "cat")
    backbone, pipeline = run.method.backbone, run.method.backbone.pipeline
    with torch.no_grad():
        expected = backbone.encode_prompt("a photo of [W]", {"[W]": run.result.vectors})
        if family == "sd1":
            pipeline.load_textual_inversion(path, token="<cat>")
        else:
            tensors = load_file(path)
            for key, (tokenizer, encoder) in ((key, PARTS[key]) for key in tensors):
                parts = {"tokenizer": getattr(pipeline, tokenizer), "text_encoder": getattr(pipeline, encoder)}
                pipeline.load_textual_inversion(tensors[key], token="<cat>", **parts)
        prompt = pipeline.maybe_convert_prompt("a photo of <cat>", pipeline.tokenizer)
        found = backbone.encode_prompt(prompt, {})
    torch.testing.assert_close(found.tensors["context"], expected.tensors["context"], rtol=1e-4, atol=1e-5)


def test_a_file_is_never_replaced_unless_it_is_to_be(tmp_path):
    folder = tmp_path / "embeddings"
    first = save_embedding(WORD, describe, folder, "cat")
    content = first.read_bytes()
    second = save_embedding({"clip_l": ROWS + 1}, describe, folder, "cat")
    assert second.name == "cat_2.safetensors" and first.read_bytes() == content
    with pytest.raises(ValueError, match=r"cat.safetensors is in the embeddings folder already"):
        reserve(folder, "cat", overwrite=False)
    reserve(folder, "cat", overwrite=True)
    replaced = save_embedding({"clip_l": ROWS + 2}, describe, folder, "cat", overwrite=True)
    assert replaced == first and torch.equal(load_file(first)["emb_params"], ROWS + 2)
    assert {path.name for path in folder.iterdir()} == {"cat.safetensors", "cat_2.safetensors"}


def test_an_unfinished_run_has_its_steps_in_the_name_and_replaces_nothing(tmp_path):
    run = trained("sd1", tmp_path, steps=1)
    paths = [save_word(run, tmp_path / "out", "cat.safetensors", overwrite=True) for _ in range(2)]
    assert [path.name for path in paths] == ["cat_step1.safetensors", "cat_step1_2.safetensors"]
    for path in paths:
        with safe_open(path, "pt") as file:
            assert file.metadata()["modelspec.trigger_phrase"] == path.stem


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_save_leaves_what_was_there(tmp_path, overwrite):
    first = save_embedding(WORD, describe, tmp_path, "cat")
    content = first.read_bytes()

    with no_space(writing, "in the middle"), pytest.raises(OSError, match="No space left"):
        save_embedding({"clip_l": ROWS + 1}, describe, tmp_path, "cat", overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.safetensors"] and first.read_bytes() == content


@pytest.mark.parametrize(
    "name", ["../cat", "a/b", "a\\b", "/cat", "..", "", ".hidden", "cat.v2", "my cat", "c" * 101, "猫" * 67]
)
def test_names_with_path_parts_are_refused(tmp_path, name):
    with pytest.raises(FileError, match=r"name .* must be a plain name.*embeddings folder"):
        reserve(tmp_path / "embeddings", name, overwrite=True)
    assert list(tmp_path.rglob("*.safetensors*")) == []


def test_the_first_folder_that_can_be_written_is_taken(tmp_path):
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "embeddings"
    assert first_writable_folder([blocked, tmp_path / "new", tmp_path]) == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match="no folder can be written to"):
        first_writable_folder([blocked])


# --- what others save ---


LAYOUTS = {
    "ours and A1111's": ({"emb_params": ROWS}, {"emb_params": ROWS}),
    "A1111's, from an older file": ({"string_to_param.*": ROWS}, {"emb_params": ROWS}),
    "sd-concepts-library": ({"<cat-toy>": ROWS[0]}, {"emb_params": ROWS[:1]}),
    "diffusers, several vectors, half precision": ({"<cat-toy>": ROWS.half()}, {"emb_params": ROWS}),
    "SDXL": ({"clip_g": ROWS * 2, "clip_l": ROWS}, {"clip_l": ROWS, "clip_g": ROWS * 2}),
    "a LoRA with its word": (
        {"lora_unet_x.alpha": torch.ones(()), "bundle_emb.cat_1.string_to_param.*": ROWS},
        {"emb_params": ROWS},
    ),
    "a LoRA with its word for SDXL": (
        {"lora_unet_x.alpha": torch.ones(()), "bundle_emb.cat.clip_l": ROWS, "bundle_emb.cat.clip_g": ROWS * 2},
        {"clip_l": ROWS, "clip_g": ROWS * 2},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_tools_files_are_read(tmp_path, layout):
    tensors, expected = LAYOUTS[layout]
    save_file(tensors, tmp_path / "cat.safetensors")
    found = load_embedding(tmp_path / "cat.safetensors")
    assert found.name == "cat.safetensors" and found.vectors.keys() == expected.keys()
    for key, rows in found.vectors.items():
        assert rows.dtype == torch.float32 and torch.equal(rows, expected[key])


BAD = {
    "a LoRA": ({"lora_unet_x.lora_up.weight": ROWS, "lora_unet_x.lora_down.weight": ROWS + 1}, "is not an embedding"),
    "two words": ({"bundle_emb.cat.clip_l": ROWS, "bundle_emb.dog.clip_l": ROWS + 1}, r"several words \(cat, dog\)"),
    "not finite": ({"emb_params": ROWS * float("nan")}, "values that are not finite"),
    "no vectors": ({"emb_params": ROWS[:0]}, "1 to 64 vectors"),
    "parts of different lengths": ({"clip_l": ROWS, "clip_g": ROWS[:1] + 1}, "different numbers of vectors"),
    "integers": ({"emb_params": ROWS.long()}, "is not an embedding"),
    "an image": ({"image": torch.zeros(3, 8, 8)}, "is not an embedding"),
    "nothing": ({}, "is not an embedding"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_hold_no_word_are_named(tmp_path, case):
    tensors, message = BAD[case]
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=f"bad.safetensors.*{message}"):
        load_embedding(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".PT"])
def test_files_that_can_hold_program_code_are_refused_unread(tmp_path, suffix):
    path = tmp_path / f"cat{suffix}"
    torch.save({"string_to_param": {"*": ROWS}}, path)
    with pytest.raises(ValueError, match=rf"cat{suffix} .* program code.*Save it again as .safetensors"):
        load_embedding(path)


def test_damaged_and_absent_files_are_named(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json}")
    for name in ("damaged", "absent"):
        with pytest.raises(ValueError, match=f"{name}.safetensors cannot be read"):
            load_embedding(tmp_path / f"{name}.safetensors")
