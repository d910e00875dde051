"""Files as a training saves them, with random content, in no time: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from palp_core.files.embedding_file import save_embedding, word_metadata
from palp_core.files.lora_file import LoraFile, LoraInfo, SubjectInfo, save_lora_file
from palp_core.models.families import FAMILIES

PROJECTIONS = ("lora_unet_down_blocks_0_to_q", "lora_unet_down_blocks_0_to_k")
SETTINGS = {"steps": 4, "seed": 7, "learning_rate": 1e-4, "batch_size": 1, "resolution": 64}
RANK, IN, OUT, WIDTH = 4, 12, 20, 32


def random_lora() -> dict[str, Tensor]:
    """The projections of a LoRA by their kohya keys."""
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for name in PROJECTIONS:
        lora[f"{name}.lora_down.weight"] = torch.randn(RANK, IN, generator=generator)
        lora[f"{name}.lora_up.weight"] = torch.randn(OUT, RANK, generator=generator)
        lora[f"{name}.alpha"] = torch.tensor(float(RANK))
    return lora


def random_word(family: str = "sd1", vectors: int = 1) -> dict[str, Tensor]:
    """A word by the names of the family's encoders."""
    generator = torch.Generator().manual_seed(1)
    return {encoder: torch.randn(vectors, WIDTH, generator=generator) for encoder in FAMILIES[family].encoders}


def random_lora_file(folder: Path, name: str = "cat", family: str = "sd1") -> Path:
    """folder/NAME_00001.safetensors, as PALP Personalize saves it."""

    def content(title: str) -> LoraFile:
        subject = SubjectInfo("[V]", "cat", title, "a photo of [V]", 1)
        info = LoraInfo(
            version="0.1.0",
            family=family,
            prediction="epsilon",
            rank=RANK,
            alpha=float(RANK),
            target_prompt="a sketch of [V] in Paris",
            clean_prompt="a sketch of a cat in Paris",
            prompt=f"a sketch of embedding:{title} in Paris",
            steps=4,
            subjects=(subject,),
            settings=SETTINGS,
        )
        return LoraFile(random_lora(), {title: random_word(family)}, info)

    return save_lora_file(content, folder, name)


def word_description(vectors: int = 1) -> dict:
    """What a word's file says of itself."""
    return {
        "version": "0.1.0",
        "family": "sd1",
        "prediction": "epsilon",
        "initial_word": "c",
        "initial_embedding": None,
        "kind": "object",
        "vectors": vectors,
        "images": 1,
        "steps": 4,
        "settings": SETTINGS,
    }


def random_word_file(folder: Path, name: str = "cat", overwrite: bool = False) -> Path:
    """folder/NAME.safetensors, as Textual Inversion Train saves it."""

    def describe(title: str) -> dict[str, str]:
        return word_metadata(word_description(), FAMILIES["sd1"], 64, title)

    return save_embedding(random_word(), describe, folder, name, overwrite)


def random_state(steps: int = 3) -> tuple[dict[str, Tensor], list[dict]]:
    """What a personalization goes on from, and what its steps measured."""
    parameters = random_lora()
    trained = [value for key, value in parameters.items() if not key.endswith(".alpha")]
    word = {"word.[V].clip_l": random_word()["clip_l"]}
    state = {**parameters, **word}
    for number, parameter in enumerate([*trained, *word.values()]):
        state[f"optimizer.{number}.step"] = torch.tensor(float(steps))
        state[f"optimizer.{number}.exp_avg"] = torch.full_like(parameter, 0.1)
        state[f"optimizer.{number}.exp_avg_sq"] = torch.full_like(parameter, 0.01)
    random = torch.Generator().manual_seed(2).get_state()
    state |= {"random": random, "alignment_random": random.clone(), "steps": torch.tensor(steps)}
    losses = {"denoising_loss": 0.25, "score_gap": 0.5}
    return state, [{"index": i, "sigma": 1.5, "losses": losses, "subject": "[V]"} for i in range(steps)]


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Path:
    """Change a file's tensors and metadata in place, as another tool does: the checksum is gone then."""
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
    metadata.pop("palp_sha256", None)
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path
