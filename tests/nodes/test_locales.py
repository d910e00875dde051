"""The nodes speak the page's languages: each has all of their texts, of today's English, and some have help pages."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from devtools import frontend, locales
from devtools.comfy_server import REPO
from devtools.locales import LOCALES, languages, read_catalog

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.host

ASKED = {"zh", "zh-TW", "ja", "ko", "ru", "fr", "es", "pt-BR", "tr"}
HELP = REPO / "web" / "docs"
HELP_LANGUAGES = {"zh", "ja"}
#: The host asks for NODE_ID/LANGUAGE.md before NODE_ID.md.
PAGES = sorted(HELP.glob("*/*.md"))
MARKS = ("\n## ", "\n| ", "\n|---", "\n- ", "\n1. ", "](https://", "```")
AGAIN = "translate what is missing, and run: python -m devtools.locales"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-\d+)?")
#: What stays as it is in any language: placeholders, learned words, files, and names of values and settings.
CODE = re.compile(r"\[V2?\]|embedding:NAME|a-masklabel\.png|\ba\.\w+|\w+_\w+|\b(?:ohwx|bf16|fp32|delta|palp|auto)\b")
#: The page takes these for commands: https://vue-i18n.intlify.dev/guide/essentials/syntax
COMMANDS = re.compile(r"[{}@|]")


@pytest.fixture(scope="module")
def english(host: None) -> locales.Texts:
    return locales.english_texts()


def test_every_language_that_was_asked_for_is_there():
    assert ASKED <= set(languages()) and {path.name for path in LOCALES.iterdir()} == set(languages())


@pytest.mark.parametrize("language", languages())
def test_every_sentence_of_today_has_a_translation_and_no_other_has(english, language):
    catalog = read_catalog(language)
    assert list(catalog) == list(dict.fromkeys(locales.sentences(english))), AGAIN
    assert [text for text, translation in catalog.items() if not translation.strip()] == [], AGAIN


@pytest.mark.parametrize("language", languages())
def test_the_host_gets_every_key_of_the_nodes_in_that_language(english, language):
    shipped = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert shipped == locales.translated(english, read_catalog(language)), AGAIN


def loses_code(text: str, translation: str) -> bool:
    """Whether a number or a piece of code of the English is lost; a language may count with more numbers."""
    kept = " " not in text or all(code in translation for code in CODE.findall(text))
    return not kept or bool(Counter(NUMBER.findall(text)) - Counter(NUMBER.findall(translation)))


@pytest.mark.parametrize("language", languages())
def test_numbers_and_code_are_as_in_english_and_nothing_is_a_command_to_the_page(language):
    catalog = read_catalog(language)
    assert [translation for text, translation in catalog.items() if loses_code(text, translation)] == []
    assert [translation for translation in catalog.values() if COMMANDS.search(translation)] == []


@pytest.mark.parametrize("language", languages())
def test_the_node_that_trains_is_found_by_lora_and_by_palp(language):
    name = read_catalog(language)["LoRA Training (PALP Personalize)"]
    assert "LoRA" in name and name.endswith(("(PALP Personalize)", "（PALP Personalize）"))


@pytest.fixture
def chinese_page(browser, server) -> Iterator[Page]:
    server.post("/settings", {"Comfy.Locale": "zh"})
    with frontend.open_page(browser, server) as page:
        yield page
    server.post("/settings", {"Comfy.Locale": "en"})


SHOWN = """
(name) => {
  const node = app.graph.nodes[0], widget = node.widgets.find((w) => w.name === name);
  const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 40, node.pos[1] + widget.y + 8]);
  return {title: node.title, label: widget.label, outputs: node.outputs.map((o) => o.localized_name), x, y};
}
"""


@pytest.mark.browser
def test_a_page_in_chinese_shows_the_node_in_chinese(chinese_page):
    """Its title, a widget and what is said of it under the mouse, and its outputs."""
    frontend.build_graph(chinese_page, {"node": {"type": "PALP_Personalize"}}, [])
    frontend.fit_view(chinese_page)
    shown = chinese_page.evaluate(SHOWN, "steps")
    node = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))["PALP_Personalize"]
    assert (shown["title"], shown["label"]) == (node["display_name"], node["inputs"]["steps"]["name"])
    assert shown["outputs"] == [output["name"] for output in node["outputs"].values()]
    chinese_page.mouse.move(shown["x"] - 2, shown["y"])
    chinese_page.mouse.move(shown["x"], shown["y"])
    tooltip = chinese_page.locator(".node-tooltip")
    tooltip.wait_for()
    assert tooltip.inner_text() == node["inputs"]["steps"]["tooltip"]


@pytest.mark.browser
def test_a_page_in_chinese_finds_the_node_by_the_word_for_training(chinese_page):
    assert read_catalog("zh")["LoRA Training (PALP Personalize)"] in frontend.search_nodes(chinese_page, "训练")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_help_page_in_another_language_tells_of_every_input_by_both_of_its_names(english, page):
    catalog = read_catalog(page.stem)
    names = {texts["name"] for texts in english[page.parent.name]["inputs"].values() if "name" in texts}
    text = page.read_text(encoding="utf-8")
    assert [name for name in names if f"**{catalog[name]}**（{name}）" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_help_page_in_another_language_has_the_rooms_and_the_figures_of_the_english_one(page):
    english = page.parent.with_suffix(".md").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert [text.count(mark) for mark in MARKS] == [english.count(mark) for mark in MARKS]
    assert sorted(set(NUMBER.findall(english)) - set(NUMBER.findall(text))) == []


def test_every_node_has_help_in_each_language_that_has_any():
    found = {language: {page.parent.name for page in PAGES if page.stem == language} for language in HELP_LANGUAGES}
    assert all(nodes == {page.stem for page in HELP.glob("*.md")} for nodes in found.values())
