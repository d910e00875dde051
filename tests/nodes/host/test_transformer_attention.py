"""Record Attention, Attention Heatmap and Pick-and-Draw on the host's transformers, inside the host's own sampler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from devtools.comfy_server import find_comfyui
from devtools.host_transformers import TINY, TinyVae, families_of, tiny_clip, tiny_model
from devtools.random_models import pictures
from palp_core.models.families import FAMILIES

pytestmark = pytest.mark.host

PROMPT = "a sketch of a cat in Paris"
GUIDANCE = {
    "prompt": PROMPT,
    "subject_word": "cat",
    "class_word": "dog",
    "pick_weight": 1.0,
    "draw_weight": 1.0,
    "step_size": 0.5,
    "iterations": 1,
    "start_percent": 0.0,
    "end_percent": 0.7,
    "threshold": 0.4,
    "reference": "noise",
    "reference_prompt": "",
    "resolution": 64,
    "seed": 0,
}


@pytest.fixture(
    scope="module", params=[name for name in families_of(find_comfyui()) if FAMILIES[name].attention == "joint"]
)
def parts(request, host):
    """(family, MODEL, CLIP, VAE)."""
    return request.param, tiny_model(request.param), tiny_clip(request.param), TinyVae(request.param)


def sample(family: str, model, positive, negative) -> torch.Tensor:
    import comfy.sample

    latents = torch.zeros(2, *TINY[family].latents)
    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latents, 3)
        return comfy.sample.sample(model, noise, 3, 4.0, "euler", "simple", positive, negative, latents, seed=3).clone()


def is_exact() -> bool:
    """Say whether the same pass gives the same numbers again; on a GPU sums are taken in any order."""
    return not torch.cuda.is_available()


def negative_of(clip):
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(""))


def test_a_words_heat_is_recorded_while_the_host_samples(parts):
    from palp_pack.nodes.attention import AttentionHeatmap, RecordAttention

    family, model, clip, _ = parts
    with torch.inference_mode():
        recorded, conditioning, recording = RecordAttention.execute(model, clip, PROMPT).args
    latents = sample(family, recorded, conditioning, negative_of(clip))
    plain = sample(family, model, conditioning, negative_of(clip))  # with whichever attention the host has chosen
    torch.testing.assert_close(latents, plain, rtol=1e-3, atol=1e-3)
    images = torch.rand(2, 64, 64, 3)
    AttentionHeatmap.hidden = SimpleNamespace(unique_id=None)
    cat, paris = (recording.positions(word) for word in ("cat", "Paris"))
    assert cat and paris and not set(cat) & set(paris)
    maps = recording.maps(images)
    assert maps.shape[0] == 2 and torch.isfinite(maps).all() and maps.min() >= 0
    assert maps.sum(dim=1).max() <= 1 + 1e-3
    with pytest.raises(ValueError, match="the word 'horse' is not in the prompt"):
        recording.positions("horse")


def test_pick_and_draw_guides_the_hosts_sampler(parts):
    import comfy.model_management
    from palp_pack.nodes.pick_and_draw import PickAndDrawGuidance

    family, model, clip, vae = parts
    before = {name: p.detach().to("cpu", copy=True) for name, p in model.model.named_parameters()}
    PickAndDrawGuidance.hidden = SimpleNamespace(unique_id=None)
    inputs = {"model": model, "clip": clip, "vae": vae, "image": pictures((64, 64))[0][None], **GUIDANCE}
    inputs["mask"] = torch.ones(1, 64, 64)  # where a random model's attention is may be nowhere
    with torch.inference_mode():
        guided, conditioning = PickAndDrawGuidance.execute(**inputs).args
    moved, again = (sample(family, guided, conditioning, negative_of(clip)) for _ in range(2))
    plain = sample(family, model, conditioning, negative_of(clip))
    torch.testing.assert_close(moved, again, rtol=0, atol=0 if is_exact() else 1e-2)
    assert torch.isfinite(moved).all()
    assert (moved - plain).abs().max() > 1e-3 * plain.abs().max()
    assert all(torch.equal(before[name], p.cpu()) for name, p in model.model.named_parameters())
    assert not getattr(comfy.model_management, "in_training", False)
    hooks = [m for m in model.model.modules() if m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__]
    assert not hooks
