"""One validator for every reader: what cannot be used is refused by the file's name, not passed on to the model."""

from __future__ import annotations

import json
import os
import re
import sys
from multiprocessing import get_context

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.random_files import PROJECTIONS, RANK, random_lora_file, random_word_file, rewrite
from palp_core import load_embedding, load_lora_file
from palp_core.errors import FileError

DOWN, UP, ALPHA = (f"{PROJECTIONS[0]}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))
WORD = "bundle_emb.cat_00001.string_to_param.*"


def changed(key: str, change):
    def put(tensors, metadata) -> None:
        tensors[key] = change(tensors[key])

    return put


def without(key: str):
    return lambda tensors, metadata: tensors.pop(key)


def with_one(value: float):
    def put(tensor):
        tensor.view(-1)[3] = value
        return tensor

    return put


BAD_LORA = {
    "one NaN in down": (changed(DOWN, with_one(float("nan"))), f"{DOWN} holds .*not finite"),
    "one infinite value in up": (changed(UP, with_one(float("inf"))), f"{UP} holds .*not finite"),
    "more than fp32 holds": (changed(UP, lambda t: t.double() * 1e300), f"{UP} holds .*not finite"),
    "NaN in the word": (changed(WORD, with_one(float("nan"))), "not finite"),
    "down transposed": (changed(DOWN, lambda t: t.T.contiguous()), rf"{PROJECTIONS[0]}.*rank"),
    "down of another rank": (changed(DOWN, lambda t: t[:2]), rf"{PROJECTIONS[0]}.*rank"),
    "up transposed": (changed(UP, lambda t: t.T.contiguous()), rf"{PROJECTIONS[0]}.*rank"),
    "down as a row": (changed(DOWN, lambda t: t.reshape(-1)), rf"{PROJECTIONS[0]}.*rank"),
    "down of a larger convolution": (
        changed(DOWN, lambda t: t[..., None, None].repeat(1, 1, 3, 3)),
        f"{PROJECTIONS[0]}.*rank",
    ),
    "a convolution": (changed(DOWN, lambda t: t[..., None, None]), rf"{PROJECTIONS[0]}.*rank"),
    "no inputs": (changed(DOWN, lambda t: t[:, :0]), rf"{PROJECTIONS[0]}.*rank"),
    "integers": (changed(DOWN, lambda t: t.long()), f"{DOWN} .*floating"),
    "down missing": (without(DOWN), f"lacks {DOWN}"),
    "up missing": (without(UP), f"lacks {UP}"),
    "alpha missing": (without(ALPHA), f"lacks {ALPHA}"),
    "alpha NaN": (changed(ALPHA, lambda t: t * float("nan")), f"{ALPHA} .*not finite"),
    "alpha 1e4": (changed(ALPHA, lambda t: t.float() * 0 + 1e4), f"{ALPHA} is 10000"),
    "alpha 0": (changed(ALPHA, lambda t: t * 0), f"{ALPHA} is 0"),
    "alpha below 0": (changed(ALPHA, lambda t: -t), f"{ALPHA} is -4"),
    "alpha as a row": (changed(ALPHA, lambda t: t.repeat(3)), f"{ALPHA}, which is to be one number"),
    "a foreign part": (lambda t, m: t.update({f"{PROJECTIONS[0]}.dora_scale": torch.ones(1)}), "dora_scale"),
    "no LoRA": (lambda t, m: [t.pop(key) for key in list(t) if key.startswith("lora_")], "no LoRA"),
    "no vectors": (changed(WORD, lambda t: t[:0]), "word cat_00001.*1 to 64 vectors"),
    "vectors of no width": (changed(WORD, lambda t: t[:, :0]), "word cat_00001.*1 to 64 vectors"),
    "the word as one number": (changed(WORD, lambda t: t[0, 0]), "word cat_00001.*1 to 64 vectors"),
    "the word in integers": (changed(WORD, lambda t: t.long()), "cat_00001 .*floating"),
    "65 vectors": (changed(WORD, lambda t: t.repeat(65, 1)), "word cat_00001.*1 to 64 vectors"),
    "word missing": (without(WORD), "lacks .*bundle_emb.cat_00001"),
}


@pytest.mark.parametrize("case", BAD_LORA)
def test_a_lora_file_that_cannot_be_used_is_refused_by_name(tmp_path, case):
    change, message = BAD_LORA[case]
    path = rewrite(random_lora_file(tmp_path), change)
    with pytest.raises(FileError, match=rf"cat_00001\.safetensors .*{message}.*Copy or download it again"):
        load_lora_file(path)


def test_the_same_file_unchanged_is_read(tmp_path):
    file = load_lora_file(rewrite(random_lora_file(tmp_path), lambda tensors, metadata: None))
    assert file.projections == len(PROJECTIONS) and file.info.rank == RANK


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_an_encoder_that_the_word_lacks_is_named(tmp_path, family):
    key = "bundle_emb.cat_00001.clip_g" if family == "sdxl" else WORD
    with pytest.raises(FileError, match=f"lacks {re.escape(key)}"):
        load_lora_file(rewrite(random_lora_file(tmp_path, family=family), without(key)))


def test_a_words_parts_have_the_same_number_of_vectors(tmp_path):
    change = changed("bundle_emb.cat_00001.clip_g", lambda t: t.repeat(2, 1))
    with pytest.raises(FileError, match=r"different numbers of vectors .*cat_00001"):
        load_lora_file(rewrite(random_lora_file(tmp_path, family="sdxl"), change))


def described(**fields):
    def put(tensors, metadata) -> None:
        found = json.loads(metadata["palp"])
        metadata["palp"] = json.dumps({**found, **fields})

    return put


def without_field(name: str):
    def put(tensors, metadata) -> None:
        found = json.loads(metadata["palp"])
        del found[name]
        metadata["palp"] = json.dumps(found)

    return put


SUBJECT = {"placeholder": "[V]", "class_word": "cat", "embedding": "cat_00001", "images": 1}
SUBJECT["personalization_prompt"] = "a photo of [V]"
BAD_DESCRIPTION = {
    "prompt is a number": (described(prompt=7), "prompt"),
    "prompt without the word": (described(prompt="a sketch in Paris"), "prompt .*embedding:cat_00001"),
    "prompt with a longer word": (described(prompt="embedding:cat_000012"), "prompt .*embedding:cat_00001"),
    "family unknown": (described(family="sd9"), "family"),
    "family is a list": (described(family=["sd1"]), "family"),
    "prediction unknown": (described(prediction="x0"), "prediction"),
    "rank 0": (described(rank=0), "rank"),
    "rank is a text": (described(rank="4"), "rank"),
    "rank is true": (described(rank=True), "rank"),
    "steps below 0": (described(steps=-1), "steps"),
    "settings is a list": (described(settings=[]), "settings"),
    "subjects is a text": (described(subjects="cat"), "subjects"),
    "no subjects": (described(subjects=[]), "subjects"),
    "a subject is a number": (described(subjects=[1]), "SubjectInfo"),
    "a subject without a field": (described(subjects=[{"placeholder": "[V]"}]), "class_word"),
    "two subjects with one word": (described(subjects=[SUBJECT, {**SUBJECT, "placeholder": "[V2]"}]), "cat_00001"),
    "a word with a path": (
        described(subjects=[{**SUBJECT, "embedding": "../cat"}], prompt="embedding:../cat"),
        "embedding",
    ),
    "a placeholder without brackets": (described(subjects=[{**SUBJECT, "placeholder": "V"}]), "placeholder"),
    "version missing": (without_field("version"), "version"),
    "prompt missing": (without_field("prompt"), "prompt"),
}


@pytest.mark.parametrize("case", BAD_DESCRIPTION)
def test_a_description_that_cannot_be_meant_is_refused_by_name(tmp_path, case):
    change, message = BAD_DESCRIPTION[case]
    path = rewrite(random_lora_file(tmp_path), change)
    with pytest.raises(FileError, match=rf"description inside cat_00001\.safetensors is damaged.*{message}"):
        load_lora_file(path)


def test_a_placeholder_of_any_letters_is_read_again(tmp_path):
    """What `[V½]` stands for has these letters in its word's name, which no file has."""

    def put(tensors, metadata) -> None:
        metadata["palp"] = metadata["palp"].replace("cat_00001", "cat_00001_V½")
        tensors["bundle_emb.cat_00001_V½.string_to_param.*"] = tensors.pop(WORD)

    assert list(load_lora_file(rewrite(random_lora_file(tmp_path), put)).words) == ["cat_00001_V½"]


def test_fields_of_a_later_version_are_passed_over(tmp_path):
    change = described(colour="blue", subjects=[{**SUBJECT, "mood": "calm"}])
    assert load_lora_file(rewrite(random_lora_file(tmp_path), change)).info.subjects[0].class_word == "cat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("emb_params", with_one(float("nan"))), "not finite"),
        (changed("emb_params", lambda t: t.double() * 1e300), "not finite"),
        (changed("emb_params", lambda t: t[:0]), "1 to 64 vectors"),
        (changed("emb_params", lambda t: t[:, :0]), "1 to 64 vectors"),
        (changed("emb_params", lambda t: t.repeat(65, 1)), "1 to 64 vectors"),
    ],
)
def test_a_word_that_cannot_be_used_is_refused_by_name(tmp_path, change, message):
    path = rewrite(random_word_file(tmp_path), change)
    with pytest.raises(FileError, match=rf"cat\.safetensors .*{message}"):
        load_embedding(path)


