"""The same weights of a transformer behind both backbones: the same predictions, the same losses, the same LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from devtools import host_transformers
from devtools.random_flow_models import tiny_flow_pipeline
from devtools.random_models import pictures
from palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
from palp_core.methods.scores import Delta, Palp
from palp_core.models.backbone import Conditioning
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.families import FLUX, KLEIN, QWEN_IMAGE, SD3, Z_IMAGE
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

PROMPT = "a sketch of [V] in Paris at night"
STEPS = 20
#: Of the trained LoRA; Adam's first steps enlarge rounding where a gradient is near zero.
TOLERANCE = 2e-3
#: Tokens of a prompt.
LONGEST = 96
#: The host's own maps of its names to diffusers', and what they leave out.
HOST_MAPS = {FLUX.name: "flux", KLEIN.name: "flux", SD3.name: "mmdit", Z_IMAGE.name: "z_image"}
LEFT_OUT = {
    "time_guidance_embed.timestep_embedder.linear_1.weight": "time_in.in_layer.weight",
    "time_guidance_embed.timestep_embedder.linear_2.weight": "time_in.out_layer.weight",
    "double_stream_modulation_img.linear.weight": "double_stream_modulation_img.lin.weight",
    "double_stream_modulation_txt.linear.weight": "double_stream_modulation_txt.lin.weight",
    "single_stream_modulation.linear.weight": "single_stream_modulation.lin.weight",
}


@pytest.fixture(scope="module", params=[FLUX.name, KLEIN.name, SD3.name, QWEN_IMAGE.name, Z_IMAGE.name])
def backbones(request, host, tmp_path_factory):
    """(diffusers backbone, host backbone) of one set of weights; the first takes prompts and photos from the second."""
    from palp_pack.nodes.host.backbone import ComfyBackbone

    family = request.param
    model = host_transformers.tiny_model(family)
    vae = host_transformers.TinyVae(family)
    theirs = ComfyBackbone(model, host_transformers.tiny_clip(family), vae)
    theirs._network_inputs = with_short_texts(theirs._network_inputs)
    pipeline = tiny_flow_pipeline(family, tmp_path_factory.mktemp(family))
    copy_weights(model, pipeline.transformer, family)
    ours = DiffusersBackbone(pipeline, device="cpu")
    ours.encode_image, ours.token_positions = theirs.encode_image, theirs.token_positions
    ours.encode_prompt = encoded_by(theirs)
    return ours, theirs


def copy_weights(model, transformer, family: str) -> None:
    """Put the host's weights into diffusers' transformer, by the host's own key maps."""
    import comfy.utils

    network = model.model.diffusion_model
    weights, config = network.state_dict(), model.model.model_config.unet_config
    if family == Z_IMAGE.name:  # 1024 wide in diffusers; in the host no wider than the model, which here is tiny
        transformer.t_embedder = type(transformer.t_embedder)(256, mid_size=transformer.dim)
    kind = HOST_MAPS.get(family)
    names = getattr(comfy.utils, f"{kind}_to_diffusers")(config) if kind else {}
    names = {**LEFT_OUT, **names}
    state = {key: taken(weights, names.get(key, key)) for key in transformer.state_dict()}
    transformer.load_state_dict(state)


def taken(weights: dict[str, Tensor], place: str | tuple) -> Tensor:
    """What the host has under a key, or in some rows of it, or with its two halves swapped."""
    if isinstance(place, str):
        return weights[place].clone()
    key, rows, *swap = place
    weight = weights[key] if rows is None else weights[key].narrow(*rows)
    return torch.cat(weight.chunk(2)[::-1]) if swap else weight.clone()


def with_short_texts(network_inputs):
    """Without most of what fills prompts up to hundreds of tokens, which takes nearly all of the time."""

    def shortened(x: Tensor, cond) -> dict:
        inputs = network_inputs(x, cond)
        text = inputs["c_crossattn"]
        return {**inputs, "c_crossattn": text._copy_with(text.cond[:, :LONGEST])}

    return shortened


