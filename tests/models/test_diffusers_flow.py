"""diffusers' pipelines with transformers as a backbone: the same numbers as in the pipelines, and trained in place."""

from __future__ import annotations

import math
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from devtools.random_flow_models import PIPELINES, tiny_flow_pipeline
from devtools.random_models import fingerprint, pictures, same
from palp_core.errors import ModelError, PromptError, SettingError
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.concept import Concept
from palp_core.methods.personalization import Personalization, PersonalizationConfig
from palp_core.methods.scores import Palp
from palp_core.methods.subjects import Subject
from palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from palp_core.models.attention import prompted
from palp_core.models.diffusers.architecture import packed, unpacked
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.flow import ARCHITECTURES, architecture_of, schedule_shares
from palp_core.models.diffusers.flow_lora import load_lora
from palp_core.models.families import FLUX, KLEIN, QWEN_IMAGE, SD3, Z_IMAGE
from palp_core.models.lora import attached_lora
from palp_core.training.loop import Training

FAMILIES = list(PIPELINES)
LANGUAGE_MODELS = [KLEIN.name, QWEN_IMAGE.name, Z_IMAGE.name]
PROMPT, PHOTO = "a sketch of [V] in Paris", "a photo of a cat"
CONFIG = {"steps": 3, "rank": 4, "resolution": 64, "batch_size": 1, "learning_rate": 1e-3, "seed": 5}
#: What makes each pipeline draw without guidance.
UNGUIDED = {Z_IMAGE.name: {"guidance_scale": 0}, QWEN_IMAGE.name: {"true_cfg_scale": 1}}


@cache
def shared(folder: Path, family: str) -> DiffusersBackbone:
    return DiffusersBackbone(tiny_flow_pipeline(family, folder), device="cpu")


@pytest.fixture
def backbone(request, tmp_path_factory) -> DiffusersBackbone:
    """One for all tests of a family, which leave it as it was."""
    return shared(tmp_path_factory.getbasetemp(), request.param)


each_family = pytest.mark.parametrize("backbone", FAMILIES, indirect=True)


def personalization(backbone, score=None, **changes) -> Training:
    alignment = {"alignment": AlignmentConfig(0.25, score)} if score else {}
    config = PersonalizationConfig(**{**CONFIG, **alignment, **changes})
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], PROMPT, config))


def latents_like(backbone, count: int) -> Tensor:
    shape = backbone.encode_image(torch.zeros(64, 96, 3)).shape[1:]
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


# --- the same numbers as in the pipelines ---


@each_family
def test_one_step_of_the_pipelines_own_sampler_gives_our_estimate(backbone):
    """From share s of noise to none in one step: what it ends with is x0 as the model estimates it."""
    pipeline, family = backbone.pipeline, backbone.family.name
    x_t = latents_like(backbone, 1)
    given = packed(x_t.squeeze(2)) if family in (FLUX.name, QWEN_IMAGE.name) else x_t
    options = {"guidance_scale": 1, **UNGUIDED.get(family, {})}
    if family == QWEN_IMAGE.name:
        del options["guidance_scale"]
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        prompt=PHOTO, latents=given, sigmas=[0.7], height=64, width=96, output_type="latent", **options
    ).images
    s = pipeline.scheduler.sigmas[0]
    sigma = (s / (1 - s)).view(1)
    with torch.no_grad():
        denoised = backbone.denoise(x_t * (1 + sigma), sigma, [backbone.encode_prompt(PHOTO, {})])
    if family == KLEIN.name:
        denoised = backbone.latents.to_raw(denoised, pipeline.vae)
    if family in (FLUX.name, QWEN_IMAGE.name):
        found = unpacked(found, 4, 6).view_as(denoised)
    assert relative_difference(found, denoised) < 1e-4


