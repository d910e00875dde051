"""Pictures while a training goes on: when they are drawn, what they show, and that they change nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core.files.lora_file import load_lora_file
from palp_core.files.run_folder import RunFolder
from palp_core.methods import previews
from palp_core.methods.concept import Concept
from palp_core.methods.personalization import Personalization, PersonalizationConfig
from palp_core.methods.previews import PreviewConfig, Previews
from palp_core.methods.recording import Recording
from palp_core.methods.subjects import Subject
from palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.contact_sheet import contact_sheet
from palp_core.training.loop import Training

SETTINGS = {"steps": 4, "resolution": 64, "batch_size": 1}
CONFIG = PersonalizationConfig(**SETTINGS, rank=2, learning_rate=1e-1, embedding_learning_rate=1e-2)
NEVER, EVERY_OTHER = PreviewConfig(preview_every=0), PreviewConfig(preview_every=2)


@pytest.fixture(autouse=True)
def few_sampling_steps(monkeypatch):
    monkeypatch.setattr(previews, "SAMPLING_STEPS", 3)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path / "model"), device="cpu")


def personalization(backbone, config=CONFIG) -> Training:
    return Training(Personalization(backbone, [Subject(pictures((64, 96)), "cat")], "a sketch of [V] in Paris", config))


def recorded(run: Training, folder, config=EVERY_OTHER) -> Recording:
    recording = Recording(RunFolder(folder, "0123"), run.method, config)
    for step in run.steps(recording.state):
        recording.note(step, run.learner)
    return recording


def test_pictures_of_base_model_and_steps_are_kept_and_differ(backbone, tmp_path):
    recording = recorded(personalization(backbone), tmp_path / "cat_00001")
    drawn = recording.previews.pictures
    assert sorted(drawn) == [0, 2, 4]
    assert all(picture.shape == (64, 64, 3) and 0 <= picture.min() <= picture.max() <= 1 for picture in drawn.values())
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[2], drawn[4])
    kept = sorted(path.name for path in (tmp_path / "cat_00001" / "previews").iterdir())
    assert kept == ["step_00000.png", "step_00002.png", "step_00004.png"]
    sheet = recording.contact_sheet()
    assert sheet.shape[-1] == 3 and sheet.shape[1] > 2 * sheet.shape[0]  # three in a row


def test_drawing_changes_nothing_that_is_learned(backbone, tmp_path):
    watched, unwatched = personalization(backbone), personalization(backbone)
    random = torch.get_rng_state()
    recorded(watched, tmp_path / "one")
    assert torch.equal(random, torch.get_rng_state())
    recorded(unwatched, tmp_path / "other", NEVER)
    assert not (tmp_path / "other" / "previews").exists()
    for key, value in unwatched.state.items():
        assert torch.equal(value, watched.state[key]), key


def test_the_first_picture_is_the_base_models_also_after_steps(backbone, tmp_path):
    run = personalization(backbone)
    steps = run.steps()
    next(steps)
    early = run.learner.preview(0, untouched=True)
    for _ in steps:
        late = run.learner.preview(0, untouched=True)
    assert torch.equal(early, late)


def test_a_snapshot_is_a_file_of_that_step(backbone, tmp_path):
    run = personalization(backbone)
    recording = recorded(run, tmp_path / "cat_00001")
    assert recording.folder.snapshots() == [2, 4]
    half, whole = (load_lora_file(recording.folder.snapshot(step)) for step in (2, 4))
    assert (half.info.steps, whole.info.steps) == (2, 4)
    assert all(torch.equal(v.half(), whole.lora[k].half()) for k, v in run.result.lora.items())
    assert any(not torch.equal(half.lora[k], whole.lora[k]) for k in half.lora)


def test_what_goes_on_has_the_earlier_pictures_and_none_that_its_state_is_behind(backbone, tmp_path):
    recorded(personalization(backbone, dataclasses.replace(CONFIG, steps=2)), tmp_path / "cat_00001")
    ahead = tmp_path / "cat_00001" / "previews" / "step_00003.png"
    ahead.write_bytes(b"of a step that was lost")
    run = personalization(backbone)
    recording = Recording(RunFolder(tmp_path / "cat_00001", "0123"), run.method, EVERY_OTHER)
    assert len(recording.history) == 2 and sorted(recording.previews.pictures) == [0, 2]


def test_a_picture_that_cannot_be_drawn_ends_the_pictures_and_not_the_training(backbone, tmp_path, caplog):
    run = personalization(backbone)
    run.method.backbone.decode_latents = lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory left"))
    recording = recorded(run, tmp_path / "cat_00001")
    assert len(recording.history) == 4 and not recording.previews.pictures
    assert caplog.text.count("no more pictures are drawn while it trains") == 1 and "no memory left" in caplog.text


def test_a_word_is_drawn_in_its_first_sentence(backbone, tmp_path):
    concept = Concept(pictures((64, 64)), "c", templates=("a photo of {}",))
    run = Training(TextualInversion(backbone, concept, TextualInversionConfig(**SETTINGS, learning_rate=0.1)))
    recording = recorded(run, tmp_path / "word_00001")
    drawn = recording.previews.pictures
    assert sorted(drawn) == [0, 2, 4] and not torch.equal(drawn[0], drawn[4])
    assert recording.folder.snapshots() == []


class Clockwork:
    """A learner of steps and pictures that take as long as they are told to."""

    def __init__(self, monkeypatch, step: float, picture: float):
        self.now, self.step_seconds, self.picture_seconds, self.done = 0.0, step, picture, 0
        monkeypatch.setattr(previews.time, "monotonic", lambda: self.now)

    def step(self) -> None:
        self.done += 1
        self.now += self.step_seconds

    def preview(self, guidance_scale: float, untouched: bool = False) -> torch.Tensor:
        self.now += self.picture_seconds
        return torch.zeros(8, 8, 3)


@pytest.mark.parametrize(
    ("steps", "step", "picture", "drawn"),
    [
        (500, 1.0, 4.0, [0, *range(50, 501, 50)]),  # 11 pictures in 44 of 500 seconds
        (500, 1.0, 10.0, [0, 125, 250, 375, 500]),  # 5 in 50
        (500, 1.0, 40.0, []),  # one more would be too much, and the base model's alone shows nothing of the training
        (20, 1.0, 0.1, []),  # nobody waits for so short a run
    ],
)
def test_by_itself_a_run_spends_a_tenth_of_its_time_on_pictures(monkeypatch, tmp_path, steps, step, picture, drawn):
    learner, shown = Clockwork(monkeypatch, step, picture), Previews(PreviewConfig(), steps, RunFolder(tmp_path, ""))
    for _ in range(steps):
        learner.step()
        shown.after_step(learner)
    assert sorted(shown.pictures) == drawn
    assert len(shown.pictures) * picture <= 0.1 * steps * step


def test_a_contact_sheet_has_four_in_a_row(tmp_path):
    sheet = contact_sheet({f"step {n}": torch.rand(32, 32, 3) for n in range(6)})
    assert sheet.shape[1] > 1.5 * sheet.shape[0] and sheet.shape[-1] == 3
