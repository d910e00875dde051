"""The command `palp` as a user types it, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.faults.seams import no_space
from devtools.random_models import pictures, tiny_pipeline
from palp_core.cli import generate, session
from palp_core.cli import main as cli
from palp_core.errors import DivergedError
from palp_core.files import writing
from palp_core.files.lora_file import load_lora_file
from palp_core.methods import recording
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import demo
from palp_core.training.loop import Training

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
    given = ["train", "--model", model, "--images", photos, "--class-word", "cat", "--target-prompt", "a sketch of [V]"]
    return [*given, "--out", out, "--file-name", NAME, *(str(x) for k, v in settings.items() for x in (f"--{k}", v))]


def test_train_then_info_then_generate(monkeypatch, capsys, tmp_path, model, photos):
    out = tmp_path / "loras"
    palp(monkeypatch, *train_arguments(model, photos, out, **{"alignment-weight": 0.5, "memory": 8}))
    file = out / f"{NAME}_00001.safetensors"
    told = capsys.readouterr()
    assert told.out.strip().endswith(file.name)
    assert re.search(r"for: a sketch of \[V\].* Takes about 0\.\d GB of RAM\.", told.err)
    assert {path.name for path in out.iterdir()} == {file.name, f"{NAME}_00001.loss.png", "runs"}
    info = load_lora_file(file).info
    assert info.settings["alignment"]["weight"] == 0.5 and info.steps == 3 and info.rank == 2
    with safe_open(file, "pt") as saved:  # photos and model lie there, too
        assert not any(str(tmp_path) in value for value in saved.metadata().values())

    palp(monkeypatch, "info", file)
    said = capsys.readouterr().out
    assert "a sketch of [V]" in said and f"embedding:{NAME}_00001" in said and "rank 2" in said
    palp(monkeypatch, "info", file, "--json")
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 5

    drawn = tmp_path / "pictures"
    common = ["generate", file, "--model", model, "--out", drawn, "--size", "64", "--steps", "2", "--count", "2"]
    palp(monkeypatch, *common, "--prompt", "[V] in Rome")
    images = [np.asarray(Image.open(path)) for path in sorted(drawn.iterdir())]
    assert len(images) == 2 and images[0].shape == (64, 64, 3) and not np.array_equal(*images)
    with pytest.raises(SystemExit, match=r"prompt uses \[X\]"):
        palp(monkeypatch, *common, "--prompt", "[X] in Rome")
    tiny_pipeline("sdxl", tmp_path / "made").save_pretrained(tmp_path / "sdxl", safe_serialization=True)
    with pytest.raises(SystemExit, match="the file was made for sd1, and the model is sdxl"):
        palp(monkeypatch, "generate", file, "--model", tmp_path / "sdxl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", 0), "steps is 0"),
        (("--count", 0), "count is 0"),
        (("--device", "gpu"), "device gpu cannot be used"),
        (("--prompt", "[V] and embedding:dog"), r"names embedding:dog, of which there is no file here. Write one of"),
    ],
)
def test_bad_input_of_generate_is_one_line_and_draws_nothing(monkeypatch, tmp_path, model, photos, arguments, message):
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras", steps=1))
    file, drawn = tmp_path / "loras" / f"{NAME}_00001.safetensors", tmp_path / "pictures"
    with pytest.raises(SystemExit, match=f"palp: .*{message}"):
        palp(monkeypatch, "generate", file, "--model", model, "--out", drawn, *arguments)
    assert not drawn.exists()


def drawn(monkeypatch, folder: Path, file: Path, model: Path, *more) -> np.ndarray:
    """The one picture of a prompt."""
    common = ("--model", model, "--out", folder, "--size", 64, "--steps", 2, "--count", 1)
    palp(monkeypatch, "generate", file, *common, *more)
    (picture,) = folder.iterdir()
    pixels = np.asarray(Image.open(picture), dtype=float)
    picture.unlink()
    return pixels


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_prompt_is_drawn_as_diffusers_draws_it_with_the_word_in_its_vocabulary(monkeypatch, tmp_path, photos, family):
    model, folder = tmp_path / "model", tmp_path / "pictures"
    tiny_pipeline(family, tmp_path / "made").save_pretrained(model, safe_serialization=True)
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras", steps=1))
    file = tmp_path / "loras" / f"{NAME}_00001.safetensors"
    ours = drawn(monkeypatch, folder, file, model, "--prompt", "[V] in Rome", "--negative-prompt", "ugly")
    pipeline, trained = load_pipeline(model), load_lora_file(file)
    pipeline.load_lora_weights(trained.lora)
    ((_, vectors),) = trained.words.items()
    for encoder, end in zip(vectors, ("", "_2"), strict=False):
        parts = {part: getattr(pipeline, f"{part}{end}") for part in ("tokenizer", "text_encoder")}
        pipeline.load_textual_inversion({"<cat>": vectors[encoder]}, token="<cat>", **parts)
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "guidance_scale": generate.UNET_GUIDANCE}
    texts = {"prompt": "<cat> in Rome", "negative_prompt": "ugly"}
    theirs = pipeline(**texts, generator=torch.Generator().manual_seed(0), **options).images[0]
    assert np.abs(ours - np.asarray(theirs, dtype=float)).max() <= 1


def test_weights_names_and_long_prompts_are_drawn_as_in_comfyui(monkeypatch, tmp_path, model, photos):
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras", steps=1))
    palp(monkeypatch, *learn_arguments(model, photos, tmp_path / "words", steps=1))
    for file in (tmp_path / "loras" / f"{NAME}_00001.safetensors", tmp_path / "words" / f"{NAME}.safetensors"):

        def draw(prompt: str, *more, file=file) -> np.ndarray:
            return drawn(monkeypatch, tmp_path / "pictures", file, model, "--prompt", prompt, *more)

        plain = draw("[V] in Rome")
        assert np.array_equal(draw(f"embedding:{file.stem} in Rome"), plain)
        assert np.array_equal(draw("([V]:1.0) in (Rome:1)"), plain)
        assert not np.array_equal(draw("([V]:1.4) in Rome"), plain)
        assert not np.array_equal(draw("[V] in Rome", "--negative-prompt", "(ugly:1.4) " * 60), plain)
        assert not np.array_equal(draw("[V] in Rome, " + "very far away " * 60), plain)


def learn_arguments(model: Path, photos: Path, out: Path, **settings) -> list[str]:
    settings = {"steps": 3, "vectors": 2, "resolution": 64, "batch-size": 1, "initial-word": "c", **settings}
    given = ["learn-word", "--model", model, "--images", photos, "--out", out, "--name", NAME]
    return [*given, *(str(x) for k, v in settings.items() for x in (f"--{k}", v))]


def test_a_word_is_learned_told_of_and_refined(monkeypatch, capsys, tmp_path, model, photos):
    out = tmp_path / "embeddings"
    palp(monkeypatch, *learn_arguments(model, photos, out))
    file = out / f"{NAME}.safetensors"
    assert {path.name for path in out.iterdir()} == {file.name, f"{NAME}.loss.png", "runs"}
    assert load_file(file)["emb_params"].shape == (2, 32)
    capsys.readouterr()
    palp(monkeypatch, "info", file)
    said = capsys.readouterr().out
    assert f"embedding:{NAME}" in said and "starting at 'c'" in said and "2, 3 steps" in said
    palp(monkeypatch, "info", file, "--json")
    assert json.loads(capsys.readouterr().out)["settings"]["vectors"] == 2
    with pytest.raises(SystemExit, match=f"{NAME}.safetensors is in the embeddings folder already"):
        palp(monkeypatch, *learn_arguments(model, photos, out, seed=6))
    with pytest.raises(SystemExit, match="is 3 tokens"):
        palp(monkeypatch, *learn_arguments(model, photos, tmp_path / "other", **{"initial-word": "cat"}))
    palp(monkeypatch, *learn_arguments(model, photos, out, vectors=1), "--overwrite")
    assert load_file(file)["emb_params"].shape == (1, 32)
    drawn = tmp_path / "pictures"
    palp(monkeypatch, "generate", file, "--model", model, "--out", drawn, "--size", 64, "--steps", 2, "--count", 1)
    assert [path.name for path in drawn.iterdir()] == [f"{NAME}_00001.png"]

    stop_after(1, monkeypatch, learn_arguments(model, photos, tmp_path / "more", **{"initial-embedding": file}))
    assert (tmp_path / "more" / f"{NAME}_step1.safetensors").exists()
    start = {"initial-embedding": file, "steps": 1, "embedding-learning-rate": 1e-9}
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras", **start))
    (refined,) = load_lora_file(tmp_path / "loras" / f"{NAME}_00001.safetensors").words.values()
    torch.testing.assert_close(refined["clip_l"], load_file(file)["emb_params"], atol=1e-4, rtol=1e-3)


def test_sdxl_with_its_two_text_encoders_learns_and_draws(monkeypatch, tmp_path, photos):
    model, drawn = tmp_path / "sdxl", tmp_path / "pictures"
    tiny_pipeline("sdxl", tmp_path / "made").save_pretrained(model, safe_serialization=True)
    palp(monkeypatch, *learn_arguments(model, photos, tmp_path / "embeddings", steps=1))
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras", steps=1))
    for file in (tmp_path / f"embeddings/{NAME}.safetensors", tmp_path / f"loras/{NAME}_00001.safetensors"):
        common = ["--model", model, "--out", drawn, "--size", 64, "--steps", 1, "--count", 1, "--prompt", "[V] in Rome"]
        palp(monkeypatch, "generate", file, *common)
    assert {path.name for path in drawn.iterdir()} == {f"{NAME}_00001.png", f"{NAME}_00001_00001.png"}


def test_the_demo_tells_people_its_figures(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "PICTURES", 2)
    prompt = ("--target-prompts", "a photo of a [V]")
    palp(monkeypatch, "demo", "--network", "transformer", "--steps", 1, *prompt, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "PALP (delta)" in said and "±" in said and "demo.png shows them" in said


class StoppedAfter(session.tqdm):
    """A progress bar at which the user presses Ctrl-C."""

    steps = 0

    def set_postfix(self, *_args, **_options) -> None:
        StoppedAfter.steps -= 1
        if StoppedAfter.steps == 0:
            os.kill(os.getpid(), signal.SIGINT)


def stop_after(steps: int, monkeypatch, arguments: list[str]) -> None:
    with monkeypatch.context() as patched:
        StoppedAfter.steps = steps
        patched.setattr(session, "tqdm", StoppedAfter)
        palp(monkeypatch, *arguments)


def test_ctrl_c_keeps_what_was_learned_and_the_same_command_goes_on(monkeypatch, capsys, tmp_path, model, photos):
    out, handler = tmp_path / "loras", signal.getsignal(signal.SIGINT)
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "whole", steps=4))
    stop_after(3, monkeypatch, train_arguments(model, photos, out, steps=4))
    assert "the same command goes on from there" in capsys.readouterr().err
    assert load_lora_file(out / f"{NAME}_step3_00001.safetensors").info.steps == 3
    palp(monkeypatch, *train_arguments(model, photos, out, steps=4))
    assert f"goes on from step 3 of {out / 'runs' / NAME}_00001" in capsys.readouterr().err
    whole, resumed = (load_lora_file(folder / f"{NAME}_00001.safetensors").lora for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_same_training_is_not_trained_twice(monkeypatch, capsys, tmp_path, model, photos):
    """Its file is named at once; --retrain makes another, and so does a file that is no longer what it was."""
    out = tmp_path / "loras"
    once = train_arguments(model, photos, out, steps=1)
    palp(monkeypatch, *once)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(Training, "steps", lambda *_: pytest.fail("it trains again"))
        palp(monkeypatch, *once)
    told = capsys.readouterr()
    assert "taken from an earlier training" in told.err and told.out.strip() == str(out / f"{NAME}_00001.safetensors")
    palp(monkeypatch, *once, "--retrain")
    assert capsys.readouterr().out.strip() == str(out / f"{NAME}_00002.safetensors")
    for file in out.glob("*.safetensors"):
        file.write_bytes(file.read_bytes() + b" ")
    palp(monkeypatch, *once)
    assert capsys.readouterr().out.strip() == str(out / f"{NAME}_00003.safetensors")


def test_a_killed_training_goes_on_from_its_last_state(monkeypatch, tmp_path, model, photos):
    out = tmp_path / "loras"
    monkeypatch.setattr(recording, "SECONDS_BETWEEN_STATES", 0.0)
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "whole", steps=4))

    class Killed(session.tqdm):
        def set_postfix(self, *_args, **_options) -> None:
            if list(out.glob("runs/*/state.safetensors")):
                monkeypatch.setattr(recording.Recording, "keep", lambda *_: False)  # nothing is saved any more
                raise SystemExit("killed")

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="killed"):
        patched.setattr(session, "tqdm", Killed)
        palp(monkeypatch, *train_arguments(model, photos, out, steps=4))
    palp(monkeypatch, *train_arguments(model, photos, out, steps=4))
    whole, resumed = (load_lora_file(folder / f"{NAME}_00001.safetensors").lora for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_finished_training_may_become_longer_and_spare_memory(monkeypatch, capsys, tmp_path, model, photos):
    """Two steps, then three more, are the five that would have been trained at once."""
    out = tmp_path / "loras"
    palp(monkeypatch, *train_arguments(model, photos, tmp_path / "whole", steps=5))
    palp(monkeypatch, *train_arguments(model, photos, out, steps=2))
    palp(monkeypatch, *train_arguments(model, photos, out, steps=5), "--gradient-checkpointing")
    assert "goes on from step 2" in capsys.readouterr().err
    files = (tmp_path / "whole" / f"{NAME}_00001.safetensors", out / f"{NAME}_00002.safetensors")
    whole, longer = (load_lora_file(file).lora for file in files)
    assert all(torch.allclose(whole[key], longer[key], atol=1e-4) for key in whole)
    palp(monkeypatch, *train_arguments(model, photos, out, steps=1))  # fewer are another training
    assert load_lora_file(out / f"{NAME}_00003.safetensors").info.steps == 1


@pytest.mark.parametrize("command", ["train", "learn-word"])
def test_what_was_learned_is_kept_elsewhere_when_the_disk_is_full(
    monkeypatch, capsys, tmp_path, model, photos, command
):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(recording, "SECONDS_BETWEEN_STATES", 0.0)
    arguments = train_arguments if command == "train" else learn_arguments
    with no_space(writing, "in the middle", out):
        palp(monkeypatch, *arguments(model, photos, out))
    (kept,) = elsewhere.glob("*.safetensors")
    assert str(kept) in capsys.readouterr().out


def test_a_word_that_was_stopped_goes_on(monkeypatch, capsys, tmp_path, model, photos):
    """As a personalization does: the word is that of a training that was never interrupted."""
    out = tmp_path / "embeddings"
    palp(monkeypatch, *learn_arguments(model, photos, tmp_path / "whole", steps=4))
    stop_after(2, monkeypatch, learn_arguments(model, photos, out, steps=4))
    assert "the same command goes on" in capsys.readouterr().err
    palp(monkeypatch, *learn_arguments(model, photos, out, steps=4))
    whole, resumed = (load_file(folder / f"{NAME}.safetensors") for folder in (tmp_path / "whole", out))
    assert torch.equal(whole["emb_params"], resumed["emb_params"])
    capsys.readouterr()
    palp(monkeypatch, *learn_arguments(model, photos, out, steps=4))  # its name is no obstacle to itself
    assert "taken from an earlier training" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="is in the embeddings folder already"):
        palp(monkeypatch, *learn_arguments(model, photos, out, steps=4, seed=6))


@pytest.mark.parametrize("changed", ["photos", "model", "settings"])
def test_other_inputs_are_another_training(monkeypatch, capsys, tmp_path, model, photos, changed):
    out, other = tmp_path / "loras", {}
    stop_after(1, monkeypatch, train_arguments(model, photos, out))
    if changed == "photos":
        next(photos.iterdir()).unlink()
    elif changed == "settings":
        other = {"seed": 99}
    else:
        file = model / "vae" / "diffusion_pytorch_model.safetensors"
        save_file({name: 2 * value for name, value in load_file(file).items()}, file, {"format": "pt"})
    capsys.readouterr()
    palp(monkeypatch, *train_arguments(model, photos, out, **other))
    assert "goes on" not in capsys.readouterr().err
    assert len(list((out / "runs").iterdir())) == 2


def test_a_training_that_diverges_keeps_what_it_had_learned(monkeypatch, tmp_path, model, photos):
    diverged = DivergedError(2)

    class Diverging(session.tqdm):
        def __iter__(self):
            yield next(steps := super().__iter__())
            steps.close()
            raise diverged

    stop_after(1, monkeypatch, train_arguments(model, photos, tmp_path / "loras"))
    with monkeypatch.context() as patched:
        patched.setattr(session, "tqdm", Diverging)
        with pytest.raises(SystemExit, match=f"not finite at step 2.*2 steps is kept in {NAME}_step2_00001"):
            palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras"))
    assert load_lora_file(tmp_path / "loras" / f"{NAME}_step2_00001.safetensors").info.steps == 2
    lower = train_arguments(model, photos, tmp_path / "loras", **{"learning-rate": 1e-5})
    palp(monkeypatch, *lower)  # as the error asks: no state of the diverged run is in the way


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model", "nowhere"), "neither a folder"),
        (("--images", "nowhere"), "there is no image"),
        (("--target-prompt", "a cat"), "has no placeholder"),
        (("--file-name", "../cat"), "must be a plain name"),
        (("--model", "photos"), "model_index.json"),
        (("--images", "cut_off.png"), "not an image that can be read"),
        (("--device", "gpu"), "device gpu cannot be used"),
        (
            ("--score", "nfsd", "--negative-prompt", "embedding:bad"),
            "score nfsd reads a negative_prompt",
        ),
    ],
)
def test_bad_input_is_one_line_without_a_traceback(monkeypatch, tmp_path, model, photos, change, message):
    (tmp_path / "cut_off.png").write_bytes(next(photos.iterdir()).read_bytes()[:-200])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"palp: .*{message}"):
        palp(monkeypatch, *train_arguments(model, photos, tmp_path / "loras"), *change)


def test_help_has_the_settings_of_the_config_with_their_meaning(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        palp(monkeypatch, "train", "--help")
    said = " ".join(capsys.readouterr().out.translate(str.maketrans("│|", "  ")).split())
    assert "--alignment-weight" in said and "--max-grad-norm" in said
    assert "Sets the LoRA's rank" in said and "Usual: 4 to 64." in said


def test_pictures_are_added_to_those_that_are_there(tmp_path):
    for name in ("cat_00001.png", "cat_00007.png", "cat_other.png", "dog_00009.png", "cat[1]_00001.png"):
        (tmp_path / name).touch()
    assert [path.name for path in generate.free_paths(tmp_path, "cat", 2)] == ["cat_00008.png", "cat_00009.png"]
    assert [path.name for path in generate.free_paths(tmp_path, "cat[1]", 1)] == ["cat[1]_00002.png"]


def test_the_demo_writes_its_picture_its_figures_and_its_files(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(demo, "PICTURES", 2)
    prompt, out = "a Sketch of a [V] on the beach", tmp_path / "out"
    common = ["demo", "--steps", 2, "--target-prompts", prompt, "--subject", "mug", "--out"]
    palp(monkeypatch, *common, out, "--json")
    found = json.loads(capsys.readouterr().out)
    for method in ("base", "ti_db", "palp"):
        assert 0 <= found[method]["text_alignment"] <= 1 and -1 <= found[method]["subject_alignment"] <= 1
        assert set(found[method]["elements"]) == {"style", "class_word", "place"}
    assert (
        found["subject_alignment_floor"] < found["subject_alignment_ceiling"] < 0.99
    )  # the photos themselves would have 1
    assert {path.name for path in out.iterdir()} == {
        *("demo.png", "loss.png"),
        *("mug_ti_db_00001.safetensors", "mug_palp_00001.safetensors"),
    }
    assert load_lora_file(out / "mug_palp_00001.safetensors").info.target_prompt == prompt
    with Image.open(out / "demo.png") as picture:
        assert picture.width > 1000
    assert (found["score"], found["subject"], found["seed"], found["steps"]) == ("delta", "mug", 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target-prompts", "a cat"), "has no placeholder"),
        (("--target-prompts", "a sketch of a [V] in Paris"), "has no 'Paris'.*It knows: .*beach"),
        (("--target-prompts", "a [V] in a room on the beach"), "names beach and room"),
        (("--seed", "-1"), "seed is -1"),
        (("--out", "taken"), "taken"),
    ],
)
def test_bad_input_of_the_demo_is_said_before_it_trains(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    monkeypatch.setattr(Training, "steps", lambda *_: pytest.fail("trained"))
    with pytest.raises(SystemExit, match=f"palp: .*{message}"):
        palp(monkeypatch, "demo", *arguments)


def test_a_finished_word_whose_file_is_gone_is_written_again(monkeypatch, capsys, tmp_path, model, photos):
    out = tmp_path / "embeddings"
    palp(monkeypatch, *learn_arguments(model, photos, out))
    file = out / f"{NAME}.safetensors"
    vectors = load_file(file)["emb_params"]
    file.unlink()
    capsys.readouterr()
    palp(monkeypatch, *learn_arguments(model, photos, out))
    assert capsys.readouterr().out.strip() == str(file)
    assert torch.equal(load_file(file)["emb_params"], vectors)
