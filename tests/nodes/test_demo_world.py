"""PALP Demo World: the embedded model is the same in the host as in diffusers, and a first graph runs on it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from devtools.comfy_server import ComfyServer
from devtools.graphs import PERSONALIZE_WIDGETS, options_node
from devtools.host_models import PACK_NAME
from devtools.random_models import pictures
from palp_core import Concept, TextualInversion, TextualInversionConfig
from palp_core.files.embedding_file import Embedding
from palp_core.files.images import read_image
from palp_core.models.diffusers import single_file
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.toyworld import LATENT_CHANNELS, MODEL_FOLDER
from palp_core.toyworld.evaluators import Target, load_evaluators
from palp_core.toyworld.metrics import judge
from palp_core.toyworld.scenes import new_individual
from palp_core.toyworld.world import (
    ALIGNMENT,
    GUIDANCE_SCALE,
    SAMPLING_STEPS,
    as_pictures,
    load_world,
    references,
)
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

PROMPT = "a sketch of a cat with a hat on the beach"
WORLD = {"subject": "cat", "individual": 1, "style": "sketch", "accessory": "hat", "place": "beach", "photos": 2}
WORLD["network"] = "unet"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(MODEL_FOLDER)


@pytest.fixture(scope="module")
def demo_model(host):
    import importlib

    return importlib.import_module(f"{PACK_NAME}.nodes.host.demo_model")


@torch.inference_mode()
def test_text_encoder_is_that_of_diffusers(demo_model, pipeline):
    clip = demo_model.load_clip(MODEL_FOLDER)
    ours = clip.encode_from_tokens(clip.tokenize(PROMPT))
    ids = pipeline.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    theirs = pipeline.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-3)


@torch.inference_mode()
def test_a_words_weight_counts_from_the_empty_prompt(demo_model):
    clip = demo_model.load_clip(MODEL_FOLDER)
    weighted, plain, empty = (
        clip.encode_from_tokens(clip.tokenize(text)) for text in ("a sketch of a (cat:1.5)", "a sketch of a cat", "")
    )
    expected = plain.clone()
    expected[:, 5] = empty[:, 5] + 1.5 * (plain - empty)[:, 5]
    torch.testing.assert_close(weighted, expected, atol=1e-4, rtol=1e-3)


def test_a_learned_word_is_not_shortened_where_learning_goes_on(demo_model, pipeline):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    clip, model, vae = (
        load(MODEL_FOLDER) for load in (demo_model.load_clip, demo_model.load_model, demo_model.load_vae)
    )
    for backbone in (DiffusersBackbone(pipeline, device="cpu"), ComfyBackbone(model, clip, vae)):
        word = Embedding("word.safetensors", backbone.word_vectors("cat"))
        concept = Concept(pictures((64, 64)), initial_embedding=word, templates=("a photo of a {}",))
        run = Training(TextualInversion(backbone, concept, TextualInversionConfig(steps=1, learning_rate=1e-9)))
        assert run.method.resolution == 64  # the model's own
        list(run.steps())
        torch.testing.assert_close(run.result.vectors, word.vectors, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_denoiser_is_that_of_diffusers(demo_model, pipeline):
    model = demo_model.load_model(MODEL_FOLDER)
    generator = torch.Generator().manual_seed(0)
    noisy, context = torch.randn(2, 8, 16, 16, generator=generator), torch.randn(2, 32, 128, generator=generator)
    timesteps = torch.tensor([20, 700])
    ours = model.model.diffusion_model(noisy, timesteps, context=context)
    torch.testing.assert_close(ours, pipeline.unet(noisy, timesteps, context).sample, atol=1e-4, rtol=1e-3)
    alphas = pipeline.scheduler.alphas_cumprod
    sigmas = ((1 - alphas) / alphas).sqrt()
    torch.testing.assert_close(model.model.model_sampling.sigmas, sigmas, atol=1e-4, rtol=1e-4)


def test_transformer_is_that_of_diffusers(demo_model):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.nodes.host.demo_transformer import load_transformer

    parts = load_transformer(MODEL_FOLDER), demo_model.load_clip(MODEL_FOLDER), demo_model.load_vae(MODEL_FOLDER)
    ours, theirs = ComfyBackbone(*parts), load_world("cpu", "transformer").backbone
    assert ours.family.name == theirs.family.name and ours.native_resolution == theirs.native_resolution == 64
    torch.testing.assert_close(ours.levels.sigmas, theirs.levels.sigmas, rtol=1e-4, atol=0)
    assert ours.projections().keys() == theirs.projections().keys()
    noisy, sigma = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 4.0])
    with torch.no_grad():
        denoised = [b.denoise(noisy, sigma, [b.encode_prompt(PROMPT, {})]) for b in (ours, theirs)]
    torch.testing.assert_close(*denoised, atol=1e-4, rtol=1e-3)
    assert ours.token_positions(PROMPT, "cat", {}) == theirs.token_positions(PROMPT, "cat", {})


@torch.inference_mode()
def test_vae_is_that_of_diffusers(demo_model, pipeline):
    vae = demo_model.load_vae(MODEL_FOLDER)
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    latents = vae.encode(pixels.clone())
    theirs = pipeline.vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(latents.cpu(), theirs, atol=1e-3, rtol=1e-3)
    shown = (pipeline.vae.decode(theirs).sample.movedim(1, -1) + 1) / 2
    torch.testing.assert_close(vae.decode(theirs).cpu(), shown.clamp(0, 1), atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_single_checkpoint_is_loaded_as_its_folder_is(demo_model, pipeline, monkeypatch, tmp_path):
    parts = {
        "model.diffusion_model": demo_model.load_model(MODEL_FOLDER).model.diffusion_model.state_dict(),
        "first_stage_model": demo_model.load_vae(MODEL_FOLDER).first_stage_model.state_dict(),
        "cond_stage_model.transformer.text_model": load_file(MODEL_FOLDER / "text_encoder" / "model.safetensors"),
    }
    weights = {f"{prefix}.{key}": v.float() for prefix, part in parts.items() for key, v in part.items()}
    save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(single_file, "configuration_folder", lambda *_: nullcontext(MODEL_FOLDER))
    monkeypatch.setattr(single_file, "CHANNELS", LATENT_CHANNELS)
    loaded = load_pipeline(tmp_path / "model.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        expected, found = (getattr(p, part).state_dict() for p in (pipeline, loaded))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected), part
    assert loaded.tokenizer(PROMPT).input_ids == pipeline.tokenizer(PROMPT).input_ids


def first_graph(steps: int, pictures: int = 2, sampler_steps: int = 4, **world) -> dict:
    """What the template "Try PALP in two minutes" does, without its plain training."""
    score = {f"score.{name}": value for name, value in asdict(ALIGNMENT.score).items()}
    options = {"score": ALIGNMENT.score.name, **score, "learning_rate": 2e-3}
    options |= {"embedding_learning_rate": 2e-3, "rank": 16, "batch_size": 2}
    options |= {"personalization_prompt": "a photo of a [V]"}
    personalize = {**PERSONALIZE_WIDGETS, "steps": steps, "alignment_weight": ALIGNMENT.weight, "file_name": "demo"}
    personalize |= {"class_word": ["1", 4], "target_prompt": ["1", 5], "options": ["9", 0]}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "images.image0": ["1", 3]}
    sampling = {"seed": 1, "steps": sampler_steps, "cfg": GUIDANCE_SCALE, "denoise": 1.0}
    sampling |= {"sampler_name": "dpmpp_2m", "scheduler": "normal"}
    return {
        "1": {"class_type": "PALP_DemoWorld", "inputs": {**WORLD, **world}},
        "9": options_node(**options),
        "10": {"class_type": "PALP_Personalize", "inputs": {**personalize, **links}},
        "11": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["10", 1], "text": ["10", 2]}},
        "12": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["10", 1], "text": ""}},
        "13": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": pictures}},
        "14": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["10", 0],
                "positive": ["11", 0],
                "negative": ["12", 0],
                "latent_image": ["13", 0],
                **sampling,
            },
        },
        "15": {"class_type": "VAEDecode", "inputs": {"samples": ["14", 0], "vae": ["1", 2]}},
        "16": {"class_type": "SaveImage", "inputs": {"images": ["15", 0], "filename_prefix": "demo"}},
    }


def test_the_newcomers_graph_trains_and_draws_pictures_of_the_models_size(server: ComfyServer):
    from PIL import Image

    result = server.queue(first_graph(steps=2))
    assert result.status == "success", result.error
    sizes = []
    for image in result.outputs["16"]["images"]:
        with Image.open(server.base_directory / "output" / image["filename"]) as picture:
            sizes.append(picture.size)
    assert sizes == [(64, 64)] * 2
    assert list((server.base_directory / "models/loras").glob("demo_0*.safetensors"))


def test_the_host_learns_the_subject_and_keeps_the_prompt(server: ComfyServer):
    """A third of the template's training. The base model's subject alignment is 0.05 (README)."""
    wanted = Target("watercolor", "cat", "scarf", "snow")
    elements = {"style": wanted.style, "accessory": wanted.accessory, "place": wanted.place, "photos": 1}
    graph = first_graph(60, pictures=8, sampler_steps=SAMPLING_STEPS, **elements)
    result = server.queue(graph, timeout=900).require_success()
    drawn = as_pictures([read_image(server.file(image)) for image in result.outputs["16"]["images"]])
    judged = judge(load_evaluators(), drawn, wanted, references(new_individual(WORLD["individual"], "cat")))
    assert judged.text_alignment > 0.8 and judged.subject_alignment > 0.3, judged
