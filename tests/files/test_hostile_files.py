"""Files made to do harm: limits are looked at before anything is built from what they hold."""

from __future__ import annotations

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from devtools.random_files import random_lora_file, random_word_file, rewrite, word_description
from palp_core import load_embedding, load_lora_file
from palp_core.errors import FileError
from palp_core.files.bundled_words import load_bundle
from palp_core.files.embedding_file import described_word

LONG = 2_000_000


def described(key: str, **fields):
    def put(tensors, metadata) -> None:
        metadata[key] = json.dumps({**json.loads(metadata[key]), **fields})

    return put


def text(key: str, value: str):
    return lambda tensors, metadata: metadata.update({key: value})


def many_subjects(count: int):
    def put(tensors, metadata) -> None:
        found = json.loads(metadata["palp"])
        (subject,) = found["subjects"]
        found["subjects"] = [{**subject, "placeholder": f"[V{n}]", "embedding": f"cat{n}"} for n in range(count)]
        found["prompt"] = " ".join(f"embedding:cat{n}" for n in range(count))
        word = tensors.pop("bundle_emb.cat_00001.string_to_param.*")
        tensors |= {f"bundle_emb.cat{n}.string_to_param.*": word.clone() for n in range(count)}
        metadata["palp"] = json.dumps(found)

    return put


LARGE = {
    "2 MB of prompt": (described("palp", prompt="embedding:cat_00001 " * (LONG // 20)), "letters"),
    "2,001 letters of target prompt": (described("palp", target_prompt="[V]" + "x" * 1998), "target_prompt .*2000"),
    "2 MB of class word": (
        described(
            "palp",
            subjects=[
                {
                    "placeholder": "[V]",
                    "class_word": "x" * LONG,
                    "embedding": "cat_00001",
                    "personalization_prompt": "a photo of [V]",
                    "images": 1,
                }
            ],
        ),
        "",
    ),
    "2 MB of settings": (described("palp", settings={"clean_prompt": "x" * LONG}), "letters"),
    "101 subjects": (many_subjects(101), "subjects .*100"),
}


@pytest.mark.parametrize("case", LARGE)
def test_what_is_too_much_in_a_lora_file_is_refused_at_once(tmp_path, case):
    change, message = LARGE[case]
    path = rewrite(random_lora_file(tmp_path), change)
    start = time.monotonic()
    with pytest.raises(FileError, match=rf"cat_00001\.safetensors .*{message}") as refusal:
        load_lora_file(path)
    assert time.monotonic() - start < 1 and len(str(refusal.value)) < 500


def test_as_much_as_is_allowed_is_read(tmp_path):
    path = rewrite(random_lora_file(tmp_path), many_subjects(100))
    assert len(load_lora_file(path).words) == 100


def test_a_hundred_thousand_vectors_are_refused_before_they_are_read(tmp_path):
    save_file({"emb_params": torch.zeros(100_000, 8)}, tmp_path / "cat.safetensors")
    with pytest.raises(FileError, match=r"cat\.safetensors .*100000.*1 to 64 vectors"):
        load_embedding(tmp_path / "cat.safetensors")


@pytest.mark.parametrize("load", [load_lora_file, load_embedding, load_bundle, described_word])
@pytest.mark.parametrize("length", [64 * 2**20, 2**40, 2**64 - 1])
def test_a_header_that_is_too_long_is_not_parsed(tmp_path, load, length):
    path = tmp_path / "cat.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with path.open("r+b") as stream:
        stream.truncate(8 + min(length, 64 * 2**20))  # with nothing in it, but as long as it says
    with pytest.raises(FileError, match=r"cat\.safetensors cannot be read: its header"):
        load(path)


BAD_JSON = {
    "deep brackets": "[" * 100_000 + "]" * 100_000,
    "deep braces": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "not JSON": "{",
    "a number": "1",
    "null": "null",
    "a lone surrogate": '{"version": "\\ud800"}',
    "NaN": '{"version": NaN}',
    "an infinite number": '{"version": 1e400}',
    "a number of 5,000 digits": '{"version": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_description_that_is_no_json_of_ours_is_named(tmp_path, case):
    lora = rewrite(random_lora_file(tmp_path), text("palp", BAD_JSON[case]))
    word = rewrite(random_word_file(tmp_path), text("palp_embedding", BAD_JSON[case]))
    for load, path in ((load_lora_file, lora), (described_word, word)):
        with pytest.raises(FileError, match=rf"description inside {path.name} is damaged"):
            load(path)


@pytest.mark.parametrize("header", [b"[" * 100_000 + b"]" * 100_000, b"[]", b"{}x", b"\xff\xfe", b'{"a":1}', b""])
@pytest.mark.parametrize("load", [load_lora_file, load_embedding, load_bundle, described_word])
def test_a_header_that_is_none_is_named(tmp_path, load, header):
    path = tmp_path / "cat.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileError, match=r"cat\.safetensors"):
        load(path)


@pytest.mark.parametrize("field", sorted(word_description()))
def test_a_word_that_lacks_a_field_is_damaged(tmp_path, field):
    found = word_description()
    del found[field]
    path = rewrite(random_word_file(tmp_path), text("palp_embedding", json.dumps(found)))
    with pytest.raises(FileError, match=rf"description inside cat\.safetensors is damaged.*{field}"):
        described_word(path)


@pytest.mark.parametrize(
    "change", [{"kind": 7}, {"vectors": "1"}, {"family": "sd9"}, {"initial_word": 3}, {"steps": -1}, {"version": None}]
)
def test_a_word_whose_field_is_of_another_kind_is_damaged(tmp_path, change):
    path = rewrite(random_word_file(tmp_path), described("palp_embedding", **change))
    with pytest.raises(FileError, match=rf"description inside cat\.safetensors is damaged.*{next(iter(change))}"):
        described_word(path)
