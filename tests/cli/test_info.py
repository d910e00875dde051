"""`palp info` on files that are damaged or made to do harm: one sentence, and nothing on the screen but text."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from devtools.random_files import random_lora_file, random_word_file, rewrite, word_description
from palp_core.cli import main as cli


def info(monkeypatch, file: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["palp", "info", str(file), *options])
    cli.main()


def described(key: str, **fields):
    def put(tensors, metadata) -> None:
        metadata[key] = json.dumps({**json.loads(metadata[key]), **fields})

    return put


def text(key: str, value: str):
    return lambda tensors, metadata: metadata.update({key: value})


@pytest.mark.parametrize("make", [random_lora_file, random_word_file])
def test_a_good_file_is_told_of_in_both_ways(monkeypatch, capsys, tmp_path, make):
    file = make(tmp_path)
    info(monkeypatch, file)
    assert f"embedding:{file.stem}" in capsys.readouterr().out
    info(monkeypatch, file, "--json")
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 7


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("field", sorted(word_description()))
def test_a_word_without_a_field_is_one_line(monkeypatch, tmp_path, options, field):
    found = word_description()
    del found[field]
    file = rewrite(random_word_file(tmp_path), text("palp_embedding", json.dumps(found)))
    with pytest.raises(SystemExit, match=rf"palp: the description inside cat\.safetensors is damaged.*{field}"):
        info(monkeypatch, file, *options)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize(("make", "key"), [(random_lora_file, "palp"), (random_word_file, "palp_embedding")])
def test_json_never_holds_what_is_no_json(monkeypatch, capsys, tmp_path, make, key, value):
    def put(tensors, metadata) -> None:
        metadata[key] = metadata[key].replace('"learning_rate": 0.0001', f'"learning_rate": {value}')

    with pytest.raises(SystemExit, match="is damaged"):
        info(monkeypatch, rewrite(make(tmp_path), put), "--json")
    assert capsys.readouterr().out == ""


def test_a_description_of_brackets_is_one_line(monkeypatch, tmp_path):
    file = rewrite(random_word_file(tmp_path), text("palp_embedding", "[" * 100_000 + "]" * 100_000))
    with pytest.raises(SystemExit, match=r"palp: the description inside cat\.safetensors is damaged"):
        info(monkeypatch, file)


def test_a_word_that_is_not_finite_is_one_line(monkeypatch, tmp_path):
    file = rewrite(random_word_file(tmp_path), lambda tensors, metadata: tensors["emb_params"].fill_(float("nan")))
    with pytest.raises(SystemExit, match=r"palp: cat\.safetensors is damaged: emb_params holds"):
        info(monkeypatch, file)


def test_letters_that_command_a_terminal_are_spelled_out(monkeypatch, capsys, tmp_path):
    file = rewrite(random_lora_file(tmp_path), described("palp", clean_prompt="\x1b[2J\x9b2J a cat"))
    info(monkeypatch, file)
    said = capsys.readouterr().out
    assert "\\x1b[2J\\x9b2J a cat" in said and "\x1b" not in said and "\x9b" not in said


def test_the_package_itself_is_the_command(monkeypatch, capsys, tmp_path):
    """`python -m palp_core`, for where the folder of scripts is not on the path."""
    file = random_lora_file(tmp_path)
    monkeypatch.setattr(sys, "argv", ["palp_core", "info", str(file)])
    runpy.run_module("palp_core", run_name="__main__")
    assert capsys.readouterr().out.startswith(f"{file.name}: PALP")
