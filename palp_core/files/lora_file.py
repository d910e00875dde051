"""One .safetensors per run: the LoRA, the learned words, and metadata that says what it is and how to use it.

Keys: `lora_unet_*` in the kohya convention, and each word as `bundle_emb.NAME.*` beside them, as A1111 defined it and
ComfyUI reads it: `string_to_param.*` for one text encoder, `clip_l` and `clip_g` for SDXL's two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..methods.personalization import Personalization
from ..models.backbone import Family, Prediction
from ..models.prompts import embedding_prompt
from ..version import __version__
from .names import check_file_name
from .safetensors_file import claimed, save_tensors, unreadable

METADATA_KEY = "palp"
SINGLE_ENCODER_KEY = "string_to_param.*"
SAVED_DTYPE = torch.float16

#: family -> (modelspec.architecture, ss_base_model_version), as the tools that read them spell it.
BASE_NAMES = {
    "sd1": ("stable-diffusion-v1", "sd_v1"),
    "sd2": ("stable-diffusion-v2-{size}", "sd_v2"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
}


@dataclass(frozen=True)
class SubjectInfo:
    """What the file says of one subject."""

    placeholder: str
    class_word: str
    embedding: str  # NAME in `embedding:NAME`
    personalization_prompt: str
    images: int


@dataclass(frozen=True)
class LoraInfo:
    """The file's own description, stored as JSON under the metadata key `palp`."""

    version: str
    family: Family
    prediction: str
    rank: int
    alpha: float
    target_prompt: str
    clean_prompt: str
    prompt: str  # the target prompt as a user types it: with embedding:NAME
    steps: int
    seed: int
    subjects: tuple[SubjectInfo, ...]
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class LoraFile:
    """A file's content. words: embedding name -> encoder (clip_l, clip_g, clip_h) -> (N, C)."""

    lora: dict[str, Tensor]
    words: dict[str, dict[str, Tensor]]
    info: LoraInfo

    @property
    def projections(self) -> int:
        """How many projections of the denoiser it changes."""
        return sum(key.endswith(".lora_up.weight") for key in self.lora)


def check_can_save(folder: str | Path, name: str) -> None:
    """Before a long run: raise ValueError where `save_run` to this folder and name would fail."""
    name = check_file_name(name)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with claimed(_numbered(Path(folder), name)):
            pass
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be written to: {error}. Make it writable.") from error


