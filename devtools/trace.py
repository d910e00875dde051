"""Shows whether a change of the code changes what is trained: `python -m devtools.trace`.

Each line holds a training of five steps and a hash of all its losses and weights. Two commits that print the same lines
on one machine train the same, bit for bit.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.concept import Concept
from palp_core.methods.personalization import Personalization, PersonalizationConfig
from palp_core.methods.scores import Delta, Nfsd, Palp, Sds
from palp_core.methods.subjects import Subject
from palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from palp_core.models.backbone import Backbone
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import MODEL_FOLDER
from palp_core.training.loop import Training

from .random_models import pictures, tiny_pipeline

STEPS = 5
RESUMED_AFTER = 3
PROMPT = "a sketch of [V] on the beach"
TWO_SUBJECTS = "a sketch of [V] and [V2]"
ALIGNMENTS = {
    "plain": AlignmentConfig(0.0),
    "delta": AlignmentConfig(1.0, Delta(0.25, interval=1)),
    "palp": AlignmentConfig(0.5, Palp(4.0, 2.0)),
    "palp without guidance of its own": AlignmentConfig(0.5, Palp(4.0, 1.0)),
    "fresh noise": AlignmentConfig(0.5, Palp(4.0, 2.0), noise="fresh"),
    "not rescaled": AlignmentConfig(0.5, Palp(4.0, 2.0), rescale=False),
    "sds": AlignmentConfig(0.5, Sds(4.0)),
    "nfsd": AlignmentConfig(0.5, Nfsd(4.0, negative_prompt="bad")),
}

Result = tuple[list[tuple], dict[str, Tensor]]


def settings(alignment: AlignmentConfig, **changed) -> PersonalizationConfig:
    usual = {"steps": STEPS, "learning_rate": 2e-3, "embedding_learning_rate": 2e-3, "rank": 4, "resolution": 64}
    return PersonalizationConfig(**{**usual, **changed}, alignment=alignment)


def masks(images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The middle of each image (H, W, 3)."""
    found = [torch.zeros(image.shape[:2]) for image in images]
    for mask in found:
        height, width = mask.shape
        mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1
    return tuple(found)


def subjects(count: int, masked: bool) -> list[Subject]:
    made = []
    for number, (name, word) in enumerate((("[V]", "cat"), ("[V2]", "robot"))[:count]):
        images = pictures((64, 64), (64 + 16 * number, 64))
        made.append(Subject(images, word, name, masks=masks(images) if masked else ()))
    return made


def personalized(backbone: Backbone, alignment: AlignmentConfig, count=1, masked=False, resumed=False, **changed):
    config = settings(alignment, **changed)

    def make() -> Personalization:
        return Training(
            Personalization(backbone, subjects(count, masked), PROMPT if count == 1 else TWO_SUBJECTS, config)
        )

    steps, run = iterated(make, resumed)
    words = {f"{p}.{e}": v for p, word in run.result.words.items() for e, v in word.items()}
    return steps, {**run.result.lora, **words}


def iterated(make: Callable, resumed: bool) -> tuple[list[tuple], object]:
    """All steps of a run, and the run that has ended; resumed: of two runs, one of which goes on with the other."""
    run, seen, state = make(), [], None
    if resumed:
        with closing(run.steps()) as steps:
            for step in steps:
                seen.append(numbers(step))
                if len(seen) == RESUMED_AFTER:
                    state = run.learner.state()
                    break
        run = make()
    seen += [numbers(step) for step in (run.steps(state) if resumed else run.steps())]
    return seen, run


def numbers(step) -> tuple:
    """What the step measured, in an order that no change of names changes."""
    losses = (step.losses.get(name, 0.0) for name in ("denoising_loss", "score_gap", "regularization"))
    return (step.index, step.subject, step.sigma, *losses)


def word_learned(backbone: Backbone, masked: bool = False, captions: tuple[str, ...] = (), **changed) -> Result:
    images = pictures((64, 64), (80, 64))
    known = len(backbone.word_vectors("cat")[backbone.family.encoders[0]]) == 1
    word = "cat" if known else "c"
    concept = Concept(images, word, masks=masks(images) if masked else (), captions=captions)
    config = TextualInversionConfig(steps=STEPS, resolution=64, **changed)
    steps, run = iterated(lambda: Training(TextualInversion(backbone, concept, config)), False)
    return steps, run.result.vectors


def cases(backbone: Backbone) -> Iterator[tuple[str, Result]]:
    for name, alignment in ALIGNMENTS.items():
        yield name, personalized(backbone, alignment)
        yield f"{name}, masks", personalized(backbone, alignment, masked=True)
        yield f"{name}, two subjects", personalized(backbone, alignment, count=2)
        yield f"{name}, resumed", personalized(backbone, alignment, resumed=True)
    delta = ALIGNMENTS["delta"]
    yield "delta, frozen word", personalized(backbone, delta, embedding_learning_rate=0.0)
    yield "delta, checkpointed", personalized(backbone, delta, gradient_checkpointing=True)
    yield "delta, one image a step", personalized(backbone, delta, batch_size=1, seed=3)
    yield "textual inversion", word_learned(backbone)
    yield "textual inversion, masks", word_learned(backbone, masked=True)
    yield "textual inversion, captions", word_learned(backbone, captions=("{} in a room", "{} on the beach"))
    yield "textual inversion, vectors", word_learned(backbone, vectors=3, regularization=0.2)
    yield "textual inversion, free norm", word_learned(backbone, hold_norm=False, gradient_checkpointing=True)


def digest(result: Result) -> str:
    steps, weights = result
    found = sha256()
    for step in steps:
        found.update("|".join(v.hex() if isinstance(v, float) else str(v) for v in step).encode())
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def models(folder: Path) -> Iterator[tuple[str, Backbone]]:
    yield "toy world", DiffusersBackbone(load_pipeline(MODEL_FOLDER), "cpu")
    for family, prediction in (("sd1", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon")):
        yield f"tiny {family}", DiffusersBackbone(tiny_pipeline(family, folder / family, prediction), "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brief", action="store_true", help="print the hash of all trainings together, and no other")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    together = sha256()
    with tempfile.TemporaryDirectory() as folder:
        for model, backbone in models(Path(folder)):
            for case, result in cases(backbone):
                line = f"{digest(result)[:16]}  {model}: {case}"
                together.update(line.encode())
                if not arguments.brief:
                    print(line, flush=True)
    print(f"{together.hexdigest()}  all trainings")


if __name__ == "__main__":
    main()