@each_family
def test_each_prompt_stands_for_its_own_samples(backbone):
    prompts = (PHOTO, "a dog on a very long road", "a photo of a dog")
    conds = [backbone.encode_prompt(prompt, {}) for prompt in prompts]
    x, sigma = latents_like(backbone, 6) * 3, torch.tensor([0.1, 0.4, 1.0, 3.0, 10.0, 100.0])
    with torch.no_grad():
        together = backbone.denoise(x, sigma, conds)
        alone = [backbone.denoise(*(part[2 * n : 2 * n + 2] for part in (x, sigma)), [c]) for n, c in enumerate(conds)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@each_family
def test_levels_are_those_of_the_hosts_table(backbone):
    shares = backbone.levels.sigmas / (1 + backbone.levels.sigmas)
    shift = {SD3.name: 3.0, Z_IMAGE.name: 3.0, KLEIN.name: math.exp(2.02)}.get(backbone.family.name, math.exp(1.15))
    assert (len(shares) > 9_990) == (backbone.family.name not in (SD3.name, Z_IMAGE.name))
    middle = shares[len(shares) // 2].item()
    assert middle == pytest.approx(shift / (1 + shift), abs=2e-3) and shares[-1] < 1
    assert (shares.diff() > 0).all()


@pytest.mark.parametrize("backbone", [SD3.name, Z_IMAGE.name], indirect=True)
def test_the_schedulers_own_shift_counts(backbone):
    scheduler = type(backbone.pipeline.scheduler)(shift=6.0)
    shares = schedule_shares(architecture_of(backbone.pipeline).schedule, scheduler)
    torch.testing.assert_close(shares.flip(0), scheduler.sigmas[:1000], atol=1e-6, rtol=0)


@each_family
def test_latents_are_the_pipelines_and_come_back(backbone):
    pipeline, (image,) = backbone.pipeline, pictures((64, 96))
    latents = backbone.encode_image(image)
    vae, config = pipeline.vae, pipeline.vae.config
    pixels = image.movedim(-1, 0)[None] * 2 - 1
    with torch.no_grad():
        if backbone.family.name == KLEIN.name:
            expected = pipeline._encode_vae_image(pixels, None)
        elif backbone.family.name == QWEN_IMAGE.name:
            mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
            expected = (vae.encode(pixels[:, :, None]).latent_dist.mode() - mean) / deviation
        else:
            expected = (vae.encode(pixels).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)
    raw = backbone.latents.to_raw(latents, vae)
    torch.testing.assert_close(backbone.latents.from_raw(raw, vae), latents, atol=1e-5, rtol=1e-4)
    shown = backbone.decode_latents(torch.cat([latents, latents]))
    assert shown.shape == (2, 64, 96, 3) and 0 <= shown.min() and shown.max() <= 1


# --- prompts ---


@pytest.mark.parametrize("backbone", LANGUAGE_MODELS, indirect=True)
def test_a_words_place_is_where_the_conditioning_changes_with_it(backbone):
    """Language models look back alone: all before the word is the same."""
    first, second = (backbone.encode_prompt(p, {}).tensors["text"][0] for p in (PHOTO, "a photo of a tap"))
    changes = (first - second).abs().amax(dim=-1) > 1e-6
    places = backbone.token_positions(PHOTO, "cat", {})
    assert places[1:] == tuple(changes.nonzero()[:3, 0].tolist())  # behind the space, which both have


@pytest.mark.parametrize(
    ("backbone", "places"), [(FLUX.name, (4,)), (SD3.name, (10, 11, 12, 158))], indirect=["backbone"]
)
def test_a_words_places_in_what_other_encoders_read(backbone, places):
    assert backbone.token_positions(PHOTO, "cat", {}) == places
    with pytest.raises(PromptError, match="the word 'dog' is not in the prompt"):
        backbone.token_positions(PHOTO, "dog", {})


@pytest.mark.parametrize("backbone", [FLUX.name, SD3.name], indirect=True)
def test_a_weight_moves_a_word_away_from_the_empty_prompt(backbone):
    prompt = "a (cat:1.5) in Paris and a \\(small\\) dog"
    weighted, plain, empty = (
        backbone.encode_prompt(text, {}).tensors for text in (prompt, prompt.replace("(cat:1.5)", "cat"), "")
    )
    places = list(backbone.token_positions(prompt, "cat", {}))
    moved = (weighted["text"] != plain["text"]).any(dim=-1)[0].nonzero()[:, 0].tolist()
    assert moved == places
    expected = empty["text"] + 1.5 * (plain["text"] - empty["text"])
    torch.testing.assert_close(weighted["text"][:, places], expected[:, places])
    assert torch.equal(weighted["pooled"], plain["pooled"])


@pytest.mark.parametrize("backbone", LANGUAGE_MODELS, indirect=True)
def test_a_language_model_reads_brackets_as_they_stand(backbone):
    texts = ("a (cat:1.5) in Paris", "a \\(cat:1.5\\) in Paris", "a cat in Paris")
    bracketed, escaped, plain = (backbone.encode_prompt(text, {}).tensors["text"] for text in texts)
    assert torch.equal(bracketed, escaped)
    assert bracketed.shape != plain.shape or not torch.equal(bracketed, plain)


@each_family
def test_a_prompt_that_would_lose_its_end_is_refused(backbone):
    with pytest.raises(PromptError, match="but the text encoder keeps"):
        backbone.encode_prompt("a way so long, " * 60, {})


def test_sd_3_5_without_t5_reads_clip_alone(tmp_path):
    pipeline = tiny_flow_pipeline(SD3.name, tmp_path)
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    backbone = DiffusersBackbone(pipeline, device="cpu")
    assert backbone.token_positions(PHOTO, "cat", {}) == (10, 11, 12)
    assert backbone.encode_prompt(PHOTO, {}).tensors["text"].shape == (1, 410, 4096)
    assert len(backbone.text.modules()) == 2


# --- training ---


@each_family
def test_every_projection_learns_and_the_pipeline_is_left_as_found(backbone):
    before = fingerprint(backbone)
    plain, recomputed = (personalization(backbone, gradient_checkpointing=c) for c in (False, True))
    for run in (plain, recomputed):
        losses = [step.losses for step in run.steps()]
        assert all(math.isfinite(value) for loss in losses for value in loss.values())
        assert same(before, fingerprint(backbone))
    assert plain.result.words == {}
    still = [key for key, value in plain.result.lora.items() if "lora_up" in key and value.abs().max() == 0]
    # What the last block makes of the prompt goes nowhere.
    last = {SD3.name: ("1_context_block_attn_qkv",), QWEN_IMAGE.name: ("1_attn_to_add_out", "1_attn_add_q_proj")}
    assert all(key.removesuffix(".lora_up.weight").endswith(last.get(backbone.family.name, ())) for key in still)
    for key, value in plain.result.lora.items():
        torch.testing.assert_close(recomputed.result.lora[key], value, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backbone", [Z_IMAGE.name], indirect=True)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(backbone):
    score = Palp()  # whose null prompt is of another length
    whole, stopped, resumed = (personalization(backbone, score, steps=4) for _ in range(3))
    list(whole.steps())
    with closing(stopped.steps()) as steps:
        for _ in range(2):
            next(steps)
        state = stopped.learner.state()
    list(resumed.steps(state))
    assert all(torch.equal(whole.result.lora[key], value) for key, value in resumed.result.lora.items())


@each_family
def test_a_prompts_words_are_seen_in_the_attention(backbone):
    photo = prompted(backbone, PHOTO, "cat")
    latents = backbone.encode_image(pictures((160, 192))[0])
    x = torch.cat([latents, latents])
    with photo.recorded() as layers, torch.no_grad():
        photo.denoise(x, torch.tensor([0.5, 2.0]))
    joint = 2 if backbone.family.name == Z_IMAGE.name else len(backbone.checkpointed_modules())
    assert len(layers) == joint
    assert {tuple(layer.maps.shape) for layer in layers.values()} == {(2, len(photo.tokens), 10, 12)}


# --- the file in the pipeline ---


@pytest.mark.parametrize("targets", ["attention", "attention+ff"])
@each_family
def test_diffusers_own_loader_reproduces_the_trained_model(backbone, targets):
    run = personalization(backbone, steps=1, alignment=AlignmentConfig(weight=0), targets=targets)
    list(run.steps())
    lora = {key: 3 * value if "lora_up" in key else value for key, value in run.result.lora.items()}
    x, sigma, cond = latents_like(backbone, 1), torch.tensor([1.0]), backbone.encode_prompt(PHOTO, {})
    pipeline = backbone.pipeline
    with torch.no_grad():
        untouched = backbone.denoise(x, sigma, [cond])
        with attached_lora(backbone, 4, 0, targets) as adapters:
            adapters.load_state_dict(lora)
            trained = backbone.denoise(x, sigma, [cond])
        factors = {"lora_up.weight": 2, "alpha": 0.5}  # which cancel out
        given = {key: value * factors.get(key.partition(".")[2], 1) for key, value in lora.items()}
        load_lora(pipeline, architecture_of(pipeline), given)
        loaded = backbone.denoise(x, sigma, [cond])
    parts = sum(len(names) for names in backbone.projections(targets).values())
    attached = [name for name, _ in pipeline.transformer.named_modules() if name.endswith("lora_A")]
    pipeline.unload_lora_weights()
    effect = (trained - untouched).norm()
    assert len(attached) == parts and effect > 1e-3
    assert (loaded - trained).norm() < 1e-3 * effect


def test_a_lora_of_another_size_is_refused(tmp_path):
    small = DiffusersBackbone(tiny_flow_pipeline(FLUX.name, tmp_path), device="cpu")
    run = personalization(small, steps=1)
    list(run.steps())
    other = tiny_flow_pipeline(FLUX.name, tmp_path, num_layers=1)
    with pytest.raises(
        ModelError, match=r"no projection for 4 of the file's \(lora_unet_double_blocks_1_img_attn_proj"
    ):
        load_lora(other, architecture_of(other), run.result.lora)
    wide = tiny_flow_pipeline(FLUX.name, tmp_path, num_attention_heads=8)
    with pytest.raises(ModelError, match="has 192 rows, and the model's 384"):
        load_lora(wide, architecture_of(wide), run.result.lora)


# --- wrong input ---


@each_family
def test_no_word_is_learned(backbone):
    with pytest.raises(PromptError, match="no learned words"):
        backbone.encode_prompt("a photo of [V]", {"[V]": {"t5xxl": torch.zeros(1, 64)}})
    with pytest.raises((PromptError, SettingError), match=r"no learned words|subject_word is learned"):
        personalization(backbone, subject_word="learned")
    concept = Concept(pictures((64, 64)), "cat")
    with pytest.raises(PromptError, match="no learned words"):
        TextualInversion(backbone, concept, TextualInversionConfig(resolution=64))


def test_models_that_are_known_to_draw_in_few_steps_are_not_trained(tmp_path):
    schnell = tiny_flow_pipeline(FLUX.name, tmp_path, guidance_embeds=False)
    distilled = tiny_flow_pipeline(KLEIN.name, tmp_path)
    distilled.register_to_config(is_distilled=True)
    for pipeline, name in ((schnell, "FLUX.1 dev"), (distilled, "FLUX.2 Klein")):
        with pytest.raises(ModelError, match=f"{name} that was distilled to a few steps.*Train on the base model"):
            DiffusersBackbone(pipeline, device="cpu")


def test_a_scheduler_that_is_not_one_for_flows_is_named(tmp_path):
    from diffusers import DDIMScheduler

    pipeline = tiny_flow_pipeline(SD3.name, tmp_path)
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match=r"scheduler \(DDIMScheduler\) is not one for flows"):
        DiffusersBackbone(pipeline, device="cpu")


def test_half_precision_trains_and_full_precision_is_refused_for_half_weights(tmp_path):
    pipeline = tiny_flow_pipeline(Z_IMAGE.name, tmp_path).to(torch.bfloat16)
    run = personalization(DiffusersBackbone(pipeline, device="cpu"), steps=1)
    assert all(math.isfinite(value) for step in run.steps() for value in step.losses.values())
    assert all(value.dtype == torch.float32 for value in run.result.lora.values())
    with pytest.raises(ModelError, match=r"the model's weights are torch.bfloat16"):
        DiffusersBackbone(pipeline, device="cpu", precision="fp32")


def test_each_architecture_is_of_a_class_that_diffusers_has():
    import diffusers

    assert all(hasattr(diffusers, name) for name in ARCHITECTURES)
