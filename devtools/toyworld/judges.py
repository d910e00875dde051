"""Trains the judges: `python -m devtools.toyworld.judges --work FOLDER --vae MODEL_FOLDER --out FILE`.

They learn from renders and from what the VAE makes of renders, so that its blur means nothing to them. The work folder
is that of `training`, whose pictures and VAE are used.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from palp_core.toyworld import scenes
from palp_core.toyworld.drawing import render
from palp_core.toyworld.evaluators import ATTRIBUTES, Evaluators, load_evaluators, save_evaluators
from palp_core.toyworld.scenes import Scene, random_individual, random_scene

from .pictures import as_pixels
from .plan import TrainingPlan
from .steps import take_step
from .training import drawn_pictures, save_arrays

HELD_OUT = 2_000  # pictures; and the last tenth of the individuals
INDIVIDUALS = 3_000
RENDERS = 8  # of each individual
GROUP = 32  # individuals of one class in a batch, each by VIEWS of its renders
VIEWS = 4
TEMPERATURE = 0.1


def individual_renders(seed: tuple[int, int], count: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pictures (count, RENDERS, 64, 64, 3), classes (count,), styles (count, RENDERS). The first render of each is a
    reference photo, the others are of any style and place."""
    rng = np.random.default_rng(seed)
    pictures, classes, styles = [], [], []
    for _ in range(count):
        who = random_individual(rng)
        shown = [Scene(who, jitter=int(rng.integers(4)))]
        shown += [replace(random_scene(rng), individual=who) for _ in range(RENDERS - 1)]
        pictures.append(np.stack([render(scene) for scene in shown]))
        classes.append(scenes.CLASSES.index(who.class_word))
        styles.append([scenes.STYLES.index(scene.style) for scene in shown])
    return np.stack(pictures), np.array(classes), np.array(styles)


