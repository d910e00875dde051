"""A LoRA of ours on a pipeline with a transformer, by the transformer's own loader."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import ModelError
from .architecture import Architecture
from .flow import named_projections

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def load_lora(pipeline, architecture: Architecture, lora: Mapping[str, Tensor]) -> None:
    """Put a LoRA under kohya's names on the pipeline, until it is unloaded.

    diffusers reads these names for some families only, and for widths of the published models only. Raises ModelError
    where a part of the LoRA fits nothing in the model.
    """
    names = named_projections(architecture, pipeline.transformer)
    strange = sorted({key.partition(".")[0] for key in lora} - names.keys())
    if strange:
        raise ModelError(
            f"the model has no projection for {len(strange)} of the file's ({strange[0]}, ...). Use one of its size."
        )
    given = {key: parts for key, parts in names.items() if key + UP in lora}
    state = [_parts(pipeline.transformer, lora, key, parts) for key, parts in given.items()]
    pipeline.transformer.load_lora_adapter({name: tensor for part in state for name, tensor in part.items()})


def _parts(transformer, lora: Mapping[str, Tensor], key: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    """One projection under diffusers' names: its modules share `lora_down`, and split the rows of `lora_up`."""
    down, up = lora[key + DOWN].float(), lora[key + UP].float()
    up = up * (lora[key + ALPHA].float() / len(down))
    widths = [transformer.get_submodule(name).out_features for name in names]
    if sum(widths) != len(up):
        raise ModelError(
            f"the file's {key} has {len(up)} rows, and the model's {sum(widths)}. Use a model of its size."
        )
    state = {}
    for name, rows in zip(names, up.split(widths), strict=True):
        state[f"transformer.{name}.lora_A.weight"] = down
        state[f"transformer.{name}.lora_B.weight"] = rows.contiguous()
    return state
