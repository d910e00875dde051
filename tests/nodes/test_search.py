"""The page's own search finds the node that trains by the words that people type."""

from __future__ import annotations

import pytest

from devtools import frontend

pytestmark = [pytest.mark.host, pytest.mark.browser]


@pytest.mark.parametrize("word", ["palp", "train", "lora", "finetune", "likeness", "teach"])
def test_the_node_that_trains_is_on_the_first_screen(browser_page, word):
    found = frontend.search_nodes(browser_page, word)
    assert any("PALP Personalize" in name for name in found), found
