"""`palp demo`: one individual learned twice, by textual inversion + LoRA (TI+DB) and by PALP, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..files.images import write_image
from ..methods.alignment import AlignmentConfig
from ..methods.result import save_run
from ..models.wording import put_class_words, put_words
from ..training.chart import loss_chart, rendered
from ..training.loop import Step
from .evaluators import Target
from .metrics import Figures, judge, mean_figures
from .pictures import photos
from .scenes import ClassWord, Individual, new_individual
from .world import (
    ALIGNMENT,
    DemoModel,
    ToyTraining,
    World,
    as_pictures,
    paint,
    personalization,
    read_target,
    references,
    subject_alignment_range,
)

DEFAULT_PROMPTS = (
    "a sketch of a [V] with a hat on the beach",
    "a neon sign of a [V] with a balloon in the city at night",
    "a watercolor of a [V] with a scarf in the snow",
)
#: What shows the difference, and does not take long.
STEPS: dict[DemoModel, int] = {"unet": 140, "transformer": 60}
PICTURES = 8  # per prompt and model; four of them are shown
SHOWN = 4
#: palp: with this project's default score, and not the paper's.
METHODS = {"base": "base model", "ti_db": "plain training", "palp": f"PALP ({ALIGNMENT.score.name})"}

Report = Callable[[str, Step], None]


@dataclass(frozen=True)
class DemoResult:
    """Hold what was drawn and how it was judged.

    pictures: method -> one (PICTURES, 3, 64, 64) per prompt. figures: method -> mean over the prompts.
    subject_alignment_range: that of other individuals of the class, and of true pictures.
    """

    individual: Individual
    prompts: tuple[str, ...]
    pictures: dict[str, list[Tensor]]
    figures: dict[str, Figures]
    subject_alignment_range: tuple[float, float]
    seed: int
    steps: int
    network: DemoModel


def run_demo(
    world: World, class_word: ClassWord, prompts: tuple[str, ...], seed: int, steps: int, out: Path, report: Report
) -> DemoResult:
    """Train and draw; write the LoRA files, the picture and a loss chart of each training into `out`.

    report(method, step) is called after each training step. Raises PromptError for a prompt without [V], or with words
    that the world does not know.
    """
    targets = [read_target(prompt, class_word) for prompt in prompts]
    individual = new_individual(seed, class_word)
    plain = AlignmentConfig(weight=0.0)  # its training serves all prompts
    runs = [("ti_db", personalization(world, individual, prompts[0], steps, seed, plain), prompts)]
    runs += [("palp", personalization(world, individual, p, steps, seed, ALIGNMENT), (p,)) for p in prompts]
    pictures = {"base": [paint(world, put_class_words(p, {"[V]": class_word}), {}, PICTURES, seed) for p in prompts]}
    charts = []
    for method, run, drawn_prompts in runs:
        history = []
        for step in run.steps():
            history.append(step)
            report(method, step)
            if len(history) == steps:  # the LoRA is on the model inside the loop only
                words = run.learner.result().words
                texts = [put_words(prompt, run.method.texts) for prompt in drawn_prompts]
                drawn = [paint(world, text, words, PICTURES, seed) for text in texts]
        pictures[method] = pictures.get(method, []) + drawn
        save_run(run, out, f"{class_word}_{method}")
        title = METHODS[method] + (f": {drawn_prompts[0]}" if method == "palp" else "")
        charts.append(loss_chart(history, height=330, title=title))
    result = DemoResult(
        individual,
        prompts,
        pictures,
        figures={method: _judged(world, individual, drawn, targets) for method, drawn in pictures.items()},
        subject_alignment_range=subject_alignment_range(world, individual, targets, seed),
        seed=seed,
        steps=steps,
        network=world.model,
    )
    write_image(torch.cat(charts), out / "loss.png")
    write_image(comparison(result), out / "demo.png")
    return result


def _judged(world: World, individual: Individual, pictures: list[Tensor], targets: list[Target]) -> Figures:
    judged = zip(pictures, targets, strict=True)
    return mean_figures([judge(world.evaluators, p, target, references(individual)) for p, target in judged])


def comparison(result: DemoResult) -> Tensor:
    """Show references beside what each model draws for each prompt; (H, W, 3) in 0..1."""
    rows, methods = len(result.prompts), list(result.pictures)
    figure = Figure(figsize=(12.4, 0.9 + 3.0 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, 1 + len(methods), squeeze=False)
    learned_from = as_pictures(photos(result.individual, ToyTraining().photos))
    for row, prompt in enumerate(result.prompts):
        tiles = [learned_from, *(result.pictures[method][row][:SHOWN] for method in methods)]
        for column, shown in enumerate(tiles):
            axes[row][column].imshow(mosaic(shown), interpolation="nearest")
            axes[row][column].set(xticks=[], yticks=[])
            for spine in axes[row][column].spines.values():
                spine.set_visible(False)
        axes[row][0].set_ylabel("\n".join(textwrap.wrap(prompt, 30)), fontsize=10)
    learned = "your photo" if len(learned_from) == 1 else "your photos"
    for column, title in enumerate([learned, *(_title(result, method) for method in methods)]):
        axes[0][column].set_title(title, fontsize=11)
    return rendered(figure)


def _title(result: DemoResult, method: str) -> str:
    text, subject = _measured(result.figures[method])
    return f"{METHODS[method]}\ntext alignment {text}\nsubject alignment {subject}"


def _measured(figures: Figures) -> tuple[str, str]:
    """Write text alignment and subject alignment with their standard errors."""
    text = f"{figures.text_alignment:.0%} ± {figures.text_alignment_error:.0%}"
    return text, f"{figures.subject_alignment:.2f} ± {figures.subject_alignment_error:.2f}"


def mosaic(pictures: Tensor) -> np.ndarray:
    """Lay out one picture (B, 3, H, W) in -1..1, or up to four in two columns with a white gap; (H', W', 3) in 0..1."""
    pixels = ((pictures.movedim(1, -1).clamp(-1, 1) + 1) / 2).numpy()
    if len(pixels) == 1:
        return pixels[0]
    side = pictures.shape[-1]
    sheet = np.ones((2 * side + 2, 2 * side + 2, 3), dtype=np.float32)
    for number, picture in enumerate(pixels):
        y, x = divmod(number, 2)
        sheet[y * (side + 2) : y * (side + 2) + side, x * (side + 2) : x * (side + 2) + side] = picture
    return sheet


def as_json(result: DemoResult) -> dict:
    """Give the figures, for programs."""
    return {
        **{method: asdict(figures) for method, figures in result.figures.items()},
        "subject_alignment_floor": result.subject_alignment_range[0],
        "subject_alignment_ceiling": result.subject_alignment_range[1],
        "prompts": list(result.prompts),
        "subject": result.individual.class_word,
        "score": ALIGNMENT.score.name,
        "seed": result.seed,
        "steps": result.steps,
        "network": result.network,
    }


def as_table(result: DemoResult) -> str:
    """Write the figures for people."""
    lines = [f"{'':18}{'text alignment':>18}{'subject alignment':>20}{'diversity':>12}"]
    for method, figures in result.figures.items():
        text, subject = _measured(figures)
        lines.append(f"{METHODS[method]:18}{text:>18}{subject:>20}{figures.diversity:>12.3f}")
    floor, ceiling = result.subject_alignment_range
    lines.append(
        "text alignment: share of the prompt's elements found. subject alignment: likeness to the photos; others of "
        f"its class have {floor:.2f}, true pictures of it {ceiling:.2f}. diversity: how far pictures of one prompt are "
        "apart. ±: standard error over the pictures."
    )
    return "\n".join(lines)
