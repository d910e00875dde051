"""The documentation says what is there: settings, nodes and their inputs, links; and the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devtools import host_models
from devtools.comfy_server import SKIP_REASON, find_comfyui
from devtools.settings_table import PAGE, settings_page

REPO = Path(__file__).parents[2]
HELP = REPO / "web" / "docs"
README = REPO / "README.md"
MOST_BYTES = 10_000  # of the README, which is read in three minutes
LINKED = [README, REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
#: As the table of promises names a test.
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_page_of_settings_is_what_its_command_makes():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run: python -m devtools.settings_table"


def test_the_readme_is_short():
    assert README.stat().st_size <= MOST_BYTES


def test_every_node_has_a_help_page_and_every_page_a_node():
    ids = {name for file in (REPO / "nodes").glob("*.py") for name in re.findall(r'node_id="(\w+)"', file.read_text())}
    assert ids and ids == {page.stem for page in HELP.glob("*.md")}


@pytest.mark.host
def test_every_help_page_names_the_inputs_of_its_node():
    comfyui = find_comfyui()
    if comfyui is None:
        pytest.skip(SKIP_REASON)
    host_models.import_host(comfyui)
    missing = {}
    for node in host_models.pack_nodes():
        schema = node.define_schema()
        page = (HELP / f"{schema.node_id}.md").read_text(encoding="utf-8")
        missing[schema.node_id] = [name for name in input_names(schema.inputs) if f"**{name}**" not in page]
    assert not any(missing.values()), missing


def input_names(inputs: list) -> list[str]:
    """Names of inputs, and of those that a choice of an input brings with it."""
    names = []
    for one in inputs:
        chosen = [option for option in getattr(one, "options", None) or [] if hasattr(option, "inputs")]
        names += [one.id, *input_names([inner for option in chosen for inner in option.inputs])]
    return names


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not heading or heading in headings(target), f"{page.name}: {link}"


def test_every_promise_names_tests_that_are_there():
    table = [line for line in (REPO / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for row in table[1:]:
        named = NAMED_TEST.findall(row)
        assert named and len(named) == row.count("`tests/"), row
        for file, function in named:
            assert f"def {function}(" in (REPO / file).read_text(encoding="utf-8"), f"{file}::{function}"


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them from a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
