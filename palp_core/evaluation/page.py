"""An evaluation as one page of HTML that needs nothing beside itself: no script, and every picture inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from .curves import curves
from .results import AXES, Cell, Evaluation
from .table import NOT_MEASURED, counts, legend, written

#: A browser that obeys it loads nothing from elsewhere, whatever a prompt says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #60666d; --paper: #fff; --line: #d9dde1; --band: #f4f5f7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --faint: #9aa1a9; --paper: #16181b; --line: #34393f; --band: #1f2226 } }
body { margin: 2rem auto; padding: 0 1.5rem; max-width: 100rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse } th, td { padding: .5rem .9rem; border-bottom: 1px solid var(--line) }
th { text-align: left; font-weight: 600; background: var(--band) }
.figures thead th { text-align: right }
.figures td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.grid th, .grid td { vertical-align: top } .grid tbody th { min-width: 9rem; max-width: 16rem; overflow-wrap: anywhere }
.pictures { display: flex; flex-wrap: wrap; gap: 4px; min-width: 260px; max-width: 528px }
img { width: 128px; height: 128px; object-fit: contain; background: var(--band); border-radius: 3px }
img.chart { width: 100%; max-width: 75rem; height: auto; background: none }
.faint { color: var(--faint); font-size: .87rem }
p.faint { margin: .35rem 0; max-width: 60rem; overflow-wrap: anywhere }
"""


def page(evaluation: Evaluation, title: str) -> str:
    """Write the page: figures of the methods, then for each subject its photos, and prompts x methods in a grid."""
    several = len(evaluation.photos) > 1
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *_figures(evaluation),
        *(f'<p class="faint">{escape(line)}</p>' for line in _remarks(evaluation)),
        *_curves(evaluation),
        *(part for subject in evaluation.photos for part in _subject(evaluation, subject, several)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _remarks(evaluation: Evaluation) -> list[str]:
    """What the figures are, what is missing, and what is to be said, as sentences."""
    return [_sentence(text) for text in (*legend(evaluation), *evaluation.missing(), *evaluation.notes)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figures(evaluation: Evaluation) -> Iterator[str]:
    yield '<div class="wide"><table class="figures"><thead>'
    yield _row([""] + [name for name, _ in AXES.values()] + ["subjects", "prompts", "pictures"], "th")
    yield "</thead><tbody>"
    for method in evaluation.methods:
        figures = [written(evaluation.figure(method, axis)) for axis in AXES]
        cells = [*figures, *map(str, counts(evaluation, method))]
        yield f"<tr><th>{escape(method)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div>"


def _row(texts: Iterable[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(text)}</{kind}>' for text in texts)}</tr>"


def _curves(evaluation: Evaluation) -> Iterator[str]:
    """The figures over the steps, where methods have pictures of several."""
    if evaluation.curved and len(evaluation.not_measured) < len(AXES):
        source = b64encode(curves(evaluation)).decode()
        yield "<h2>Over the steps of a training</h2>"
        yield f'<img class="chart" alt="the figures over the steps" src="data:image/png;base64,{source}">'


def _subject(evaluation: Evaluation, subject: str, several: bool) -> Iterator[str]:
    """The photos of a subject, and its grid: a row for each prompt, a column for each method."""
    ends = [cell for method in evaluation.methods for cell in evaluation.of(method)]
    cells = {(cell.prompt, cell.method): cell for cell in ends if cell.subject == subject}
    yield f"<h2>{escape(subject) if several else 'Pictures'}</h2>"
    if photos := evaluation.photos[subject]:
        yield f'<p class="faint">Photos</p><div class="pictures">{_images(photos, "photo of the subject")}</div>'
    yield '<div class="wide"><table class="grid"><thead>'
    yield _row(["", *evaluation.methods], "th")
    yield "</thead><tbody>"
    for prompt in dict.fromkeys(prompt for prompt, _ in cells):
        drawn = "".join(f"<td>{_cell(cells.get((prompt, method)))}</td>" for method in evaluation.methods)
        yield f"<tr><th>{escape(prompt)}</th>{drawn}</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell | None) -> str:
    """The pictures of a cell with their figures below."""
    if cell is None:
        return NOT_MEASURED
    images = _images([one.small for one in cell.pictures], f"{cell.method}: {cell.prompt}")
    measured = [(name, cell.figures[axis]) for axis, (name, _) in AXES.items() if axis in cell.figures]
    figures = ", ".join(f"{name}&nbsp;{value:.3f}" for name, value in measured)
    return f'<div class="pictures">{images}</div><div class="faint">{figures}</div>'


def _images(jpegs: Sequence[bytes], text: str) -> str:
    return "".join(
        f'<img alt="{escape(text)}, {number}" src="data:image/jpeg;base64,{b64encode(jpeg).decode()}">'
        for number, jpeg in enumerate(jpegs, start=1)
    )
