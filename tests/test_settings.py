"""Settings: one field holds bounds and help, and the check and the command line follow from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import pytest

from palp_core.cli.options import config_options
from palp_core.errors import SettingError
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.memory import MemoryConfig
from palp_core.methods.personalization import PersonalizationConfig
from palp_core.methods.pick_and_draw.guidance import PickAndDrawConfig
from palp_core.methods.scores import SCORES
from palp_core.methods.textual_inversion import TextualInversionConfig
from palp_core.settings import check_settings, default_of, setting, settings_of

CONFIGS = (
    PersonalizationConfig,
    TextualInversionConfig,
    AlignmentConfig,
    MemoryConfig,
    PickAndDrawConfig,
    *SCORES.values(),
)


@dataclass(frozen=True)
class Example:
    rate: float = setting(0.5, "Sets the rate.", usual="0.1", low=0, open=True, high=1, step=0.1)
    kind: Literal["one", "two"] = setting("one", "Chooses the kind.")

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize("wrong", [0, -1, 2, float("nan"), float("inf")])
def test_a_value_out_of_bounds_is_named_with_what_is_usual(wrong):
    with pytest.raises(SettingError, match=r"rate is .*; it must be above 0, up to 1, usually 0\.1\."):
        Example(rate=wrong)


def test_a_value_that_is_no_choice_is_named_with_the_choices():
    with pytest.raises(SettingError, match="kind is 'three'; it must be one of one, two"):
        Example(kind="three")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_has_a_sentence_and_a_default_within_its_bounds(config):
    for name, known in settings_of(config).items():
        assert known.help[0].isupper() and known.help.endswith("."), name
        default = default_of(config, name)
        assert known.low is None or known.allows(default), name
        assert known.low is None or (known.high is not None and known.step is not None), name


@pytest.mark.parametrize("config", [PersonalizationConfig, TextualInversionConfig])
def test_the_command_line_has_the_same_names_and_defaults(config):
    made = config_options(config)()
    assert {f.name: getattr(made, f.name) for f in fields(made)} == {
        name: default_of(config, name) for name in settings_of(config)
    }
