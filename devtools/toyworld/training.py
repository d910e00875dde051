"""Trains the embedded model from nothing: `python -m devtools.toyworld.training --work FOLDER --out FOLDER`.

Pictures are drawn, the VAE learns on crops of them, their latents are cached, and the UNet learns together with its
text encoder. Everything comes from one seed, and every stage goes on from its last checkpoint in the work folder.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from einops import reduce
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from palp_core.files.safetensors_file import load_optimizer_tensors, optimizer_tensors, save_tensors
from palp_core.toyworld import LATENT_SIZE, scenes
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.drawing.shapes import SIZE
from palp_core.toyworld.scenes import Scene, Style, random_scene
from palp_core.training.objective import spread_timesteps

from .model import new_pipeline, save_model, standardise_latents

PICTURES_PER_JOB = 500
CROP = 32  # pixels; the VAE's convolutions do not care, and four times as many steps fit in the same time
SAVE_EVERY = 250  # steps
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Stage:
    """A part of the training of the UNet and its text encoder; each begins with the averaged weights of the one before.

    subject_weight, accessory_weight: of the error where subject and accessory are.
    """

    steps: int
    learning_rate: float
    #: Steps in which the learning rate rises.
    warmup: int
    #: Share of the steps, at the end, in which the learning rate falls to 0, and those weights to 1.
    cooldown: float
    subject_weight: float = 4.0
    accessory_weight: float = 16.0
    #: How many of the captions name the subject's first colour, how many of these its second, how many its pattern.
    looks: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: Share of the captions in which class and looks are joined in one token.
    joined: float = 0.0
    #: Share of the captions of which the words alone are read, and not what stands behind them.
    words_only: float = 0.0
    #: Joined words learn from what the model of the stage's beginning predicts with the same words apart, not from
    #: pictures: its answer has no noise.
    taught: bool = False
    #: Share of the noise levels, from the lowest, that is left out.
    lowest_level: float = 0.0
    styles: tuple[Style, ...] = scenes.STYLES


# Words for looks lower the loss at large noise alone, on the subject, and not in all styles. Among everything else
# 1,700 steps did not teach them; by themselves some 500 do.
LOOKS_ALONE = Stage(
    steps=800,
    learning_rate=4e-4,
    warmup=50,
    cooldown=0.0,
    subject_weight=50.0,
    accessory_weight=1.0,
    looks=(0.95, 0.8, 0.5),
    lowest_level=0.8,
    styles=("photo", "pixel art", "watercolor"),
)

STAGES = (
    # Most of the error of a young model lies in the places; without weights its subjects stay blobs for long, and its
    # accessories are left out for longer.
    Stage(steps=13_000, learning_rate=8e-4, warmup=200, cooldown=0.2),
    LOOKS_ALONE,
    Stage(steps=4_000, learning_rate=5e-4, warmup=100, cooldown=0.6, looks=(0.5, 0.7, 0.5)),
    # The vocabulary of a real model is full of words that mean several things at once. Without such words textual
    # inversion finds no vector that means one particular look: nothing had ever read one.
    replace(LOOKS_ALONE, steps=500, looks=(0.95, 0.8, 0.7), joined=0.8),
    Stage(steps=2_500, learning_rate=5e-4, warmup=100, cooldown=0.6, looks=(0.6, 0.7, 0.6), joined=0.5),
    # By then places were read from what stands behind the words, and their words got no more attention there than
    # elsewhere.
    Stage(
        steps=1_800,
        learning_rate=5e-4,
        warmup=50,
        cooldown=0.6,
        looks=(0.7, 0.7, 0.7),
        joined=0.6,
        words_only=0.75,
    ),
    # Pictures alone left joined words far behind the same words apart.
    Stage(
        steps=500,
        learning_rate=5e-4,
        warmup=50,
        cooldown=0.5,
        subject_weight=10.0,
        looks=(0.9, 0.8, 0.8),
        joined=0.85,
        words_only=0.75,
        taught=True,
        lowest_level=0.4,
    ),
)

#: Between words that one token is to mean: "red+red+blue+striped+cat". A sum has no order, so that of two colours the
#: first counts twice.
JOIN = "+"


@dataclass(frozen=True)
class TrainingPlan:
    seed: int = 0
    #: How many are drawn, once.
    pictures: int = 24_000
    #: The VAE's first steps see crops, because many fit in the time of one picture.
    vae_crop_steps: int = 4_000
    #: The rest see whole pictures, half as many a step: the statistics of its normalisations are those of a picture.
    vae_steps: int = 5_200
    vae_batch: int = 8
    vae_learning_rate: float = 1.5e-3
    #: Steps in which its learning rate rises.
    vae_warmup: int = 200
    kl_weight: float = 1e-6
    unet_batch: int = 16
    ema_decay: float = 0.999
    #: Largest weight of the squared error of x0.
    weight_limit: float = 5.0
    #: The UNet's training, part by part.
    stages: tuple[Stage, ...] = STAGES


@dataclass(frozen=True)
class Drawn:
    """pictures: (N, 64, 64, 3) uint8. labels: (N, 4), the numbers of style, class, accessory and place; -1 for none.
    looks: (N, 3), the numbers of the subject's two colours and its pattern.

    subject, accessory: (N, 16, 16) uint8, how much of each latent pixel they cover, 255 for all of it.
    """

    pictures: np.ndarray
    labels: np.ndarray
    looks: np.ndarray
    subject: np.ndarray
    accessory: np.ndarray


# --- pictures --------------------------------------------------------------------------------------------------------


def scene_labels(scene: Scene) -> tuple[int, int, int, int]:
    return (
        scenes.STYLES.index(scene.style),
        scenes.CLASSES.index(scene.individual.class_word),
        scenes.ACCESSORIES.index(scene.accessory) if scene.accessory else -1,
        scenes.PLACES.index(scene.place) if scene.place else -1,
    )


def scene_looks(scene: Scene) -> tuple[int, int, int]:
    who = scene.individual
    return scenes.PALETTE.index(who.main), scenes.PALETTE.index(who.second), scenes.PATTERNS.index(who.pattern)


def draw_some(seed: tuple[int, int], count: int = PICTURES_PER_JOB) -> Drawn:
    rng = np.random.default_rng(seed)
    some = [random_scene(rng) for _ in range(count)]
    drawn = [render_with_masks(scene) for scene in some]
    return Drawn(
        pictures=np.stack([picture.pixels for picture in drawn]),
        labels=np.array([scene_labels(scene) for scene in some]),
        looks=np.array([scene_looks(scene) for scene in some]),
        subject=np.stack([latent_mask(picture.subject) for picture in drawn]),
        accessory=np.stack([latent_mask(picture.accessory) for picture in drawn]),
    )


def latent_mask(mask: np.ndarray) -> np.ndarray:
    """(64, 64) in 0..1 -> (16, 16) uint8: the mean over what a latent pixel stands for."""
    return (reduce(mask, "(h y) (w x) -> h w", "mean", h=LATENT_SIZE, w=LATENT_SIZE) * 255).round().astype(np.uint8)


def draw_pictures(count: int, seed: int) -> Drawn:
    seeds = [(seed, job) for job in range(-(-count // PICTURES_PER_JOB))]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = list(tqdm(pool.map(draw_some, seeds), "drawing", len(seeds), mininterval=10))
    return Drawn(**{f.name: np.concatenate([getattr(part, f.name) for part in parts])[:count] for f in fields(Drawn)})


def chosen(drawn: Drawn, numbers: np.ndarray) -> Drawn:
    """Some of the pictures, (R,) indices, in that order."""
    return Drawn(**{f.name: getattr(drawn, f.name)[numbers] for f in fields(Drawn)})


def drawn_pictures(plan: TrainingPlan, work: Path) -> Drawn:
    file = work / "pictures.npz"
    if not file.exists():
        save_arrays(file, **asdict(draw_pictures(plan.pictures, plan.seed)))
    with np.load(file) as arrays:
        return Drawn(**arrays)


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Appears whole or not at all, because what is there is not drawn again."""
    partial = file.with_name(f"part_{file.name}")
    np.savez(partial, **arrays)
    partial.replace(file)


