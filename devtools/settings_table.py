"""Writes docs/settings.md, the tables of all settings, from the core: `python -m devtools.settings_table`."""

from __future__ import annotations

from pathlib import Path

from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.layered_words.neti import NetiConfig
from palp_core.methods.layered_words.p_plus import PPlusConfig
from palp_core.methods.memory import MemoryConfig
from palp_core.methods.personalization import PersonalizationConfig
from palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig
from palp_core.methods.previews import PreviewConfig
from palp_core.methods.scores import SCORES
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.settings import Setting, choices_of, default_of, settings_of

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

HEAD = """\
# Settings

This page is made from the code by `python -m devtools.settings_table`. Change a setting in `palp_core`, and make the
page again.

*Bounds* are the values that are accepted, and *usual* are those that suit most trainings. A node's widget has the same
name as the setting. On the command line, `learning_rate` is `--learning-rate`, and so on.
"""

PERSONALIZATION = """\
**PALP Personalize** has `steps` and `seed`; **PALP Options** has the others. `max_grad_norm` is an option of
`palp train` only.
"""

ALIGNMENT = """\
`weight` is called `alignment_weight` in **PALP Personalize** and `--alignment-weight` in `palp train`. `noise` and
`rescale` serve comparisons, and are options of `palp train` only. The score is chosen besides, as `score`.
"""

SCORE = {
    "delta": "This score is the default. **PALP Options** and `palp train` have it.",
    "palp": "This score is the paper's. **PALP Options** and `palp train` have it.",
    "sds": "This score serves comparisons. Only `palp train` has it.",
    "nfsd": "This score serves comparisons. Only `palp train` has it.",
}

PREVIEWS = """\
**PALP Options**, `palp train` and `palp learn-word` have both. They change nothing that is learned.
"""

MEMORY = """\
**PALP Options**, `palp train` and `palp learn-word` have it. It only ever lowers what you have set, and the training is
that of the settings it has then.
"""

TEXTUAL_INVERSION = """\
**Textual Inversion Train** has `steps`, `learning_rate`, `vectors`, `hold_norm`, `regularization` and `seed`. It takes
the others from a connected **PALP Options**, but for `max_grad_norm`, which is an option of `palp learn-word` only. The
command has all of them.
"""

LAYERED_WORDS = """\
It serves comparisons: only `palp sweep` has it, as a method of `kind: {}`.
"""

PICK_AND_DRAW = """\
**Pick-and-Draw Guidance** has all of them. It also has a `resolution` for its reference; 0 is the model's own.
"""


def settings_page() -> str:
    """Write the page in Markdown."""
    sections = [
        section("PALP: PersonalizationConfig", PERSONALIZATION, PersonalizationConfig),
        section("How the prompt is kept: AlignmentConfig", ALIGNMENT, AlignmentConfig),
        *(section(f"Score {name}: {score.__name__}", SCORE[name] + "\n", score) for name, score in SCORES.items()),
        section("Pictures while it trains: PreviewConfig", PREVIEWS, PreviewConfig),
        section("What it fits into: MemoryConfig", MEMORY, MemoryConfig),
        section("Textual Inversion: TextualInversionConfig", TEXTUAL_INVERSION, TextualInversionConfig),
        section("P+: PPlusConfig", LAYERED_WORDS.format("p_plus"), PPlusConfig),
        section("NeTI: NetiConfig", LAYERED_WORDS.format("neti"), NetiConfig),
        section("Pick-and-Draw Guidance: PickAndDrawConfig", PICK_AND_DRAW, PickAndDrawConfig),
    ]
    return "\n".join([HEAD, *sections])


def section(title: str, where: str, config: type) -> str:
    """Write a heading, a sentence on where a config's settings are found, and their table."""
    rows = ["| setting | default | usual | bounds | what it does |", "|---|---|---|---|---|"]
    for name, setting in settings_of(config).items():
        cells = [f"`{name}`", default_text(default_of(config, name)), setting.usual or "–"]
        rows.append("| " + " | ".join([*cells, bounds_text(config, name, setting), setting.help]) + " |")
    return "\n".join([f"## {title}", "", where, *rows, ""])


def default_text(value: object) -> str:
    """Write a default as a user would."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if value != "" else "empty"


def bounds_text(config: type, name: str, setting: Setting) -> str:
    """Say which values a setting may have."""
    default = default_of(config, name)
    if choices := choices_of(config, name):
        return " or ".join(choices)
    if isinstance(default, bool):
        return "on or off"
    if isinstance(default, str):
        return "any text"
    return f"{setting.low} to {setting.high}" if isinstance(default, int) else setting.bounds


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
