"""At which rate a LoRA learns, and at which the words of each text encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..models.backbone import Backbone
from ..models.lora import LoraAdapters
from .personalization_config import PersonalizationConfig

#: Deviation of the numbers in CLIP's token table, for which the default rate was chosen.
CLIP_SPREAD = 0.0138
WEIGHT_DECAY = 0.01  # of the LoRA; a word embedding is not drawn to zero


def parameter_groups(
    lora: LoraAdapters,
    words: Mapping[str, Mapping[str, nn.Parameter]],
    backbone: Backbone,
    config: PersonalizationConfig,
) -> list[dict]:
    """List what an optimizer trains: the LoRA, CLIP's vectors, and those of T5.

    T5's table is spread wider than CLIP's, so that its vectors learn at a rate in proportion. words: those that learn,
    placeholder -> encoder -> (N, C).
    """
    vectors = [(encoder, v) for word in words.values() for encoder, v in word.items()]
    rates = {"clip": config.embedding_learning_rate}
    if any(encoder == "t5xxl" for encoder, _ in vectors):
        spread = backbone.token_embeddings()["t5xxl"].float().std().item()
        rates["t5xxl"] = rates["clip"] * spread / CLIP_SPREAD
    found = {kind: [v for encoder, v in vectors if encoder.startswith(kind)] for kind in rates}
    learned = [{"params": found[kind], "lr": rate, "weight_decay": 0.0} for kind, rate in rates.items() if found[kind]]
    return [{"params": lora.parameters(), "lr": config.learning_rate, "weight_decay": WEIGHT_DECAY}, *learned]