def as_pixels(pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


# --- checkpoints -----------------------------------------------------------------------------------------------------


def save_checkpoint(file: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    save_tensors(file, {**tensors, **optimizer_tensors(optimizer), "step": torch.tensor(step)})


def load_checkpoint(file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """The step to go on with: 0 where there is no checkpoint."""
    if not file.exists():
        return 0
    tensors = load_file(file)
    for name, module in modules.items():
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
    load_optimizer_tensors(optimizer, tensors)
    return int(tensors["step"])


def step_generators(seed: int, stage: int, steps: range) -> Iterator[tuple[int, np.random.Generator, torch.Generator]]:
    """Random numbers that depend on the step alone, so that a resumed training is the same training."""
    for step in steps:
        yield (
            step,
            np.random.default_rng((seed, stage, step)),
            torch.Generator().manual_seed((seed << 40) + (stage << 32) + step),
        )


def learning_rate_factor(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """Up, level, and linearly down to 0 at the end."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, cooldown * steps))


# --- the VAE ---------------------------------------------------------------------------------------------------------


def train_vae(vae: AutoencoderKL, pictures: np.ndarray, plan: TrainingPlan, work: Path) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    file = work / "vae.safetensors"
    start = load_checkpoint(file, {"vae": vae}, optimizer)
    progress = tqdm(total=plan.vae_steps, initial=start, desc="VAE", mininterval=30)
    for step, rng, torch_rng in step_generators(plan.seed, 1, range(start, plan.vae_steps)):
        pixels = vae_batch(pictures, step, plan, rng)
        latents = vae.encode(pixels).latent_dist
        decoded = vae.decode(latents.sample(torch_rng)).sample
        loss = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + plan.kl_weight * latents.kl().mean()
        take_step(optimizer, loss, vae_learning_rate(step, plan), MAX_GRAD_NORM)
        progress.update()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.vae_steps:
            save_checkpoint(file, step + 1, {"vae": vae}, optimizer)
            tqdm.write(f"VAE {step + 1}: loss {loss.item():.4f}, {psnr(vae, pictures[-64:]):.2f} dB")


def vae_batch(pictures: np.ndarray, step: int, plan: TrainingPlan, rng: np.random.Generator) -> Tensor:
    if step >= plan.vae_crop_steps:
        return as_pixels(pictures[rng.integers(len(pictures), size=plan.vae_batch // 2)])
    chosen = rng.integers(len(pictures), size=plan.vae_batch)
    y, x = rng.integers(SIZE - CROP + 1, size=2)
    return as_pixels(pictures[chosen, y : y + CROP, x : x + CROP])


def vae_learning_rate(step: int, plan: TrainingPlan) -> float:
    """Each part of the training ends at 0; the second starts lower."""
    first, second = plan.vae_crop_steps, plan.vae_steps - plan.vae_crop_steps
    if step < first:
        return plan.vae_learning_rate * learning_rate_factor(step, first, plan.vae_warmup, 0.5)
    return plan.vae_learning_rate * 0.4 * learning_rate_factor(step - first, second, plan.vae_warmup, 0.7)


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, max_grad_norm: float = math.inf) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Mean over pictures of the reconstruction's peak signal-to-noise ratio, dB."""
    pixels = as_pixels(pictures)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    errors = ((decoded - pixels) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * errors.log10()).mean())


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    """(N, C, 16, 16) float16, standardised; the VAE is changed so that it gives these."""
    parts = [
        vae.encode(as_pixels(pictures[at : at + 50])).latent_dist.mode()
        for at in tqdm(range(0, len(pictures), 50), "encoding", mininterval=10)
    ]
    latents = torch.cat(parts)
    means, stds = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    standardise_latents(vae, means, stds)
    return ((latents - means.view(1, -1, 1, 1)) / stds.view(1, -1, 1, 1)).half()


def cached_latents(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> Tensor:
    file = work / "latents.safetensors"
    if not file.exists():
        latents = encode_pictures(vae, pictures)
        save_tensors(file, {"latents": latents, **vae.state_dict()})
    tensors = load_file(file)
    latents = tensors.pop("latents")
    vae.load_state_dict(tensors)
    return latents


# --- the UNet and its text encoder -----------------------------------------------------------------------------------


def random_captions(drawn: Drawn, stage: Stage, rng: np.random.Generator) -> list[str]:
    """Each caption names the class, most name the rest; the stage says how many name looks, and in how many tokens.

    One of ten is empty, for classifier-free guidance.
    """
    captions = []
    for (style, class_word, accessory, place), (main, second, pattern) in zip(drawn.labels, drawn.looks, strict=True):
        named = rng.random(3) < (0.9, 0.85, 0.9)
        shown = rng.random(3) < stage.looks
        subject = scenes.described(
            scenes.CLASSES[class_word],
            scenes.COLOUR_WORDS[main] if shown[0] else None,
            scenes.COLOUR_WORDS[second] if shown[0] and shown[1] else None,
            scenes.PATTERN_WORDS[pattern] if shown[2] else None,
        )
        if stage.joined and rng.random() < stage.joined:  # no draw for stages without: they stay what they were
            subject = joined(subject)
        caption = scenes.caption(
            f"a {subject}",
            scenes.STYLES[style] if named[0] else None,
            scenes.PLACES[place] if named[1] and place >= 0 else None,
            scenes.ACCESSORIES[accessory] if named[2] and accessory >= 0 else None,
        )
        captions.append("" if rng.random() < 0.1 else caption)
    return captions


def encode_captions(pipeline: StableDiffusionPipeline, captions: list[str], words_only: int = 0) -> Tensor:
    """(B, 32, 128); words with JOIN between them are one token.

    words_only: in so many of them, the first, the tokens behind the words are those of an empty prompt. They hold the
    whole caption otherwise, and a model that reads it there need not look at the words.
    """
    if words_only:
        captions = [*captions, ""]
    words = [next((word for word in caption.split() if JOIN in word), None) for caption in captions]
    plain = [c.replace(word, word.split(JOIN)[-1]) if word else c for c, word in zip(captions, words, strict=True)]
    ids = pipeline.tokenizer(plain, padding="max_length", truncation=True, return_tensors="pt").input_ids
    table = pipeline.text_encoder.get_input_embeddings()

    def put_joined(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:  # (B, 32, 128)
        output = output.clone()
        for row, word in enumerate(words):
            if word:
                numbers = word_ids(pipeline, word.split(JOIN))
                output[row, ids[row] == numbers[-1]] = joined_row(table.weight[numbers])
        return output

    handle = table.register_forward_hook(put_joined)
    try:
        context = pipeline.text_encoder(ids).last_hidden_state
    finally:
        handle.remove()
    if not words_only:
        return context
    behind = (ids[:words_only] == pipeline.tokenizer.eos_token_id)[:, :, None]
    return torch.cat([torch.where(behind, context[-1], context[:words_only]), context[words_only:-1]])


def joined_row(rows: Tensor) -> Tensor:
    """(K, C), of words of which the class is the last -> (C,), their direction, as long as the class's.

    A learned word whose norm is held is of that length too.
    """
    return F.normalize(rows.sum(dim=0), dim=0) * rows[-1].norm()


def word_ids(pipeline: StableDiffusionPipeline, words: Iterable[str]) -> list[int]:
    return [pipeline.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in words]


class Noised(NamedTuple):
    """A batch at its noise levels."""

    latents: Tensor  # (B, 8, 16, 16)
    timesteps: Tensor  # (B,)
    velocity: Tensor  # (B, 8, 16, 16), what is to be predicted


def noised(pipeline: StableDiffusionPipeline, latents: Tensor, lowest_level: float, rng: torch.Generator) -> Noised:
    """lowest_level: share of the noise levels that is left out."""
    levels = len(pipeline.scheduler.alphas_cumprod)
    lowest = round(lowest_level * levels)
    timesteps = lowest + spread_timesteps(len(latents), levels - lowest, rng)
    noise = torch.randn(latents.shape, generator=rng)
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    return Noised(noisy, timesteps, pipeline.scheduler.get_velocity(latents, noise, timesteps))


@torch.no_grad()
def taught(teacher: StableDiffusionPipeline, batch: Noised, captions: list[str]) -> Noised:
    """Where a caption has a joined word, the velocity is what the teacher predicts with its words apart."""
    rows = [row for row, caption in enumerate(captions) if JOIN in caption]
    if not rows:
        return batch
    context = encode_captions(teacher, [apart(captions[row]) for row in rows])
    velocity = batch.velocity.clone()
    velocity[rows] = teacher.unet(batch.latents[rows], batch.timesteps[rows], context).sample
    return batch._replace(velocity=velocity)


def joined(subject: str) -> str:
    """A described subject as one word.

    >>> joined("red and blue striped cat")
    'red+red+blue+striped+cat'
    """
    return re.sub(r"(\w+) and ", r"\1 \1 ", subject).replace(" ", JOIN)


def apart(caption: str) -> str:
    """What `joined` made of a caption's subject undone.

    >>> apart("a red+red+blue+striped+cat in a room")
    'a red and blue striped cat in a room'
    """
    return re.sub(rf"(\w+)\{JOIN}\1\{JOIN}", r"\1 and ", caption).replace(JOIN, " ")


def denoising_loss(
    pipeline: StableDiffusionPipeline, batch: Noised, context: Tensor, weights: Tensor, weight_limit: float
) -> Tensor:
    """Prediction of v, whose weight in terms of x0, SNR + 1, is limited in the manner of arXiv 2303.09556, sec. 3.4.

    context: (B, 32, 128). weights: of the latent pixels, (B, 1, 16, 16).
    """
    error = (pipeline.unet(batch.latents, batch.timesteps, context).sample - batch.velocity).square()
    of_x0 = 1 / (1 - pipeline.scheduler.alphas_cumprod[batch.timesteps])  # SNR + 1
    return ((error * weights).mean(dim=(1, 2, 3)) * of_x0.clamp(max=weight_limit) / of_x0).mean()


def pixel_weights(drawn: Drawn, stage: Stage, share: float) -> Tensor:
    """(B, 1, 16, 16), with mean 1.

    share: 1 for the stage's weights, 0 for equal ones. Weights that depend on the picture draw the prediction towards
    pictures with more of a subject, so that a training has to end with equal ones.
    """
    more = (stage.subject_weight - 1) * drawn.subject + (stage.accessory_weight - 1) * drawn.accessory
    weights = 1 + share * more / 255
    return torch.from_numpy(weights / weights.mean()).float()[:, None]


@torch.no_grad()
def follow(averages: dict[str, nn.Module], modules: dict[str, nn.Module], step: int, decay: float) -> None:
    """Exponential moving average of the weights, quick at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, module in modules.items():
        theirs, ours = list(averages[name].parameters()), list(module.parameters())
        torch._foreach_lerp_(theirs, ours, 1 - decay)


def train_unet(
    pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TrainingPlan, work: Path
) -> None:
    for number, stage in enumerate(plan.stages):
        if number > 0 and any(stage.looks) and not any(plan.stages[number - 1].looks):
            introduce_looks(pipeline, plan.seed)
        suited = np.flatnonzero(np.isin(drawn.labels[:, 0], [scenes.STYLES.index(style) for style in stage.styles]))
        train_stage(pipeline, latents[torch.from_numpy(suited)], chosen(drawn, suited), plan, number, work)


def train_stage(
    pipeline: StableDiffusionPipeline, latents: Tensor, drawn: Drawn, plan: TrainingPlan, number: int, work: Path
) -> None:
    stage = plan.stages[number]
    teacher = copy.deepcopy(pipeline) if stage.taught else None
    modules = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    averages = {name: copy.deepcopy(module).requires_grad_(False) for name, module in modules.items()}
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    kept = {**modules, **{f"ema_{name}": module for name, module in averages.items()}}
    file = work / f"unet_{number}.safetensors"
    start = load_checkpoint(file, kept, optimizer)
    progress = tqdm(total=stage.steps, initial=start, desc=f"UNet, part {number + 1}", mininterval=60)
    recent = []
    for step, rng, torch_rng in step_generators(plan.seed, 2 + number, range(start, stage.steps)):
        numbers = rng.integers(len(latents), size=plan.unet_batch)
        shown = chosen(drawn, numbers)
        captions = random_captions(shown, stage, rng)
        context = encode_captions(pipeline, captions, round(stage.words_only * len(captions)))
        factor = learning_rate_factor(step, stage.steps, stage.warmup, stage.cooldown)
        weights = pixel_weights(shown, stage, factor)
        batch = noised(pipeline, latents[torch.from_numpy(numbers)].float(), stage.lowest_level, torch_rng)
        if teacher is not None:
            batch = taught(teacher, batch, captions)
        loss = denoising_loss(pipeline, batch, context, weights, plan.weight_limit)
        take_step(optimizer, loss, stage.learning_rate * factor, MAX_GRAD_NORM)
        follow(averages, modules, step, plan.ema_decay)
        recent.append(loss.item())
        progress.update()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
            save_checkpoint(file, step + 1, kept, optimizer)
            tqdm.write(f"UNet, part {number + 1}, {step + 1}: loss {np.mean(recent):.4f}")
            recent.clear()
    pipeline.unet.load_state_dict(averages["unet"].state_dict())
    pipeline.text_encoder.load_state_dict(averages["text_encoder"].state_dict())


@torch.no_grad()
def introduce_looks(pipeline: StableDiffusionPipeline, seed: int) -> None:
    """Start the words for looks from random mixtures of words that are known.

    A text encoder that has been trained without them gives all other directions the same, nearly empty, output.
    """
    rows = pipeline.text_encoder.get_input_embeddings().weight
    known = rows[word_ids(pipeline, scenes.content_words())]
    new = word_ids(pipeline, (*scenes.COLOUR_WORDS, *scenes.PATTERN_WORDS))
    mixtures = torch.randn(len(new), len(known), generator=torch.Generator().manual_seed(seed)) @ known
    rows[new] = F.normalize(mixtures, dim=-1) * known.norm(dim=-1).mean()


def train(plan: TrainingPlan, work: Path, out: Path) -> None:
    """work: checkpoints and caches, some 1 GB. out: where the finished model is written, in half precision."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    pipeline = new_pipeline(work / "tokenizer")
    drawn = drawn_pictures(plan, work)
    train_vae(pipeline.vae, drawn.pictures, plan, work)
    latents = cached_latents(pipeline.vae, drawn.pictures, work)
    train_unet(pipeline, latents, drawn, plan, work)
    save_model(pipeline, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and caches, some 1 GB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    arguments = parser.parse_args()
    train(TrainingPlan(), arguments.work, arguments.out)


if __name__ == "__main__":
    main()