def encoded_by(theirs):
    """Prompts as the host's network gets them, under our names."""

    def encode(prompt: str, words: dict) -> Conditioning:
        latents = torch.zeros(1, *host_transformers.TINY[theirs.family.name].latents)
        inputs = theirs._network_inputs(latents, theirs.encode_prompt(prompt, words))
        names = {"text": "c_crossattn", "pooled": "y", "guidance": "guidance"}
        return Conditioning({ours: inputs[name].cond for ours, name in names.items() if name in inputs})

    return encode


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_same_noise_levels_sizes_and_weights(backbones):
    ours, theirs = backbones
    torch.testing.assert_close(ours.levels.sigmas, theirs.levels.sigmas, rtol=2e-3, atol=0)  # 1 - s has few digits
    ours_s, theirs_s = (b.levels.sigmas / (1 + b.levels.sigmas) for b in backbones)
    torch.testing.assert_close(ours_s, theirs_s, rtol=1e-6, atol=1e-7)
    assert ours.levels.timesteps == theirs.levels.timesteps
    assert ours.native_resolution == theirs.native_resolution == 1024
    assert ours.family.name == theirs.family.name and ours.prediction.name == theirs.prediction.name


def test_same_denoised_for_prompts_of_any_lengths(backbones):
    shape = host_transformers.TINY[backbones[0].family.name].latents
    sigma = torch.tensor([0.05, 0.9, 12.0, 300.0])
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    x = noise * (1 + sigma.view(-1, *[1] * len(shape)))
    prompts = ("a photo of a cat", "a dog on a very long road to a far, far town " * 3)
    results = []
    for backbone in backbones:
        conds = [backbone.encode_prompt(prompt, {}) for prompt in prompts]
        with torch.no_grad():
            results.append(backbone.denoise(x, sigma, conds))
    assert relative_difference(*results) < 1e-4


@pytest.mark.parametrize(("targets", "least"), [("attention", 9), ("attention+ff", 13)])
def test_same_names_and_sizes_of_the_projections(backbones, targets, least):
    found = []
    for backbone in backbones:
        names = backbone.projections(targets)
        modules = {key: [backbone.denoiser.get_submodule(n) for n in ns] for key, ns in names.items()}
        found.append({key: sum(part.weight.shape[0] for part in parts) for key, parts in modules.items()})
    assert found[0] == found[1] and len(found[0]) >= least


def assert_same_training(backbones, **settings) -> None:
    config = PersonalizationConfig(
        rank=4, batch_size=1, resolution=64, learning_rate=1e-3, subject_word="text", seed=5, **settings
    )
    histories, weights = [], []
    for backbone in backbones:
        run = Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], PROMPT, config))
        histories.append(list(run.steps()))
        weights.append(run.result)
    for ours, theirs in zip(*histories, strict=True):
        assert ours.losses["denoising_loss"] == pytest.approx(theirs.losses["denoising_loss"], rel=1e-3)
        assert ours.losses["score_gap"] == pytest.approx(theirs.losses["score_gap"], rel=1e-3)
    assert weights[0].lora.keys() == weights[1].lora.keys()
    learned = [torch.cat([w.lora[k].flatten() for k in sorted(w.lora) if "lora_up" in k]) for w in weights]
    assert learned[0].abs().max() > 1e-3  # it did learn
    assert relative_difference(*learned) < TOLERANCE


def test_same_losses_and_lora_after_training(backbones):
    assert_same_training(backbones, steps=STEPS, alignment=AlignmentConfig(weight=0.25, score=Delta(interval=1)))


def test_same_training_of_feed_forward_layers(backbones):
    delta = AlignmentConfig(weight=0.25, score=Delta(interval=1))
    assert_same_training(backbones, steps=3, alignment=delta, targets="attention+ff")


@pytest.mark.parametrize("backbones", [QWEN_IMAGE.name, Z_IMAGE.name], indirect=True)
def test_same_with_the_papers_score_where_prompts_have_their_own_lengths(backbones):
    assert_same_training(backbones, steps=3, alignment=AlignmentConfig(weight=0.25, score=Palp()))