# --- the checksum ---


def flipped(path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("make", "load"), [(random_lora_file, load_lora_file), (random_word_file, load_embedding)])
def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path, make, load):
    path = make(tmp_path)
    load(path)
    flipped(path, path.stat().st_size - 10)
    with pytest.raises(FileError, match=r"cat.*\.safetensors .*not what was saved.*Copy or download it again"):
        load(path)


def test_a_note_of_another_tool_in_the_metadata_is_no_damage(tmp_path):
    path = random_lora_file(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "ssmd_rating": "5"})
    assert load_lora_file(path).projections == len(PROJECTIONS)


# --- in use ---


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let a file be cut that is in use")
@pytest.mark.parametrize(("make", "load"), [(random_lora_file, load_lora_file), (random_word_file, load_embedding)])
def test_a_file_that_is_cut_while_in_use_is_not_read_again(tmp_path, make, load):
    """Memory that is mapped would end the process here, so that it has one of its own: what was read is a copy."""
    path = make(tmp_path)

    def use() -> None:
        file = load(path)
        os.truncate(path, 0)
        tensors = file.lora if load is load_lora_file else file.vectors
        assert all(tensor.float().abs().sum() > 0 for tensor in tensors.values())

    process = get_context("fork").Process(target=use)
    process.start()
    process.join()
    assert process.exitcode == 0
