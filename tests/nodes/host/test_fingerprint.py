"""A training's identity: the same for the same model, loaded again or not, and another for what changes the result."""

from __future__ import annotations

import pytest
import torch

from devtools import host_models
from devtools.host_transformers import TinyVae, quantized_model, tiny_clip, tiny_model
from devtools.random_models import tiny_pipeline

pytestmark = pytest.mark.host
FAMILY = "z_image"


@pytest.fixture(scope="module")
def clip(host):
    return tiny_clip(FAMILY)


def identity(model, clip, photo: float = 0.5, **config) -> str:
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject
    from palp_pack.palp_core.methods.result import personalization_identity

    backbone = ComfyBackbone(model, clip, TinyVae(FAMILY))
    settings = PersonalizationConfig(**{"steps": 2, "resolution": 64, **config})
    subject = Subject((torch.full((64, 64, 3), photo),), "cat")
    return personalization_identity(Personalization(backbone, [subject], "a sketch of [V]", settings))


def patched(model, value: float, strength: float = 1.0):
    """With a difference of weights on it, as a LoRA loader's."""
    other = model.clone()
    key = next(key for key in other.model.state_dict() if key.endswith("weight"))
    shape = other.model.state_dict()[key].shape
    other.add_patches({key: ("diff", (torch.full(shape, value),))}, strength)
    return other


def test_the_same_model_has_one_identity_and_what_changes_the_result_another(clip):
    model = tiny_model(FAMILY)
    plain = identity(model, clip)
    assert identity(tiny_model(FAMILY), clip) == plain  # loaded again
    assert identity(model, clip, steps=5, gradient_checkpointing=True) == plain  # how long, and in how much memory
    others = [
        identity(patched(model, 0.1), clip),
        identity(patched(model, 0.2), clip),
        identity(patched(model, 0.1, strength=0.5), clip),
        identity(model, clip, photo=0.6),
        identity(model, clip, seed=1),
    ]
    assert len({plain, *others}) == 1 + len(others)
    assert identity(patched(model, 0.1), clip) == others[0]


def test_patches_that_are_in_the_weights_while_a_copy_is_in_use_change_nothing(clip):
    import comfy.model_management

    model = tiny_model(FAMILY)
    lora = patched(model, 0.1)
    alone, with_lora = identity(model, clip), identity(lora, clip)
    comfy.model_management.load_models_gpu([lora], force_full_load=True)
    assert (identity(model, clip), identity(lora, clip)) == (alone, with_lora)
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("weights", ["bf16", "fp8", "scaled fp8"])
def test_weights_of_any_kind_have_an_identity(clip, weights):
    assert identity(quantized_model(FAMILY, weights), clip) == identity(quantized_model(FAMILY, weights), clip)


def test_what_no_checkpoint_of_stable_diffusion_1_holds_has_no_part_in_it(host, comfyui_path, tmp_path):
    """The host leaves in it what the memory held before: a training would begin anew after a restart."""
    from palp_pack.nodes.host.fingerprint import fingerprint

    tokenizer = host_models.host_tokenizer(comfyui_path)
    pipeline = tiny_pipeline("sd1", tmp_path, make_tokenizer=tokenizer)
    _, clip, _ = host_models.host_parts(pipeline, "sd1", "epsilon")
    encoder = clip.cond_stage_model.clip_l.transformer

    def parts() -> bytes:
        tensors = [part for part in fingerprint(clip.patcher) if isinstance(part, torch.Tensor)]
        return torch.cat(tensors).numpy().tobytes()

    before = parts()
    with torch.no_grad():
        encoder.text_projection.weight.fill_(float("nan"))
    assert parts() == before
    with torch.no_grad():
        encoder.text_model.final_layer_norm.weight.fill_(3)
    assert parts() != before
