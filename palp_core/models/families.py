"""The model families that can be trained, as records of data: what is special about each stands here alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from .noise import Timesteps

#: What LoRA is attached to: the projections of attention, feed-forward networks as well, and of UNets what leads into
#: their blocks of attention and out of them.
Targets = Literal["attention", "attention+ff", "attention+ff+proj"]


@dataclass(frozen=True)
class Activations:
    """What a training keeps for the backward pass: bytes for each token and each feature that LoRA reads or writes.

    For numbers of two bytes. `devtools.memory_table` counts it for transformers in full size, and each is raised to
    what benchmarks/results/gpu.json measured where that is more.
    """

    plain: float
    #: The inputs of all blocks, and what the block that is run again keeps.
    checkpointed: float
    #: Tokens of a prompt that the network takes beside the picture's.
    text_tokens: int = 0
    #: For each feature that goes into another layer which LoRA is attached to, and that is kept for it alone. Computed.
    other_inputs: float = 2.0


@dataclass(frozen=True)
class Family:
    """One family of models."""

    #: Its name in saved files.
    name: str
    #: Its name in messages.
    title: str
    #: Names of the text encoders, in the order in which their outputs are joined.
    encoders: tuple[str, ...]
    #: What its members predict -> the side of the square pictures that they were trained on, pixels.
    native_resolutions: Mapping[str, int]
    #: ModelSpec's name of the architecture; {size} is 512, or 768-v where the model predicts v.
    architecture: str
    #: What kohya's `ss_base_model_version` calls it.
    base_model_version: str
    #: The projections of attention, by the names that ComfyUI gives them.
    attention_layers: str
    #: The layers of feed-forward networks, by these names.
    ff_layers: str
    #: ComfyUI's class in comfy.model_base.
    host_class: str
    #: What a training keeps for the backward pass.
    activations: Activations
    #: What ComfyUI's configuration of the network has to say, where the class has members of other families, too.
    host_config: Mapping[str, object] = field(default_factory=dict)
    #: Sides of pictures are multiples of it: three halvings of the UNet on latents of 1/8 size.
    side_multiple: int = 64
    #: Whether the denoiser reads a pooled text embedding and the picture's size (arXiv 2307.01952, sec. 2.2).
    pooled: bool = False
    #: The layer of CLIP that is read, counted from the end; -1 with the final norm, others without.
    text_layer: int = -1
    #: Whether kohya names its blocks as the original code does, and not as diffusers does.
    original_block_names: bool = True
    #: What stands for a subject in prompts: a learned word, a text, or a text unless a word is asked for.
    subject_words: Literal["learned", "text", "either"] = "text"
    #: Whether prompts are followed by classifier-free guidance, or guidance was distilled into the model, which then
    #: has never seen a prompt beside the null prompt.
    guidance: Literal["classifier-free", "distilled"] = "classifier-free"
    #: The scale of guidance at which its pictures are usually drawn.
    guidance_scale: float = 4.0
    #: How a training draws noise levels.
    timesteps: Timesteps = "logit_normal"
    #: Where text is attended to: in a UNet's layers of its own, in one sequence with the picture, or in a way that is
    #: not looked at, so that a subject has to be found by masks.
    attention: Literal["cross", "joint", "unseen"] = "joint"
    #: Text encoder -> where in the conditioning its tokens begin; for joint attention.
    text_starts: Mapping[str, int] = field(default_factory=dict)
    #: What leads into a UNet's blocks of attention and out of them, by ComfyUI's names; transformers have none.
    proj_layers: str = ""

    @property
    def is_transformer(self) -> bool:
        """Whether the denoiser is a transformer, and not a UNet."""
        return self.attention != "cross"

    def lora_layers(self, targets: Targets) -> re.Pattern:
        """Return what matches the names, as ComfyUI has them, of the layers that LoRA is attached to."""
        kinds = {"attention": self.attention_layers, "ff": self.ff_layers, "proj": self.proj_layers}
        return re.compile("|".join(kinds[kind] for kind in targets.split("+") if kinds[kind]))


def _unet(**special) -> Family:
    """Stable Diffusion's UNets: q, k, v and out of self- and cross-attention."""
    shared = {
        "attention_layers": r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
        "ff_layers": r".*\.ff\.net\.(0\.proj|2)",
        "proj_layers": r".*\.proj_(in|out)",
        "subject_words": "learned",
        "timesteps": "uniform",
        "guidance_scale": 7.5,
        "attention": "cross",
    }
    return Family(**shared, **special)


def _flow(**special) -> Family:
    """Rectified flows (arXiv 2210.02747) on transformers: latents of 1/8 size in patches of 2."""
    return Family(native_resolutions={"flow": 1024}, side_multiple=32, **special)


#: What single blocks hold of their feed-forward networks is one with their attention.
FLUX_LAYERS = {
    "attention_layers": r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]",
    "ff_layers": r"double_blocks\.\d+\.(img|txt)_mlp\.[02]",
}

