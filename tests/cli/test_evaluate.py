"""`palp evaluate` as a user types it, with tiny random CLIP and DINOv2 models from disk."""

from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

from devtools.random_judges import save_tiny_clip, save_tiny_dino
from palp_core.cli import main as cli


@pytest.fixture
def shots(tmp_path):
    """Pictures of two methods, and photos."""
    for inside in ("shots/base/hat", "shots/palp/hat", "photos"):
        folder = tmp_path / inside
        folder.mkdir(parents=True)
        for number, color in enumerate(((200, 30, 30), (30, 30, 200))):
            Image.new("RGB", (40, 32), color).save(folder / f"{number}.png")
        if inside != "photos":
            (folder / "prompt.txt").write_text("a [V] with a hat")
    return tmp_path / "shots"


def evaluate(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["palp", "evaluate", *(str(a) for a in arguments), "--device", "cpu"])
    cli.main()


def test_figures_are_told_and_written(monkeypatch, capsys, tmp_path, shots):
    save_tiny_clip(tmp_path / "clip")
    save_tiny_dino(tmp_path / "dino")
    given = [shots, "--photos", tmp_path / "photos", "--class-word", "cat", "--out", tmp_path / "out"]
    judges = ["--clip", tmp_path / "clip", "--dino", tmp_path / "dino"]
    evaluate(monkeypatch, *given, *judges)
    said = capsys.readouterr().out
    assert "CLIP-T" in said and "not measured" not in said and "report.html shows the pictures" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figures.csv", "by_picture.csv", "report.html"}
    evaluate(monkeypatch, *given, *judges, "--json")
    palp = json.loads(capsys.readouterr().out)["methods"]["palp"]
    assert palp["pictures"] == 2 and all(-1 <= palp[axis]["mean"] <= 1 for axis in ("clip_t", "clip_i", "dino"))
    evaluate(monkeypatch, *given, "--dino", tmp_path / "dino")
    assert "not measured: CLIP-T, CLIP-I. It needs --clip" in capsys.readouterr().out


def test_bad_input_is_one_line_and_writes_nothing(monkeypatch, tmp_path, shots):
    out = ("--out", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"palp: there is no folder .*missing"):
        evaluate(monkeypatch, tmp_path / "missing", *out)
    with pytest.raises(
        SystemExit, match=r"palp: give --clip or --dino, or both.*hf download openai/.*hf download facebook"
    ):
        evaluate(monkeypatch, shots, *out)
    with pytest.raises(SystemExit, match=r"palp: --clip .*nowhere is no folder.*hf download openai/clip-vit-large"):
        evaluate(monkeypatch, shots, "--class-word", "cat", "--clip", tmp_path / "nowhere", *out)
    with pytest.raises(SystemExit, match=r"palp: the prompt 'a \[V\] with a hat' names \[V\].* Say with --class-word"):
        evaluate(monkeypatch, shots, "--clip", tmp_path / "nowhere", *out)
    (shots / "palp/hat/prompt.txt").unlink()
    with pytest.raises(SystemExit, match=r"palp: the pictures in .*hat have no prompt"):
        evaluate(monkeypatch, shots, "--clip", tmp_path / "nowhere", *out)
    assert not (tmp_path / "out").exists()
