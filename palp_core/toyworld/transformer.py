"""The world's second model: a flow-matching transformer with the first one's text encoder and VAE, which are frozen.

It is Z-Image's architecture in its smallest useful size. Convention: x_t = (1 - s)*x0 + s*eps for s in 0..1; the
velocity is eps - x0. A text stands for a subject, as on all large transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from ..models.diffusers.architecture import Architecture, Reader, Schedule
from ..models.diffusers.loading import load_pipeline
from ..models.diffusers.z_image import Z
from ..models.families import TOY_FLOW
from ..models.joint_attention import JointLayout
from . import LATENT_SIZE, MODEL_FOLDER

FOLDER = MODEL_FOLDER / "transformer"
#: A width of 288 is a multiple of 96: other implementations round the feed-forward's width to a multiple of 256.
SIZES = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
(PATCH,) = SIZES["all_patch_size"]  # latent pixels, a side
PATCHES = LATENT_SIZE // PATCH  # a side
KIND = f"{PATCH}-1"  # diffusers' key of the layers for patches of this size
TOKENS = 32  # of a prompt
MODULATION = 256  # width of what the noise level is told by
SHIFT = 3.0  # of the noise levels at which it is trained and drawn: Z-Image's
WEIGHTS = FOLDER / "diffusion_pytorch_model.safetensors"


def empty_transformer() -> ZImageTransformer2DModel:
    """Make the transformer with random weights."""
    transformer = ZImageTransformer2DModel(**SIZES)
    transformer.t_embedder = TimestepEmbedder(MODULATION, mid_size=SIZES["dim"])  # diffusers fixes its width at 1024
    return transformer


def velocity(transformer: ZImageTransformer2DModel, noisy: Tensor, levels: Tensor, context: Tensor) -> Tensor:
    """Predict eps - x0, (B, 8, 16, 16), from x_t of that shape, s (B,) and the texts, (B, 32, 128).

    The same as the transformer's own call, which takes lists of pictures apart and puts them together again.
    """
    time = transformer.t_embedder((1 - levels) * transformer.t_scale)
    rope = transformer.rope_embedder(positions().to(noisy.device))[None]
    image_rope, text_rope = rope.split([PATCHES**2, TOKENS], dim=1)
    image = transformer.all_x_embedder[KIND](rearrange(noisy, "b c (h p) (w q) -> b (h w) (p q c)", p=PATCH, q=PATCH))
    for block in transformer.noise_refiner:
        image = block(image, None, image_rope, time)
    text = transformer.cap_embedder(context)
    for block in transformer.context_refiner:
        text = block(text, None, text_rope)
    tokens = torch.cat([image, text], dim=1)
    for block in transformer.layers:
        tokens = block(tokens, None, rope, time)
    output = transformer.all_final_layer[KIND](tokens[:, : PATCHES**2], c=time)
    return -rearrange(output, "b (h w) (p q c) -> b c (h p) (w q)", h=PATCHES, p=PATCH, q=PATCH)


def positions() -> Tensor:
    """Number the tokens, (96, 3): those of the image by row and column, behind those of the text one by one."""
    rows, columns = torch.meshgrid(torch.arange(PATCHES), torch.arange(PATCHES), indexing="ij")
    behind_text = torch.full((PATCHES**2,), TOKENS + 1)
    text = torch.zeros(TOKENS, 3, dtype=torch.long)
    text[:, 0] = torch.arange(TOKENS) + 1
    return torch.cat([torch.stack([behind_text, rows.flatten(), columns.flatten()], dim=1), text])


def _velocity(transformer: nn.Module, x: Tensor, s: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    return velocity(transformer, x, s, text["text"])


def _encode(pipeline: ToyTransformerPipeline, prompt: str, device: torch.device, **_options) -> dict[str, Tensor]:
    ids = pipeline.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return {"text": pipeline.text_encoder(ids.to(device)).last_hidden_state}


TOY = Architecture(
    family=TOY_FLOW,
    pipeline="ToyTransformerPipeline",
    velocity=_velocity,
    encode=_encode,
    readers=lambda pipeline: [Reader(pipeline.tokenizer, limit=TOKENS)],
    joint=JointLayout(patch=PATCH, text_first=False),
    schedule=Schedule(1000, SHIFT),
    projections=Z.projections,
    most_tokens=TOKENS,
    reads_weights=True,
)


@dataclass
class ToyTransformerPipeline:
    """Holds the parts under the names that diffusers' pipelines have for them, and says what it is."""

    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: object
    transformer: ZImageTransformer2DModel
    scheduler: object = None
    architecture: Architecture = TOY

    def to(self, device: torch.device | str) -> ToyTransformerPipeline:
        """Move all parts."""
        for part in (self.vae, self.text_encoder, self.transformer):
            part.to(device)
        return self


def load_transformer_pipeline(weights: Path = WEIGHTS) -> ToyTransformerPipeline:
    """Load the model, in float32."""
    pipeline, transformer = load_pipeline(MODEL_FOLDER), empty_transformer()
    transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return ToyTransformerPipeline(pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, transformer.eval())