def save_run(run: Personalization, folder: str | Path, name: str) -> Path:
    """Write what a run has learned to folder/NAME_00001.safetensors, at the first free number; returns the path.

    A run that ended early has the number of its steps in the name: NAME_step123_00001.safetensors.
    The file appears whole or not at all and never replaces another. Raises ValueError for a name with path parts.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = check_file_name(name)
    if run.weights.steps < run.config.steps:
        name = f"{name}_step{run.weights.steps}"
    with claimed(_numbered(folder, name)) as target:
        content = describe(run, target.stem)
        save_tensors(target, _tensors(content), _metadata(content, run, target.stem))
    return target


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    return (folder / f"{name}_{number:05}.safetensors" for number in count(1))


def describe(run: Personalization, name: str) -> LoraFile:
    """The content of the file called `name` for what a run has learned."""
    config, weights = run.config, run.weights
    names = _embedding_names(name, list(run.subjects))
    subjects = tuple(
        SubjectInfo(p, s.class_word.strip(), names[p], s.personalization_prompt, len(s.images))
        for p, s in run.subjects.items()
    )
    info = LoraInfo(
        version=__version__,
        family=run.backbone.family,
        prediction=run.backbone.prediction,
        rank=config.rank,
        alpha=float(config.rank),
        target_prompt=run.target_prompt,
        clean_prompt=run.clean_prompt,
        prompt=embedding_prompt(run.target_prompt, names),
        steps=weights.steps,
        seed=config.seed,
        subjects=subjects,
        settings=asdict(config),
    )
    return LoraFile(weights.lora, {names[p]: word for p, word in weights.words.items()}, info)


def _embedding_names(name: str, placeholders: list[str]) -> dict[str, str]:
    """The file's own name for one subject; with several, the placeholder's name behind it."""
    if len(placeholders) == 1:
        return {placeholders[0]: name}
    return {p: f"{name}_{p.strip('[]')}" for p in placeholders}


def _tensors(content: LoraFile) -> dict[str, Tensor]:
    tensors = dict(content.lora)
    for name, word in content.words.items():
        for encoder, vectors in word.items():
            key = encoder if len(word) > 1 else SINGLE_ENCODER_KEY
            tensors[f"bundle_emb.{name}.{key}"] = vectors
    return {key: tensor.to(SAVED_DTYPE) for key, tensor in tensors.items()}


def architecture(family: Family, prediction: Prediction, kind: str) -> str:
    """What the ModelSpec standard calls a file of this kind (lora, textual-inversion) for a model."""
    return f"{BASE_NAMES[family][0].format(size='768-v' if prediction == 'v' else '512')}/{kind}"


def _metadata(content: LoraFile, run: Personalization, name: str) -> dict[str, str]:
    """Ours under one key, and the fields in which other tools look for trigger words and settings."""
    info, config = content.info, run.config
    words = list(content.words)
    now = datetime.now(timezone.utc)
    return {
        "format": "pt",
        METADATA_KEY: json.dumps(asdict(info), ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(info.family, info.prediction, "lora"),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": name,
        "modelspec.description": f"PALP personalization for: {info.target_prompt}",
        "modelspec.date": now.isoformat(timespec="seconds"),
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": info.prediction,
        "modelspec.trigger_phrase": ", ".join(words),
        "modelspec.usage_hint": f"ComfyUI: {info.prompt}",
        "trained_words": json.dumps(words, ensure_ascii=False),
        "ss_output_name": name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(info.rank),
        "ss_network_alpha": str(info.alpha),
        "ss_base_model_version": BASE_NAMES[info.family][1],
        "ss_v2": str(info.family == "sd2"),
        "ss_steps": str(info.steps),
        "ss_max_train_steps": str(config.steps),
        "ss_seed": str(info.seed),
        "ss_learning_rate": str(config.learning_rate),
        "ss_batch_size_per_device": str(config.batch_size),
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_num_train_images": str(sum(s.images for s in info.subjects)),
        "ss_tag_frequency": json.dumps({name: {s.embedding: s.images for s in info.subjects}}, ensure_ascii=False),
        "ss_training_finished_at": str(now.timestamp()),
        "ss_training_comment": info.prompt,
    }


def load_lora_file(path: str | Path) -> LoraFile:
    """Read a file of ours. Raises ValueError when it is corrupt, or was made by something else."""
    path = Path(path)
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path.name} was not made by PALP: it says nothing of itself. Use ComfyUI's Load LoRA for it."
        )
    try:
        info = _info(json.loads(metadata[METADATA_KEY]))
        words = _words(tensors, info)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the description inside {path.name} is damaged ({error!r}). Copy or download it again."
        ) from error
    return LoraFile({k: v for k, v in tensors.items() if not k.startswith("bundle_emb.")}, words, info)


def _info(described: dict) -> LoraInfo:
    """Fields that a later version added are passed over."""
    known = {k: v for k, v in described.items() if k in LoraInfo.__dataclass_fields__}
    subject_fields = SubjectInfo.__dataclass_fields__
    subjects = tuple(SubjectInfo(**{k: v for k, v in s.items() if k in subject_fields}) for s in known["subjects"])
    return LoraInfo(**{**known, "subjects": subjects})


def _words(tensors: dict[str, Tensor], info: LoraInfo) -> dict[str, dict[str, Tensor]]:
    keys = {
        "sd1": {"clip_l": SINGLE_ENCODER_KEY},
        "sd2": {"clip_h": SINGLE_ENCODER_KEY},
        "sdxl": {"clip_l": "clip_l", "clip_g": "clip_g"},
    }[info.family]
    return {
        s.embedding: {encoder: tensors[f"bundle_emb.{s.embedding}.{key}"].float() for encoder, key in keys.items()}
        for s in info.subjects
    }