SD1 = _unet(
    name="sd1",
    title="Stable Diffusion 1.x",
    encoders=("clip_l",),
    native_resolutions={"epsilon": 512, "v": 512},
    original_block_names=False,
    architecture="stable-diffusion-v1",
    base_model_version="sd_v1",
    host_class="BaseModel",
    activations=Activations(5.5, 1.0, other_inputs=1.8),
)
SD2 = _unet(
    name="sd2",
    title="Stable Diffusion 2.x",
    encoders=("clip_h",),
    native_resolutions={"epsilon": 512, "v": 768},
    original_block_names=False,
    architecture="stable-diffusion-v2-{size}",
    base_model_version="sd_v2",
    host_class="BaseModel",
    activations=Activations(5.5, 1.0, other_inputs=1.8),
)
SDXL = _unet(
    name="sdxl",
    title="SDXL",
    encoders=("clip_l", "clip_g"),
    native_resolutions={"epsilon": 1024, "v": 1024},
    pooled=True,
    text_layer=-2,
    architecture="stable-diffusion-xl-v1-base",
    base_model_version="sdxl_base_v1-0",
    host_class="SDXL",
    activations=Activations(1.35, 0.11, other_inputs=0.62),
)
SD3 = _flow(
    name="sd3",
    title="Stable Diffusion 3.5",
    encoders=("clip_l", "clip_g", "t5xxl"),
    architecture="stable-diffusion-3",
    base_model_version="sd3",
    attention_layers=r"joint_blocks\.\d+\.(context_block\.attn|x_block\.attn2?)\.(qkv|proj)",
    ff_layers=r"joint_blocks\.\d+\.(context|x)_block\.mlp\.fc[12]",
    text_starts={"clip_l": 0, "t5xxl": 77},
    host_class="SD3",
    activations=Activations(3.0, 0.58, 154),
    subject_words="either",
)
FLUX = _flow(
    name="flux",
    title="FLUX.1 dev",
    encoders=("clip_l", "t5xxl"),
    architecture="flux-1-dev",
    base_model_version="flux1",
    **FLUX_LAYERS,
    host_class="Flux",
    activations=Activations(2.65, 0.21, 512),
    host_config={"guidance_embed": True},
    text_starts={"t5xxl": 0},
    subject_words="either",
    guidance="distilled",
    guidance_scale=3.5,
)
KLEIN = _flow(
    name="flux2_klein",
    title="FLUX.2 Klein",
    encoders=("qwen3_4b", "qwen3_8b"),
    architecture="flux-2-klein",
    base_model_version="flux2_klein",
    **FLUX_LAYERS,
    host_class="Flux2",
    activations=Activations(3.35, 0.33, 512),
    host_config={"guidance_embed": False},
    text_starts={"qwen3_4b": 0, "qwen3_8b": 0},
)
CHROMA = _flow(
    name="chroma",
    title="Chroma",
    encoders=("t5xxl",),
    architecture="chroma",
    base_model_version="chroma",
    **FLUX_LAYERS,
    host_class="Chroma",
    activations=Activations(2.65, 0.21, 512),
    text_starts={"t5xxl": 0},
    subject_words="either",
)
QWEN_IMAGE = _flow(
    name="qwen_image",
    title="Qwen-Image",
    encoders=("qwen25_7b",),
    architecture="qwen-image",
    base_model_version="qwen_image",
    attention_layers=(
        r"transformer_blocks\.\d+\.attn\."
        r"(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    ),
    ff_layers=r"transformer_blocks\.\d+\.(img|txt)_mlp\.net\.(0\.proj|2)",
    host_class="QwenImage",
    activations=Activations(2.1, 0.15, 64),
    text_starts={"qwen25_7b": 0},
)
Z_IMAGE = _flow(
    name="z_image",
    title="Z-Image",
    encoders=("qwen3_4b",),
    architecture="z-image",
    base_model_version="z_image",
    attention_layers=r"(layers|noise_refiner|context_refiner)\.\d+\.attention\.(qkv|out)",
    ff_layers=r"(layers|noise_refiner|context_refiner)\.\d+\.feed_forward\.w[123]",
    host_class="Lumina2",
    activations=Activations(7.6, 0.58, 64),
    host_config={"z_image_modulation": True},
    text_starts={"qwen3_4b": 0},
)
KREA2 = _flow(
    name="krea2",
    title="Krea 2",
    encoders=("qwen3vl_4b",),
    architecture="krea-2",
    base_model_version="krea2",
    attention_layers=r"blocks\.\d+\.attn\.(wq|wk|wv|wo)",
    ff_layers=r"blocks\.\d+\.mlp\.(gate|up|down)",
    host_class="Krea2",
    activations=Activations(7.6, 0.54, 64),
    attention="unseen",
)
ANIMA = _flow(
    name="anima",
    title="Anima",
    encoders=("qwen3_06b",),
    architecture="anima",
    base_model_version="anima",
    attention_layers=r"blocks\.\d+\.(self_attn|cross_attn)\.(q_proj|k_proj|v_proj|output_proj)",
    ff_layers=r"blocks\.\d+\.mlp\.layer[12]",
    host_class="Anima",
    activations=Activations(2.2, 0.5, 512),
    attention="unseen",
)

#: The demo world's own transformer: Z-Image's network with a CLIP.
TOY_FLOW = replace(
    Z_IMAGE,
    name="toy_flow",
    title="the demo world's transformer",
    encoders=("clip_l",),
    native_resolutions={"flow": 64},
    guidance_scale=2.0,
    architecture="palp-demo-world-flow",
    base_model_version="palp_demo_world_flow",
    text_starts={"clip_l": 0},
)

_PUBLISHED = (SD1, SD2, SDXL, SD3, FLUX, KLEIN, CHROMA, QWEN_IMAGE, Z_IMAGE, KREA2, ANIMA)
FAMILIES: dict[str, Family] = {family.name: family for family in (*_PUBLISHED, TOY_FLOW)}
SUPPORTED = f"PALP works with {', '.join(family.title for family in _PUBLISHED)}"
