"""`palp demo`: one individual learned twice, by textual inversion + LoRA (TI+DB) and by PALP, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..alignment import AlignmentConfig
from ..chart import loss_chart
from ..lora_file import save_run
from ..personalization import Personalization, PersonalizationConfig, TrainingStep
from .evaluators import Target
from .figures import Figures, judge, mean_figures
from .scenes import ClassWord, Individual
from .world import RESOLUTION, World, as_pictures, new_individual, paint, read_target, subject, true_pictures

DEFAULT_PROMPTS = (
    "a sketch of a [V] with a hat on the beach",
    "a neon sign of a [V] with a balloon in the city at night",
    "a watercolor of a [V] with a scarf in the snow",
)
PICTURES = 8  # per prompt and model; four of them are shown
SHOWN = 4
STRANGERS = 6  # other individuals of the class, for the floor of subject fidelity
METHODS = {"base": "untouched model", "ti_db": "TI + LoRA", "palp": "PALP"}

Report = Callable[[str, TrainingStep], None]


@dataclass(frozen=True)
class DemoConfig:
    #: Training steps of each of the trainings.
    steps: int = 120
    #: Adam's step for LoRA and word; this small model takes larger ones than Stable Diffusion.
    learning_rate: float = 1e-3
    #: Images per training step.
    batch_size: int = 4
    #: Rank of the LoRA.
    rank: int = 16


@dataclass(frozen=True)
class DemoResult:
    """pictures: method -> one (PICTURES, 3, 64, 64) per prompt. figures: method -> mean over the prompts."""

    individual: Individual
    prompts: tuple[str, ...]
    pictures: dict[str, list[Tensor]]
    figures: dict[str, Figures]
    floor: float
    ceiling: float
    files: list[Path]


def run_demo(
    world: World,
    class_word: ClassWord,
    prompts: tuple[str, ...],
    seed: int,
    config: DemoConfig,
    out: Path,
    report: Report,
) -> DemoResult:
    """Train and draw; write the LoRA files, the picture and the loss chart into `out`.

    report(method, step) is called after each training step. Raises ValueError for a prompt without [V].
    """
    individual = new_individual(seed, class_word)
    targets = [read_target(prompt, class_word) for prompt in prompts]
    runs = {"ti_db": [_prepared(world, individual, prompts[0], 0.0, seed, config)]}
    runs["palp"] = [_prepared(world, individual, p, AlignmentConfig.weight, seed, config) for p in prompts]
    plain = [prompt.replace("[V]", class_word) for prompt in prompts]
    pictures = {"base": [paint(world, prompt, {}, PICTURES, seed) for prompt in plain]}
    files, history = [], []
    for method, of_method in runs.items():
        pictures[method] = []
        for number, run in enumerate(of_method):
            drawn_prompts = prompts if method == "ti_db" else prompts[number : number + 1]
            history = []
            for step in run.steps():
                history.append(step)
                report(method, step)
                if step.index + 1 == config.steps:
                    words = run.snapshot().words
                    pictures[method] += [paint(world, prompt, words, PICTURES, seed) for prompt in drawn_prompts]
            files.append(save_run(run, out, f"{class_word}_{method}"))
    references = as_pictures(subject(individual).images)
    figures = {
        method: mean_figures([judge(world.evaluators, p, t, references) for p, t in zip(drawn, targets, strict=True)])
        for method, drawn in pictures.items()
    }
    floor, ceiling = fidelity_range(world, individual, targets, seed)
    result = DemoResult(individual, prompts, pictures, figures, floor, ceiling, files)
    write_pixels(loss_chart(history), out / "loss.png")
    write_pixels(comparison(result), out / "demo.png")
    return result


def _prepared(world: World, individual: Individual, prompt: str, weight: float, seed: int, config: DemoConfig):
    settings = PersonalizationConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        embedding_learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        rank=config.rank,
        resolution=RESOLUTION,
        seed=seed,
        alignment=AlignmentConfig(weight=weight),
    )
    return Personalization(world.backbone, [subject(individual)], prompt, settings)


def fidelity_range(world: World, individual: Individual, targets: list[Target], seed: int) -> tuple[float, float]:
    """Subject fidelity of other individuals of the class, and of true renders of this one, in the targets' styles."""
    references = as_pictures(subject(individual).images)
    strangers = [new_individual(seed + 1000 + n, individual.class_word) for n in range(STRANGERS)]

    def fidelity(who: Individual) -> float:
        shown = [true_pictures(who, target, 4) for target in targets]
        return float(world.evaluators.subject_fidelity(torch.cat(shown), references).mean())

    return float(np.mean([fidelity(who) for who in strangers])), fidelity(individual)


