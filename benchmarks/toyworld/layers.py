"""Which of a model's layers locate words: their heat maps against what the renderer knows, each layer by itself."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from palp_core.methods.heatmap import HeatMaps, word_heat
from palp_core.models.attention import recorded_attention
from palp_core.toyworld import LATENT_SIZE
from palp_core.toyworld.drawing import render_with_masks
from palp_core.toyworld.scenes import Scene, caption
from palp_core.toyworld.world import DemoModel, World, as_pictures, load_world

from .attention import LEVELS, content_tokens, numbers_of
from .heatmaps import ROLES, full_scenes, separation

ALL = "all together"


@dataclass(frozen=True)
class Layers:
    """Print how often a pixel inside of what a word names is hotter than one outside, by layer; 0.5 is chance."""

    model: DemoModel = "transformer"
    scenes: int = 24

    def run(self) -> None:
        world = load_world(model=self.model)
        found: dict[str, list[list[float]]] = defaultdict(list)
        for scene in full_scenes(self.scenes, seed=5):
            for layer, areas in by_layer(world, scene).items():
                found[layer].append(areas)
        print(f"| layer | {' | '.join(ROLES)} |")
        print("|---" * (1 + len(ROLES)) + "|")
        for layer, areas in found.items():
            print(f"| {layer} | {' | '.join(f'{area:.2f}' for area in np.mean(areas, axis=0))} |")


@torch.no_grad()
def by_layer(world: World, scene: Scene) -> dict[str, list[float]]:
    """Record a rendered scene, and judge each layer's maps by the role of the word."""
    picture, kind, backbone = render_with_masks(scene), scene.individual.class_word, world.backbone
    prompt = caption(f"a {kind}", scene.style, scene.place, scene.accessory)
    cond, tokens = backbone.encode_prompt(prompt, {}), content_tokens(world, prompt, {})
    (pixels,) = as_pictures([torch.from_numpy(picture.pixels).float() / 255])
    latents = backbone.encode_image((pixels.movedim(0, -1) + 1) / 2)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    heat: dict[str, HeatMaps] = defaultdict(HeatMaps)
    for level in LEVELS:
        sigma = backbone.levels.at(level)
        with recorded_attention(backbone.denoiser, tokens, joint=backbone.joint) as layers:
            backbone.denoise(latents + sigma * noise, sigma.expand(1), [cond])
        for name, some in (*((name, {name: layer}) for name, layer in layers.items()), (ALL, layers)):
            heat[name].add(some, (LATENT_SIZE, LATENT_SIZE), 1)
    named = dict(zip(ROLES, (kind, scene.accessory, scene.place), strict=True))
    numbers = {role: numbers_of(world, prompt, word, {}) for role, word in named.items()}
    against = {"place": [*numbers["subject"], *numbers["accessory"]]}
    size = tuple(picture.pixels.shape[:2])
    return {
        name: [
            separation(word_heat(one.maps, numbers[role], size, against.get(role, ()))[0], getattr(picture, role))
            for role in ROLES
        ]
        for name, one in heat.items()
    }