def all_individuals(seed: int, work: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    file = work / "individuals.npz"
    if not file.exists():
        jobs = [(seed + 1, job) for job in range(INDIVIDUALS // 100)]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            parts = list(tqdm(pool.map(individual_renders, jobs), "drawing", len(jobs), mininterval=10))
        named = zip("pcs", zip(*parts, strict=True), strict=True)
        save_arrays(file, **{name: np.concatenate(part) for name, part in named})
    with np.load(file) as arrays:
        return arrays["p"], arrays["c"], arrays["s"]


@torch.no_grad()
def through_vae(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """(N, 64, 64, 3) uint8 -> what the VAE makes of them."""
    parts = []
    for at in tqdm(range(0, len(pictures), 50), "reconstructing", mininterval=10):
        decoded = vae.decode(vae.encode(as_pixels(pictures[at : at + 50])).latent_dist.mode()).sample
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def disturbed(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Small shifts, blur and noise: none of it says what a picture shows."""
    y, x = rng.integers(-2, 3, size=2)
    pixels = torch.roll(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), (int(y), int(x)), (2, 3))[..., 2:-2, 2:-2]
    if rng.random() < 0.3:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return pixels + rng.uniform(0, 0.08) * noise


def train_attributes(evaluators: Evaluators, pictures: np.ndarray, labels: np.ndarray, steps: int, seed: int) -> None:
    """labels: (N, 4), numbers of style, class, accessory and place; -1 is the last answer, None."""
    network = evaluators.attributes.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in tqdm(range(steps), "attributes", mininterval=20):
        rng = np.random.default_rng((seed, 3, step))
        chosen = rng.integers(len(pictures), size=64)
        logits = network(disturbed(as_pixels(pictures[chosen]), rng))
        answers = torch.from_numpy(labels[chosen] % [len(a) for a in ATTRIBUTES.values()])
        loss = sum(F.cross_entropy(logits[name], answers[:, i]) for i, name in enumerate(ATTRIBUTES))
        take_step(optimizer, loss, 2e-3 * (1 - step / steps))
    network.eval()


def train_identity(evaluators: Evaluators, pictures: np.ndarray, classes: np.ndarray, steps: int, seed: int) -> None:
    """Supervised contrastive learning (arXiv 2004.11362, eq. 2) within one class. pictures: (N, R, 64, 64, 3)."""
    network = evaluators.identity.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in tqdm(range(steps), "identity", mininterval=20):
        rng = np.random.default_rng((seed, 4, step))
        alike = np.flatnonzero(classes == rng.integers(len(scenes.CLASSES)))
        group = rng.choice(alike, size=GROUP, replace=False)
        views = np.stack([rng.choice(pictures.shape[1], size=VIEWS, replace=False) for _ in group])
        batch = pictures[group[:, None], views].reshape(-1, *pictures.shape[2:])
        loss = contrastive_loss(network(disturbed(as_pixels(batch), rng)), GROUP)
        take_step(optimizer, loss, 1e-3 * (1 - step / steps))
    network.eval()


def contrastive_loss(vectors: Tensor, individuals: int) -> Tensor:
    """vectors: (individuals * views, C), unit length, views of one individual beside each other."""
    who = torch.arange(individuals).repeat_interleave(len(vectors) // individuals)
    itself = torch.eye(len(vectors), dtype=torch.bool)
    similar = (vectors @ vectors.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    same = (who[:, None] == who[None]) & ~itself
    return -similar.log_softmax(dim=1)[same].mean()


# --- how good they are -----------------------------------------------------------------------------------------------


@torch.no_grad()
def attribute_accuracy(evaluators: Evaluators, pictures: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    hits = {name: 0 for name in ATTRIBUTES}
    for at in range(0, len(pictures), 100):
        logits = evaluators.attributes(as_pixels(pictures[at : at + 100]))
        for i, (name, answers) in enumerate(ATTRIBUTES.items()):
            right = torch.from_numpy(labels[at : at + 100, i] % len(answers))
            hits[name] += int((logits[name].argmax(dim=-1) == right).sum())
    return {name: count / len(pictures) for name, count in hits.items()}


@torch.no_grad()
def verification(
    evaluators: Evaluators, pictures: np.ndarray, classes: np.ndarray, styles: np.ndarray
) -> dict[str, float]:
    """Area under the curve, per style: is a picture nearer to its individual's reference photo than to those of others
    of its class? pictures: (N, R, 64, 64, 3), the first of each a reference photo."""
    flat = pictures.reshape(-1, *pictures.shape[2:])
    vectors = torch.cat([evaluators.identity(as_pixels(flat[at : at + 100])) for at in range(0, len(flat), 100)])
    vectors = vectors.view(*pictures.shape[:2], -1)
    cosines = torch.einsum("nrc,mc->nrm", vectors[:, 1:], vectors[:, 0])  # every picture with every reference
    same_class = torch.from_numpy(classes[:, None] == classes[None])
    other = same_class & ~torch.eye(len(classes), dtype=torch.bool)
    areas = {}
    for number, style in enumerate(scenes.STYLES):
        n, r = np.nonzero(styles[:, 1:] == number)
        own = cosines[n, r, n]
        wins = [(mine > cosines[i, j][other[i]]).float().mean() for i, j, mine in zip(n, r, own, strict=True)]
        areas[style] = float(torch.stack(wins).mean())
    return areas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the work folder of the model's training")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--out", type=Path, required=True, help="file to write them to")
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--json", type=Path, help="where to write how good they are")
    arguments = parser.parse_args()
    seed = TrainingPlan.seed
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(arguments.vae, subfolder="vae", torch_dtype=torch.float32).eval()
    drawn = drawn_pictures(TrainingPlan(), arguments.work)
    people, classes, styles = all_individuals(seed, arguments.work)
    held = len(people) // 10
    blurred = through_vae(vae, drawn.pictures[: len(drawn.pictures) // 6])
    people[::4] = through_vae(vae, people[::4].reshape(-1, *people.shape[2:])).reshape(people[::4].shape)
    pictures = np.concatenate([drawn.pictures[:-HELD_OUT], blurred])
    labels = np.concatenate([drawn.labels[:-HELD_OUT], drawn.labels[: len(blurred)]])

    evaluators = Evaluators()
    train_attributes(evaluators, pictures, labels, arguments.steps, seed)
    train_identity(evaluators, people[:-held], classes[:-held], arguments.steps, seed)
    save_evaluators(evaluators, arguments.out)
    judged = load_evaluators(arguments.out)
    figures = {
        "attributes": attribute_accuracy(judged, drawn.pictures[-HELD_OUT:], drawn.labels[-HELD_OUT:]),
        "attributes, reconstructed": attribute_accuracy(
            judged, through_vae(vae, drawn.pictures[-HELD_OUT:]), drawn.labels[-HELD_OUT:]
        ),
        "identity": verification(judged, people[-held:], classes[-held:], styles[-held:]),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
