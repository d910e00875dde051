"""What a training tells its file: the description of what was learned, for whoever opens the file later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

from torch import Tensor

from ..files.embedding_file import save_embedding, word_metadata
from ..files.lora_file import (
    LoraFile,
    LoraInfo,
    MoreMetadata,
    SubjectInfo,
    find_trained,
    nothing_more,
    save_lora_file,
    write_lora_file,
)
from ..files.metadata import LAYERED_KEY, to_json
from ..files.names import check_file_name
from ..files.run_folder import RunFolder, find_run
from ..files.safetensors_file import save_new, save_somewhere
from ..models.backbone import Backbone
from ..models.prompts import embedding_prompt
from ..models.wording import put_words
from ..training.config import TrainingConfig
from ..training.loop import Training
from ..version import __version__
from .layered_words.learner import LayeredWord, LearnedLayers
from .personalization import Personalization
from .personalization_learner import Weights
from .textual_inversion import LearnedWord, TextualInversion

LONGEST_STEM = 80  # of a name that the steps of an unfinished training are added to


def save_run(run: Training[Weights], folder: str | Path, name: str, more: MoreMetadata = nothing_more) -> Path:
    """Write what a personalization has learned to folder/NAME_00001.safetensors; returns the path.

    The number is the first that is free. A training that ended early has the number of its steps in the name:
    NAME_step123_00001.safetensors. more: fields of a program's own for the metadata. Raises FileError for a name with
    path parts.
    """
    name = _with_steps(run, check_file_name(name))
    return save_lora_file(partial(describe, run.method, run.result), folder, name, more)


def save_snapshot(method: Personalization | TextualInversion, learned: Weights | LearnedWord, run: RunFolder) -> None:
    """Keep the LoRA and the words of a step in a training's folder; of a word alone, there is none. Raises OSError."""
    if isinstance(method, Personalization):
        file = run.snapshot(learned.steps)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_lora_file(file, describe(method, learned, f"{run.path.name}_step{learned.steps}"))


def save_word(run: Training[LearnedWord], folder: str | Path, name: str, overwrite: bool = False) -> Path:
    """Write a learned word to folder/NAME.safetensors for `embedding:NAME` in prompts; returns the path.

    A training that ended early has its steps in the name, NAME_step123, and replaces nothing, nor does any that is not
    told to overwrite: a name that is taken gets a number. Raises FileError for a name with path parts.
    """
    name = check_file_name(name, folder="embeddings")
    final = _with_steps(run, name)
    metadata = partial(word_metadata, _word_info(run), run.method.backbone.family, run.method.resolution)
    return save_embedding(run.result.vectors, metadata, folder, final, overwrite and final == name)


def save_layered_word(run: Training[LearnedLayers], folder: str | Path, name: str) -> Path:
    """Write what P+ or NeTI has learned to folder/NAME_00001.safetensors; returns the path.

    The number is the first that is free. No other program reads the file: its metadata says what it holds.
    """
    method = run.method
    info = {**_method_info(run), **_kind(method), "layers": list(method.layers)}
    files = (Path(folder) / f"{_with_steps(run, name)}_{number:05}.safetensors" for number in count(1))
    return save_new(files, lambda _file: (run.result.tensors, {LAYERED_KEY: to_json(info)}))


def _with_steps(run: Training, name: str) -> str:
    if run.result.steps == run.method.config.steps:
        return name
    return f"{name[:LONGEST_STEM]}_step{run.result.steps}"


def describe(method: Personalization, weights: Weights, name: str) -> LoraFile:
    """Return the content of the file called `name` for what a personalization has learned."""
    names, texts = _embedding_names(name, list(method.initial)), method.texts
    subjects = tuple(
        SubjectInfo(
            p, s.class_word.strip(), names.get(p, ""), s.personalization_prompt, len(s.images), texts.get(p, "")
        )
        for p, s in method.subjects.items()
    )
    info = LoraInfo(
        version=__version__,
        family=method.backbone.family.name,
        prediction=method.backbone.prediction.name,
        rank=method.config.rank,
        alpha=float(method.config.rank),
        target_prompt=method.target_prompt,
        clean_prompt=method.clean_prompt,
        prompt=put_words(embedding_prompt(method.target_prompt, names), texts),
        steps=weights.steps,
        subjects=subjects,
        settings=_settings(method),
        identity=method.identity,
    )
    return LoraFile(weights.lora, {names[p]: word for p, word in weights.words.items()}, info)


def _embedding_names(name: str, placeholders: list[str]) -> dict[str, str]:
    """The file's own name for one subject; with several, the placeholder's name behind it."""
    if len(placeholders) == 1:
        return {placeholders[0]: name}
    return {p: f"{name}_{p.strip('[]')}" for p in placeholders}


def _word_info(run: Training[LearnedWord]) -> dict:
    """What the file says of its word."""
    return {**_method_info(run), "vectors": len(next(iter(run.result.vectors.values())))}


def _method_info(run: Training[LearnedWord | LearnedLayers]) -> dict:
    """What a word's file says of how it was learned."""
    method, concept = run.method, run.method.concept
    return {
        "version": __version__,
        "family": method.backbone.family.name,
        "prediction": method.backbone.prediction.name,
        "initial_word": None if concept.initial_embedding else concept.initial_word.strip(),
        "initial_embedding": concept.initial_embedding.name if concept.initial_embedding else None,
        "kind": concept.kind,
        "images": len(concept.images),
        "steps": run.result.steps,
        "settings": _settings(method),
    }


