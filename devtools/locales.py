"""Writes locales/, the nodes' texts in the page's languages, from the translations: `python -m devtools.locales`.

A translation is found by its English sentence, so that a sentence that has changed has none until somebody writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import host_models
from .comfy_server import REPO, SKIP_REASON, find_comfyui

#: LANGUAGE.json: {English text: its translation}, in the order of the nodes.
TRANSLATIONS = REPO / "devtools" / "translations"
#: LANGUAGE/nodeDefs.json, as the host reads it.
LOCALES = REPO / "locales"

Texts = dict[str, Any]  # as in the host's nodeDefs.json: {node: {"display_name": ..., "inputs": {name: {...}}, ...}}


def english_texts() -> Texts:
    """Return what the page shows of every node, under the host's keys."""
    return {node["name"]: _of_node(node) for node in map(_described, host_models.pack_nodes())}


def _described(node: type) -> dict[str, Any]:
    return json.loads(json.dumps(node.GET_NODE_INFO_V1()))


def _of_node(node: dict[str, Any]) -> Texts:
    shown = [fields for kind, fields in node["input"].items() if kind != "hidden"]
    outputs = enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {key: texts for fields in shown for key, texts in _of_inputs(fields)},
        "outputs": {str(index): {"name": name, "tooltip": tooltip} for index, (name, tooltip) in outputs},
    }


def _of_inputs(fields: dict[str, list]) -> Iterator[tuple[str, Texts]]:
    """The inputs' texts, and those of what they bring along; the page writes `score.push` as `score_push`."""
    for name, (_, about) in fields.items():
        yield name, {"name": name, "tooltip": about["tooltip"]}
        yield from ((f"{name}_{key}", texts) for key, texts in _brought_along(about))


def _brought_along(about: dict[str, Any]) -> Iterator[tuple[str, Texts]]:
    for option in about.get("options") or []:
        if isinstance(option, dict):
            yield from _of_inputs(option["inputs"]["required"])
    if growing := about.get("template"):
        ((_, one),) = [item for fields in growing["input"].values() for item in fields.items()]
        for index in range(growing["max"]):  # the page keeps the names of these sockets as they are
            yield f"{growing['prefix']}{index}", {"tooltip": one[1]["tooltip"]}


def sentences(texts: Texts) -> Iterator[str]:
    """Yield every text of a tree, again where it is there again."""
    for value in texts.values():
        yield from sentences(value) if isinstance(value, dict) else [value]


def translated(texts: Texts, catalog: dict[str, str]) -> Texts:
    """The same tree in another language; what has no translation is left out, and the page shows it in English."""
    parts = {key: translated(v, catalog) if isinstance(v, dict) else catalog.get(v) for key, v in texts.items()}
    return {key: part for key, part in parts.items() if part}


def read_catalog(language: str) -> dict[str, str]:
    """Return the translations into a language."""
    return json.loads((TRANSLATIONS / f"{language}.json").read_text(encoding="utf-8"))


def languages() -> list[str]:
    """Return the languages that we have, by the page's codes."""
    return sorted(path.stem for path in TRANSLATIONS.glob("*.json"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file as people read it, with one text a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def update(language: str, english: Texts) -> list[str]:
    """Bring a language's files up to date, and return the sentences that nobody has translated."""
    known = read_catalog(language)
    catalog = {text: known.get(text, "") for text in sentences(english)}
    write_json(TRANSLATIONS / f"{language}.json", catalog)
    write_json(LOCALES / language / "nodeDefs.json", translated(english, catalog))
    return [text for text, translation in catalog.items() if not translation]


def main() -> None:
    """Update all languages. A new one begins with a file that holds {}."""
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit(SKIP_REASON)
    host_models.import_host(comfyui)
    english = english_texts()
    for language in languages():
        missing = update(language, english)
        print(f"{language}: {len(missing)} to translate", *missing, sep="\n  ")


if __name__ == "__main__":
    main()
