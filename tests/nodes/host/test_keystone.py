"""The same weights behind both backbones: the same predictions, the same losses, the same LoRA."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from devtools import host_models
from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

PROMPT = "a sketch of [V] in Paris at night"
STEPS = 6


@pytest.fixture(scope="module", params=[("sd1", "epsilon"), ("sd2", "v"), ("sdxl", "epsilon")], ids="-".join)
def backbones(request, host, comfyui_path, tmp_path_factory):
    """(diffusers backbone, host backbone) of one set of weights."""
    family, prediction = request.param
    from palp_pack.nodes.host.backbone import ComfyBackbone

    pipeline = tiny_pipeline(
        family,
        tmp_path_factory.mktemp(family),
        "v_prediction" if prediction == "v" else "epsilon",
        make_tokenizer=host_models.host_tokenizer(comfyui_path),
    )
    parts = host_models.host_parts(pipeline, family, prediction)
    if family == "sd2":  # diffusers' files leave out the last layer, which the host has and skips
        inner = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
        inner.encoder.layers = inner.encoder.layers[:-1]
    return DiffusersBackbone(pipeline, device="cpu"), ComfyBackbone(*parts)


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_same_noise_levels_and_weights(backbones):
    torch.testing.assert_close(*(b.levels.sigmas for b in backbones), rtol=1e-4, atol=0)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    assert torch.equal(*(b.prediction.loss_weight(sigma) for b in backbones))


def test_the_models_own_resolution_is_its_familys(backbones):
    """A checkpoint's weights do not say it; diffusers' configuration does, here of a tiny model."""
    own = {("sd1", "epsilon"): 512, ("sd2", "v"): 768, ("sdxl", "epsilon"): 1024}
    ours, theirs = backbones
    assert ours.native_resolution == 64
    assert theirs.native_resolution == own[theirs.family.name, theirs.prediction.name]


def test_same_conditioning_with_learned_words(backbones):
    vectors = {"[V]": {e: torch.randn(2, v.shape[-1]) for e, v in backbones[0].word_vectors("cat").items()}}
    for prompt in ("", "a photo of a cat", PROMPT, "[V], [V]'s hat and an unknown [W]"):
        ours, theirs = (b.encode_prompt(prompt, vectors) for b in backbones)
        assert relative_difference(ours.tensors["context"], theirs.tensors["cross_attn"]) < 1e-5, prompt
        if "pooled" in ours.tensors:
            assert relative_difference(ours.tensors["pooled"], theirs.tensors["pooled_output"]) < 1e-5, prompt


def test_same_latents(backbones):
    (image,) = pictures((64, 128))
    ours, theirs = (b.encode_image(image) for b in backbones)
    assert ours.shape == (1, 4, 8, 16)
    assert relative_difference(ours, theirs) < 1e-5
    shown = [b.decode_latents(ours) for b in backbones]
    assert shown[0].shape == (1, 64, 128, 3) and 0 <= shown[0].min() and shown[0].max() <= 1
    torch.testing.assert_close(*shown, atol=1e-4, rtol=0)


def test_same_denoised(backbones):
    sigma = torch.tensor([0.05, 0.9, 12.0])
    x = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(1)) * (1 + sigma.view(-1, 1, 1, 1))
    results = []
    for backbone in backbones:
        cond = backbone.encode_prompt("a photo of a cat", {})
        with torch.no_grad():
            results.append(backbone.denoise(x, sigma, [cond]))
    assert relative_difference(*results) < 1e-5


def test_same_names_for_the_projections(backbones):
    names = []
    for backbone in backbones:
        linear = (n for n, m in backbone.denoiser.named_modules() if isinstance(m, torch.nn.Linear))
        projections = backbone.projections()
        assert set(chain(*projections.values())) == {n for n in linear if ".attn" in n}
        names.append(set(projections))
    assert names[0] == names[1]


def test_same_losses_and_lora_after_training(backbones):
    config = PersonalizationConfig(
        steps=STEPS, rank=4, resolution=64, learning_rate=1e-3, alignment=AlignmentConfig(weight=0.5), seed=5
    )
    images = pictures((64, 64), (64, 64), (70, 140))
    histories, weights = [], []
    for backbone in backbones:
        run = Training(Personalization(backbone, [Subject(images=images, class_word="cat")], PROMPT, config))
        histories.append(list(run.steps()))
        weights.append(run.result)
    for ours, theirs in zip(*histories, strict=True):
        assert ours.losses["denoising_loss"] == pytest.approx(theirs.losses["denoising_loss"], rel=1e-3)
        assert ours.losses["score_gap"] == pytest.approx(theirs.losses["score_gap"], rel=1e-2)
    assert weights[0].lora.keys() == weights[1].lora.keys()
    learned = [torch.cat([w.lora[k].flatten() for k in sorted(w.lora) if "lora_up" in k]) for w in weights]
    assert learned[0].abs().max() > 1e-3  # it did learn
    assert relative_difference(*learned) < 0.02  # Adam's first steps enlarge rounding where a gradient is near zero
    for encoder, vectors in weights[0].words["[V]"].items():
        assert relative_difference(vectors, weights[1].words["[V]"][encoder]) < 1e-3
