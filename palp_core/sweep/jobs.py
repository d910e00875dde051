"""A plan of a sweep as YAML: read, checked key by key, with the line in every error.

    model: sd15.safetensors
    subjects:
      my_cat: {photos: my_cat/, class_word: cat}
    prompts: ["a sketch of [V] in Paris"]
    methods:
      plain: {alignment_weight: 0}
      delta: {}
    settings: {steps: 500}
    seeds: [0, 1, 2]
    pictures: {count: 4}

Paths are taken from the folder of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import quoted
from ..methods.alignment import AlignmentConfig
from ..methods.scores import SCORES
from .plan import (
    DEMO_MODELS,
    DEMO_PICTURES,
    KIND,
    LORA_AND_WORD,
    SCORE,
    WEIGHT,
    WORD_CONFIGS,
    Kind,
    Method,
    Pictures,
    Plan,
    SubjectJob,
    check_prompts,
    config_of,
    demo_settings,
    setting_names,
    word_setting_names,
)
from .sections import Section, hints_of

KEYS = ("model", "subjects", "prompts", "methods", "settings", "seeds", "pictures", "clip", "dino", "precision")
#: What a method is called of which nothing is trained.
BASE = "base"


def read_jobs(file: Path, changes: Sequence[str] = ()) -> Plan:
    """Read a plan. changes: "settings.steps=100" and the like, in place of what the file says.

    Raises FileError for a file that is no YAML, SettingError and PromptError with key and line for what is wrong in it.
    """
    root = Section.read(file, changes)
    root.allow(KEYS)
    model = _model(root)
    prompts = root.values_of("prompts", str) if "prompts" in root else ()
    with root.at("prompts"):
        check_prompts(prompts)
    subjects = {name: _subject(section, name, model, prompts) for name, section in root.sections("subjects")}
    pictures = root.section("pictures")
    with pictures.at():
        drawn = Pictures(**{**(DEMO_PICTURES if str(model) in DEMO_MODELS else {}), **pictures.typed(Pictures)})
    return Plan(
        model,
        subjects,
        prompts,
        tuple(_methods(root, model)),
        _seeds(root),
        drawn,
        root.path("clip"),
        root.path("dino"),
        root.value("precision", hints_of(Plan)["precision"], "auto"),
    )


def _model(root: Section) -> Path | str:
    name = root.value("model", str)
    if name in DEMO_MODELS:
        return name
    path = root.path("model")
    if not path.exists():
        raise root.error("model", f"is {quoted(name)}: there is no such file or folder, and {', '.join(DEMO_MODELS)}")
    return path


def _subject(section: Section, name: str, model: Path | str, prompts: tuple[str, ...]) -> SubjectJob:
    if any(letter in name for letter in "/\\") or name.startswith("."):
        raise section.error(None, "is no name of a folder, under which photos are kept")
    with section.at():
        job = SubjectJob(**section.typed(SubjectJob))
    if job.individual is not None and str(model) not in DEMO_MODELS:
        raise section.error("individual", f"is of the demo world, and model is {model}")
    if not (job.prompts or prompts):
        raise section.error(None, "has no prompts, and neither has the file")
    return job


def _methods(root: Section, model: Path | str) -> Iterator[Method]:
    """Each with the shared settings and its own; `base` has the shared ones alone, and trains nothing."""
    shared, demo = root.section("settings"), DEMO_MODELS.get(str(model))
    _settings(shared, _all_setting_names(), (SCORE,))
    for name, section in root.sections("methods"):
        if name == BASE:
            section.allow(())
        kind = section.value(KIND, Kind, LORA_AND_WORD)
        known = demo_settings(demo, kind) if demo else {}
        if kind in WORD_CONFIGS:
            homes = word_setting_names(kind)
            values = {**known, **_shared_settings(shared, homes), **_settings(section, homes, (KIND,))}
            with section.at():
                yield Method(name, WORD_CONFIGS[kind](**values))
            continue
        score = section.value(SCORE, str, shared.value(SCORE, str, AlignmentConfig().score.name))
        if score not in SCORES:
            raise section.error(SCORE, f"is {quoted(score)}; it must be one of {', '.join(SCORES)}")
        homes = setting_names(score)
        values = {**known, **_shared_settings(shared, homes), **_settings(section, homes, (KIND, SCORE)), SCORE: score}
        with section.at():
            yield Method(name, config_of(values | ({WEIGHT: 0.0} if name == BASE else {})), trains=name != BASE)


def _settings(section: Section, homes: Mapping[str, type], beside: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that a section names, each of the type that its home says. beside: other keys that it may have."""
    section.allow((*beside, *homes))
    return {name: section.value(name, _type_of(name, homes[name])) for name in section if name in homes}


def _type_of(name: str, home: type) -> Any:
    return hints_of(home)["weight" if name == WEIGHT else name]


def _all_setting_names() -> dict[str, type]:
    """Those that any method may have."""
    words = {name: home for kind in WORD_CONFIGS for name, home in word_setting_names(kind).items()}
    return {**words, **{name: home for score in SCORES for name, home in setting_names(score).items()}}


def _shared_settings(shared: Section, homes: Mapping[str, type]) -> dict[str, Any]:
    """Those of all methods; of settings of another kind, or of another score, the method has none."""
    return {name: shared.value(name, _type_of(name, homes[name])) for name in shared if name in homes}


def _seeds(root: Section) -> tuple[int, ...]:
    seeds = root.values_of("seeds", int) if "seeds" in root else (0,)
    if unfit := [seed for seed in seeds if seed < 0 or seeds.count(seed) > 1]:
        raise root.error("seeds", f"has {unfit[0]}, which is negative or there twice")
    return seeds
