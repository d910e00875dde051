"""The matrix: which faults each node is put to."""

from __future__ import annotations

from .fault import Fault
from .in_files import disk_faults, loading_faults, picture_faults, reading_faults, word_faults
from .in_loop import device_faults, loop_faults, progress_faults
from .in_model import cancel_faults, network_faults, silent_fault, text_faults, vae_faults
from .nodes import (
    DEMO_WORLD,
    GUIDE,
    LEARN_WORD,
    LOAD_LORA,
    OPTIONS,
    PERSONALIZE,
    PHOTOS,
    RECORD,
    REPORT,
    SAMPLED,
    SUBJECT,
    WORD_AGAIN,
    Node,
)

SMALL, LARGE, FLOW = PERSONALIZE
MATRIX: dict[Node, list[Fault]] = {
    node: [
        *network_faults(),
        *cancel_faults(),
        silent_fault(),
        *vae_faults(),
        *text_faults(),
        *disk_faults(),
        *progress_faults(),
        *device_faults(),
        *loop_faults(),
    ]
    for node in (SMALL, LEARN_WORD)
}
# What differs from the small model in its network and its text encoders alone.
MATRIX |= {LARGE: network_faults(["last"]), FLOW: [*network_faults(["first", "last"]), *cancel_faults(["last"])]}
MATRIX |= {WORD_AGAIN: word_faults()}
MATRIX |= {node: network_faults() for node in SAMPLED}
MATRIX[GUIDE] += [*vae_faults(), *text_faults()]
MATRIX[RECORD] += text_faults()
MATRIX[LOAD_LORA] += reading_faults()
MATRIX |= {node: reading_faults() for node in (OPTIONS, SUBJECT)}
MATRIX[REPORT] = text_faults()
MATRIX |= {DEMO_WORLD: loading_faults(), PHOTOS: picture_faults()}
COMBINATIONS = [(node, fault) for node, faults in MATRIX.items() for fault in faults]
