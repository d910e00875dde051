"""PALP Report on the host's own CLIP vision, DINOv2 and CLIP, as small as they can be, with random weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from devtools.host_models import host_parts, host_tokenizer
from devtools.random_models import pictures, tiny_pipeline

pytestmark = pytest.mark.host

SIDE = 28
SHARED = {"hidden_size": 32, "image_size": SIDE, "patch_size": 14, "num_channels": 3, "num_hidden_layers": 2}
CLIP = {
    **SHARED,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
DINO = {
    **SHARED,
    "image_size": 518,  # older hosts know its places for this size alone
    "model_type": "dinov2",
    "num_attention_heads": 2,
    "use_swiglu_ffn": False,
    "layer_norm_eps": 1e-6,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def vision(folder, config: dict):
    """The host's CLIP_VISION of this shape, with random weights."""
    from comfy.clip_vision import ClipVisionModel

    file = folder / f"{config['model_type']}.json"
    file.write_text(json.dumps(config))
    model = ClipVisionModel(str(file))
    generator = torch.Generator().manual_seed(0)
    weights = {k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in model.get_sd().items()}
    model.load_sd(weights)
    return model


@pytest.fixture(scope="module")
def text_encoder(host, comfyui_path, tmp_path_factory):
    """CLIP as of Stable Diffusion 1.x, with a projection, which the host leaves out where it draws."""
    pipeline = tiny_pipeline("sd1", tmp_path_factory.mktemp("clip"), make_tokenizer=host_tokenizer(comfyui_path))
    clip = host_parts(pipeline, "sd1")[1]
    clip.cond_stage_model.clip_l.transformer.text_projection.weight.data.copy_(torch.eye(32).roll(1, 0))
    return clip


def read(text_encoder, text: str) -> torch.Tensor:
    """What CLIP makes of a text, (1, D): the projection rolls the numbers on by one."""
    plain = text_encoder.encode_from_tokens(text_encoder.tokenize(text), return_pooled="unprojected")[1]
    return plain.roll(1, -1)


@pytest.fixture(scope="module")
def width(text_encoder) -> int:
    return text_encoder.cond_stage_model.clip_l.transformer.text_projection.weight.shape[0]


@pytest.fixture
def seeing(host, tmp_path, width, text_encoder):
    """CLIP vision of one model with the text encoder: every picture is near the text "a photo"."""
    model = vision(tmp_path, {**CLIP, "projection_dim": width})
    photo = read(text_encoder, "a photo")
    pooled = model.model.vision_model(torch.zeros(1, 3, SIDE, SIDE))[2]
    with torch.no_grad():
        model.model.visual_projection.weight.mul_(0.1).add_(photo.T @ pooled / pooled.norm())
    return model


def reported(**inputs) -> tuple[str, torch.Tensor]:
    """What the node tells, and its grid."""
    from palp_pack.nodes.report import PalpReport

    PalpReport.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    texts = {"prompt": ["a (sketch:1.2) of [V] in Paris"], "class_word": ["cat"]}
    with torch.inference_mode():
        return PalpReport.execute(**texts, **{name: [value] for name, value in inputs.items()}).args


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(one.double(), other.double()).item()


def test_figures_are_those_of_the_hosts_own_encoders(seeing, tmp_path, text_encoder):
    picture, photo = (image[None] for image in pictures((40, 30), (50, 70)))
    told, grid = reported(
        images=picture, reference_photos=photo, clip_vision=seeing, clip=text_encoder, dino=vision(tmp_path, DINO)
    )
    pooled = read(text_encoder, "a sketch of a cat in Paris")
    seen = [seeing.encode_image(image)["image_embeds"] for image in (picture, photo)]
    assert f"CLIP-T {cosine(seen[0], pooled):.3f}: text alignment" in told
    assert f"CLIP-I {cosine(*seen):.3f}: subject alignment" in told
    assert "DINO " in told and "Not measured: diversity. It needs two pictures of the prompt." in told
    assert told.startswith("1 picture, 1 photo of the subject.")
    assert grid.ndim == 4 and 0 < grid.mean() < 1


def test_photos_of_different_sizes_come_as_a_list(seeing):
    from palp_pack.nodes.report import PalpReport

    photos = [image[None] for image in pictures((40, 30), (50, 70))]
    PalpReport.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    inputs = {"images": [photos[0]], "prompt": ["a cat"], "class_word": [""], "reference_photos": photos}
    told = PalpReport.execute(**inputs, clip_vision=[seeing]).args[0]
    assert told.startswith("1 picture, 2 photos of the subject.") and "CLIP-I" in told
    assert "Not measured: CLIP-T. Connect the text encoder of CLIP to clip." in told


def test_a_text_encoder_without_a_projection_is_named(seeing, text_encoder):
    layer = text_encoder.cond_stage_model.clip_l.transformer.text_projection
    kept = layer.weight.data.clone()
    try:
        layer.weight.data.zero_()
        told, _ = reported(images=torch.rand(1, 30, 30, 3), clip_vision=seeing, clip=text_encoder)
    finally:
        layer.weight.data.copy_(kept)
    assert "Not measured: CLIP-T. To clip, no picture looks like a photo" in told and "CLIP's own text encoder" in told


def test_on_a_server_without_any_judge_it_says_what_to_connect(server):
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "2": {"class_type": "PALP_Report", "inputs": {"images": ["1", 0], "prompt": "a cat", "class_word": "cat"}},
    }
    result = server.queue(nodes).require_success()
    told = " ".join(text for _, text in result.texts)
    assert "Connect a CLIP model, by Load CLIP Vision, to clip_vision." in told and "Connect DINOv2" in told
    assert result.images