def _kind(method: TextualInversion | LayeredWord) -> dict[str, str]:
    """Say which of the methods that learn a word by layers it is; their settings have the same names."""
    return {"method": method.kind.title} if isinstance(method, LayeredWord) else {}


def _settings(method: Personalization | TextualInversion | LayeredWord) -> dict:
    """The settings as they were used: with the resolution that 0 stands for, and the score's name."""
    return {**described_config(method.config), "resolution": method.resolution}


def described_config(config: TrainingConfig) -> dict:
    """Turn settings into what JSON can hold."""
    found = asdict(config)
    if "alignment" in found:
        found["alignment"]["score"] = {"name": config.alignment.score.name, **found["alignment"]["score"]}
    return found


def word_folder(method: TextualInversion | LayeredWord, parent: Path, name: str, anew: bool) -> RunFolder:
    """Find the folder of a word's training by its identity, as `find_run` does."""
    return find_run(parent, name, word_identity(method, name), described_run(method), method.config.steps, anew)


def personalization_folder(
    method: Personalization, parent: Path, name: str, anew: bool, places: Iterable[str | Path]
) -> RunFolder:
    """Find the folder of a training by its identity, as `find_run` does, with its result if that is in the places.

    A file that came without the folder, as from somebody else, says itself what training it is of.
    """
    method.identity, steps = personalization_identity(method), method.config.steps
    run, folders = find_run(parent, name, method.identity, described_run(method), steps, anew), [*map(Path, places)]
    if not anew and run.result(steps, folders) is None and (file := find_trained(folders, method.identity, steps)):
        with suppress(OSError):  # where the folder cannot be written to, it is trained
            run.finish(steps, file)
    return run


def personalization_identity(method: Personalization) -> str:
    """Return model, photos, prompts and settings of a personalization in a few letters."""
    tensors, texts = [], [method.target_prompt, method.clean_prompt, *method.texts.values()]
    for subject in method.subjects.values():
        texts += [subject.placeholder, subject.class_word, *subject.photo_prompts]
        learned = subject.initial_embedding.vectors.values() if subject.initial_embedding else ()
        tensors += [*subject.images, *_masks(subject.masks), *learned]
    return _identity(method.backbone, method.config, texts, tensors)


def _masks(masks: Iterable[Tensor | None]) -> list[Tensor | str]:
    return ["no mask" if mask is None else mask for mask in masks]


def word_identity(method: TextualInversion | LayeredWord, name: str) -> str:
    """Return name, model, pictures, sentences and settings of a word's training in a few letters.

    A word is its name: under another one it is another word.
    """
    concept = method.concept
    texts = [name, concept.initial_word, concept.kind, *concept.templates, "captions", *concept.captions]
    learned = concept.initial_embedding.vectors.values() if concept.initial_embedding else ()
    parts = [*_kind(method).values(), *concept.images, *_masks(concept.masks), *learned]
    return _identity(method.backbone, method.config, texts, parts)


def _identity(backbone: Backbone, config: TrainingConfig, texts: list[str], parts: Iterable[Tensor | str]) -> str:
    """Of all that the result depends on; another version of PALP may keep another state.

    The number of steps and what only saves memory are left out: both may be others when a training goes on. Where
    learning rates fall to the end, each step depends on how many there are.
    """
    steps = 1 if config.lr_scheduler == "constant" else config.steps
    settings = described_config(replace(config, steps=steps, gradient_checkpointing=False))
    kind = [__version__, backbone.family.name, backbone.prediction.name, str(backbone.compute_dtype)]
    digest = sha256(json.dumps([settings, texts, *kind]).encode())
    for part in (*backbone.fingerprint(), *parts):
        digest.update(part.encode() if isinstance(part, str) else _bytes(part))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """Shape and numbers."""
    return repr(tuple(tensor.shape)).encode() + tensor.detach().cpu().float().numpy().tobytes()


def described_run(method: Personalization | TextualInversion | LayeredWord) -> dict:
    """Say what is trained, for whoever opens the folder of a training."""
    shared = {"version": __version__, "family": method.backbone.family.name, "settings": _settings(method)}
    if not isinstance(method, Personalization):
        concept = method.concept
        return {**shared, **_kind(method), "initial_word": concept.initial_word, "photos": len(concept.images)}
    subjects = {s.placeholder: {"class_word": s.class_word, "photos": len(s.images)} for s in method.subjects.values()}
    return {**shared, "target_prompt": method.target_prompt, "clean_prompt": method.clean_prompt, "subjects": subjects}


def keep_unfinished(run: Training, save: Callable[[Path], Path], folders: Sequence[Path]) -> str:
    """Save what a training that ended early has learned, if anything, in the first folder that takes it; says where.

    It is what is left to do after a fault, which must be told: where it fails too, as on a full disk, it says so.
    """
    if run.lost is not None:
        return f"What was learned could not be copied from the model: {run.lost}"
    if run.result is None or run.result.steps == 0:
        return "No step was completed, so nothing was saved."
    try:
        path = save_somewhere(save, folders)
    except OSError as error:  # whose text says what could not be saved, and why
        return str(error)
    except Exception as error:
        return f"What was learned could not be saved: {error}"
    where = path.name if path.parent == folders[0] else path
    return f"What was learned in {run.result.steps} steps is kept in {where}."
