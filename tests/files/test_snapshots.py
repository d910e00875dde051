"""A trained file at an earlier step."""

from __future__ import annotations

import pytest
import torch

from devtools.random_files import random_lora_file
from palp_core.errors import FileError
from palp_core.files.lora_file import LoraFile, is_ours, load_lora_file, write_lora_file
from palp_core.files.run_folder import find_run
from palp_core.files.snapshots import load_at_step


@pytest.fixture
def trained(tmp_path):
    """A file, and the folder of its training with a snapshot of which nothing but the numbers is another's."""
    path = random_lora_file(tmp_path / "loras", "cat")
    file = load_lora_file(path)
    run = find_run(tmp_path / "palp", "cat", "0123", {}, steps=file.info.steps)
    run.finish(file.info.steps, path)
    early = LoraFile({k: v * 0.5 for k, v in file.lora.items()}, file.words, file.info)
    run.snapshot(1).parent.mkdir(parents=True)
    write_lora_file(run.snapshot(1), early)
    return path, tmp_path / "palp", file


def test_a_step_that_was_kept_is_loaded_under_the_files_own_names(trained):
    path, runs, file = trained
    early = load_at_step(path, runs, 1)
    assert early.info.steps == 1 and early.info.prompt == file.info.prompt and early.words.keys() == file.words.keys()
    up = next(key for key in file.lora if key.endswith("lora_up.weight"))
    assert torch.allclose(early.lora[up].float(), file.lora[up].float() * 0.5, atol=1e-3)


def test_zero_and_the_last_step_are_the_file_itself(trained):
    path, runs, file = trained
    for step in (0, file.info.steps):
        assert load_at_step(path, runs, step).info == file.info


def test_a_step_that_was_not_kept_is_named_with_those_that_were(trained, tmp_path):
    path, runs, _ = trained
    with pytest.raises(FileError, match=r"step 7 of cat_00001\.safetensors is not there\. There are snapshots of 1;"):
        load_at_step(path, runs, 7)
    with pytest.raises(FileError, match="Its training has kept none"):
        load_at_step(path, tmp_path / "elsewhere", 7)


def test_another_file_of_the_same_name_has_no_snapshots(trained, tmp_path):
    path, runs, _ = trained
    random_lora_file(tmp_path / "other", "dog").replace(path)
    with pytest.raises(FileError, match="Its training has kept none"):
        load_at_step(path, runs, 1)


def test_a_file_of_ours_is_known_by_its_header(trained, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert is_ours(trained[0]) and not is_ours(tmp_path / "broken.safetensors") and not is_ours(tmp_path / "none")
