"""How much is tried: 1,000 examples in all, the same each time; 20,000 new ones with --hypothesis-profile=thorough.

python -m pytest tests/fuzz --hypothesis-profile=thorough
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = 10  # which share the examples
SHARED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("quick", max_examples=1_000 // TESTS, derandomize=True, database=None, **SHARED)
settings.register_profile("thorough", max_examples=20_000 // TESTS, print_blob=True, **SHARED)
if settings.get_current_profile_name() not in ("quick", "thorough"):
    settings.load_profile("quick")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are written, one over the other."""
    return tmp_path_factory.mktemp("fuzz") / "any.safetensors"
