"""Names of any letters: refused in a sentence, or safe on every system and in every prompt."""

from __future__ import annotations

import re
from unicodedata import normalize

from hypothesis import given
from hypothesis import strategies as st

from palp_core.errors import PalpError
from palp_core.files.names import check_file_name
from palp_core.models.prompts import embedding_prompt

LETTERS = st.text(
    st.characters(codec=None) | st.sampled_from("a1_-./\\:()[]<>, \u0301\u093f\u200d½①ＣＯＮ"), max_size=12
)
WORDS = st.sampled_from(["con", "COM1", "nul", "lpt9", "aux", "prn", "..", "C:", "cafe\u0301", "बिल्ली", "แมว"])


@given(st.lists(LETTERS | WORDS, max_size=3).map("".join))
def test_any_name(name):
    try:
        found = check_file_name(name)
    except PalpError as error:
        assert len(str(error)) < 500 and "\n" not in str(error)
        str(error).encode()
        return
    assert found == check_file_name(found) and len(found.encode()) <= 200
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        read = normalize(form, found)
        assert not re.search(r"[\s/\\:*?\"<>|().,\[\]{}]", read) and read not in ("", ".", "..")
        assert not re.fullmatch(r"(?i)con|prn|aux|nul|com\d|lpt\d", read)
    assert embedding_prompt("a [V], (b)", {"[V]": found}) == f"a embedding:{found}, (b)"