def write_pixels(pixels: Tensor, path: Path) -> None:
    """(H, W, 3) in 0..1."""
    Image.fromarray((pixels * 255).round().byte().numpy()).save(path)


def comparison(result: DemoResult) -> Tensor:
    """References beside what each model draws for each prompt; (H, W, 3) in 0..1."""
    rows, methods = len(result.prompts), list(result.pictures)
    figure = Figure(figsize=(12.4, 0.7 + 3.0 * rows), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1 + len(methods), squeeze=False)
    references = as_pictures(subject(result.individual).images)
    for row, prompt in enumerate(result.prompts):
        tiles = [references, *(result.pictures[method][row][:SHOWN] for method in methods)]
        for column, shown in enumerate(tiles):
            axes[row][column].imshow(mosaic(shown), interpolation="nearest")
            axes[row][column].set(xticks=[], yticks=[])
            for spine in axes[row][column].spines.values():
                spine.set_visible(False)
        axes[row][0].set_ylabel("\n".join(textwrap.wrap(prompt, 30)), fontsize=10)
    for column, title in enumerate(["your photos", *(_title(result, method) for method in methods)]):
        axes[0][column].set_title(title, fontsize=11)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).float() / 255


def _title(result: DemoResult, method: str) -> str:
    figures = result.figures[method]
    return f"{METHODS[method]}\nprompt {figures.text_alignment:.0%}, subject {figures.subject_fidelity:.2f}"


def mosaic(pictures: Tensor) -> np.ndarray:
    """Up to four pictures (B, 3, H, W) in -1..1 in two columns, with a white gap; (2H+2, 2W+2, 3) in 0..1."""
    side = pictures.shape[-1]
    sheet = np.ones((2 * side + 2, 2 * side + 2, 3), dtype=np.float32)
    for number, picture in enumerate(pictures):
        y, x = divmod(number, 2)
        pixels = (picture.movedim(0, -1).clamp(-1, 1) + 1) / 2
        sheet[y * (side + 2) : y * (side + 2) + side, x * (side + 2) : x * (side + 2) + side] = pixels.numpy()
    return sheet


def as_json(result: DemoResult) -> dict:
    """The figures, for programs."""
    return {
        **{method: asdict(figures) for method, figures in result.figures.items()},
        "fidelity_floor": result.floor,
        "fidelity_ceiling": result.ceiling,
        "prompts": list(result.prompts),
    }


def as_table(result: DemoResult) -> str:
    lines = [f"{'':18}{'prompt':>8}{'subject':>9}{'variety':>9}"]
    for method, figures in result.figures.items():
        name = METHODS[method]
        shown = (f"{figures.text_alignment:>8.0%}", f"{figures.subject_fidelity:>9.2f}", f"{figures.diversity:>9.3f}")
        lines.append(f"{name:18}{''.join(shown)}")
    lines.append(
        f"prompt: share of the prompt's elements found. subject: likeness to the photos; others of its class have "
        f"{result.floor:.2f}, true pictures of it {result.ceiling:.2f}."
    )
    return "\n".join(lines)
