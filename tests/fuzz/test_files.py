"""Every reader of files, on files of any content: it gives what can be used, or a PalpError of one or two sentences."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from devtools.damage import damaged, json_values, tensors
from devtools.random_files import random_lora_file, random_state, random_word_file
from palp_core import load_embedding, load_lora_file
from palp_core.cli.info import Info
from palp_core.errors import PalpError
from palp_core.files.embedding_file import described_word
from palp_core.files.images import read_image
from palp_core.files.run_state import RunState

KEYS = [
    "emb_params",
    "string_to_param.*",
    "<cat>",
    "clip_l",
    "clip_g",
    "bundle_emb.cat.clip_l",
    "bundle_emb.dog.clip_l",
]


@cache
def made(what: str) -> bytes:
    """A good file."""
    with TemporaryDirectory() as folder:
        if what == "state":
            state = RunState(Path(folder, "any"), "0123")
            state.save(*random_state())
            return state.file.read_bytes()
        make = {"lora": random_lora_file, "word": random_word_file}
        family = {"family": "sdxl"} if what == "sdxl" else {}
        return make.get(what, random_lora_file)(Path(folder), **family).read_bytes()


def content(what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a good file, without the checksum."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "any")
        path.write_bytes(made(what))
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    del metadata["palp_sha256"]
    return load(made(what)), metadata


def read(path: Path, reader: Callable[[Path], object]) -> object:
    """What the reader gives; None for a refusal, which is short and names the file."""
    try:
        return reader(path)
    except PalpError as error:
        said = str(error)
        assert path.name in said and len(said) < 700 and "\n" not in said, said
        said.encode()
        return None


def check_lora(path: Path) -> None:
    file = read(path, load_lora_file)
    if file is None:
        return
    assert file.projections > 0 and 3 * file.projections == len(file.lora)
    assert all(value.float().isfinite().all() for value in file.lora.values())
    assert len(file.words) <= 100 and len(file.info.prompt) < 20_000
    for name, word in file.words.items():
        assert f"embedding:{name}" in file.info.prompt
        check_word_vectors(word)


def check_word_vectors(word: dict[str, Tensor]) -> None:
    for rows in word.values():
        assert rows.dtype == torch.float32 and rows.ndim == 2 and rows.isfinite().all()
        assert 1 <= len(rows) <= 64 and rows.shape[1] > 0


def check_embedding(path: Path) -> None:
    if found := read(path, load_embedding):
        check_word_vectors(found.vectors)
        assert len({len(rows) for rows in found.vectors.values()}) == 1


def check_info(path: Path) -> None:
    """Both ways in which `palp info` tells of a file."""
    for as_json in (False, True):
        said = StringIO()
        with contextlib.redirect_stdout(said):
            read(path, partial(told, as_json))
        said.getvalue().encode()
        if as_json and said.getvalue():
            json.loads(said.getvalue(), parse_constant=refused)


def told(as_json: bool, path: Path) -> None:
    Info(path, as_json).run()


def refused(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def check_all(path: Path) -> None:
    check_lora(path)
    check_embedding(path)
    read(path, described_word)
    check_info(path)
    read(path, lambda path: RunState(path, "0123").read())


@given(st.sampled_from(["lora", "sdxl"]).flatmap(lambda what: damaged(made(what))))
def test_bytes_of_a_lora_file(place, content):
    place.write_bytes(content)
    check_lora(place)
    check_info(place)


@given(damaged(made("word")))
def test_bytes_of_a_word(place, content):
    place.write_bytes(content)
    check_embedding(place)
    check_info(place)


@given(damaged(made("state")))
def test_bytes_of_an_unfinished_training(place, content):
    """Nothing but the whole of what was saved is gone on with."""
    place.write_bytes(content)
    found = read(place, lambda path: RunState(path, "0123").read())
    if found is not None:
        state, history = random_state()
        assert found[1] == history and found[0].keys() == state.keys()
        assert all(torch.equal(found[0][key], value) for key, value in state.items())


@given(st.data())
def test_a_header_of_anything(place, data):
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "F4", "F8_E8M0", "BOOL", "X"]) | json_values,
            "shape": st.lists(st.integers(-1, 2**65) | st.integers(0, 4), max_size=3) | json_values,
            "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | json_values,
        }
    )
    name = st.sampled_from([*KEYS, "__metadata__", "lora_unet_x.alpha"]) | st.text(max_size=10)
    header = data.draw(st.dictionaries(name, entry | json_values, max_size=4) | json_values)
    text = json.dumps(header).encode()
    length = data.draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    place.write_bytes(struct.pack("<Q", length) + text + data.draw(st.binary(max_size=64)))
    check_all(place)


@given(st.data())
def test_what_a_file_says_of_itself(place, data):
    what, key = data.draw(st.sampled_from([("lora", "palp"), ("word", "palp_embedding")]))
    kept, metadata = content(what)
    found = json.loads(metadata[key])
    if what == "lora" and data.draw(st.booleans()):
        found["subjects"][0][data.draw(st.sampled_from(sorted(found["subjects"][0])))] = data.draw(json_values)
    else:
        found[data.draw(st.sampled_from(sorted(found)))] = data.draw(json_values)
    if data.draw(st.booleans()):
        del found[data.draw(st.sampled_from(sorted(found)))]
    metadata[key] = data.draw(st.just(json.dumps(found)) | st.text(max_size=20) | json_values.map(json.dumps))
    with contextlib.suppress(UnicodeEncodeError):  # a lone half of a letter, which no file can hold
        place.write_bytes(save(kept, metadata))
        check_all(place)


@given(st.data())
def test_tensors_of_a_lora_file(place, data):
    kept, metadata = content(data.draw(st.sampled_from(["lora", "sdxl"])))
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(kept)) | st.sampled_from(KEYS))
        kept[key] = data.draw(tensors())
    if data.draw(st.booleans()):
        del kept[data.draw(st.sampled_from(sorted(kept)))]
    place.write_bytes(save(kept, metadata))
    check_all(place)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), tensors(), max_size=4))
def test_tensors_of_other_tools_words(place, kept):
    with contextlib.suppress(UnicodeEncodeError):
        place.write_bytes(save({key: value.clone() for key, value in kept.items()}))
        check_embedding(place)


@given(st.data())
def test_what_an_unfinished_training_holds(place, data):
    """With the right checksum: what another program, or another version, may have written."""
    state, history = random_state()
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(state)) | st.sampled_from(["optimizer.7.step", "scaler.scale", "word."]))
        if data.draw(st.booleans()) or key not in state:
            state[key] = data.draw(tensors())
        else:
            del state[key]
    if data.draw(st.booleans()):
        row = data.draw(st.sampled_from(history))
        row[data.draw(st.sampled_from([*sorted(row), "more"]))] = data.draw(json_values)
    unfinished = RunState(place, "0123")
    unfinished.save(state, history)
    found = read(place, lambda path: unfinished.read())
    if found is not None:
        assert len(found[1]) == int(found[0]["steps"])


@cache
def picture(kind: str) -> bytes:
    written = BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(written, kind)
    return written.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]).flatmap(lambda kind: damaged(picture(kind))))
def test_bytes_of_a_picture(place, content):
    path = place.with_suffix(".png")
    path.write_bytes(content)
    pixels = read(path, read_image)
    assert pixels is None or (
        pixels.ndim == 3 and pixels.shape[2] in (3, 4) and 0 <= pixels.min() and pixels.max() <= 1
    )
