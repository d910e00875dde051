"""The demo world's models see their subjects, with as many draws of noise as for users."""

import pytest


@pytest.fixture(autouse=True)
def few_draws() -> None:
    """Nothing is changed here."""
