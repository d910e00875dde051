"""The metadata that other tools read: ModelSpec's fields and kohya's, each spelled once."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Literal

from ..models.families import Family

#: Under which a LoRA file describes itself, as JSON.
LORA_KEY = "palp"
#: Under which a word's file describes itself, as JSON.
WORD_KEY = "palp_embedding"
#: Under which a file of P+ or NeTI does, a word that is another one in each layer.
LAYERED_KEY = "palp_layered_word"


def to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def model_spec(
    family: Family,
    prediction: str,
    kind: Literal["lora", "textual-inversion"],
    title: str,
    description: str,
    resolution: int,
    trigger_phrase: str,
    usage_hint: str,
) -> dict[str, str]:
    """Write the fields of Stability's ModelSpec 1.0.1, in which tools look for trigger words."""
    architecture = family.architecture.format(size="768-v" if prediction == "v" else "512")
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/{kind}",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.description": description,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": prediction,
        "modelspec.trigger_phrase": trigger_phrase,
        "modelspec.usage_hint": usage_hint,
    }


def kohya(
    family: Family,
    title: str,
    rank: int,
    alpha: float,
    steps: int,
    settings: dict,
    resolution: int,
    images: dict[str, int],
    comment: str,
) -> dict[str, str]:
    """Write the fields of kohya's trainer. settings: of the training. images: trigger word -> number of its photos."""
    return {
        "ss_output_name": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": family.base_model_version,
        "ss_v2": str(family.name == "sd2"),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(settings["steps"]),
        "ss_seed": str(settings["seed"]),
        "ss_learning_rate": str(settings["learning_rate"]),
        "ss_batch_size_per_device": str(settings["batch_size"]),
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_num_train_images": str(sum(images.values())),
        "ss_tag_frequency": to_json({title: images}),
        "ss_training_finished_at": str(datetime.now(timezone.utc).timestamp()),
        "ss_training_comment": comment,
    }
