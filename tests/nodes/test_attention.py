"""Record Attention and Attention Heatmap: the stock sampler's own attention, recorded without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from devtools import host_models
from devtools.comfy_server import ComfyServer
from devtools.host_transformers import other_model, tiny_clip, tiny_model
from devtools.random_models import tiny_pipeline
from palp_core.methods.heatmap import HeatMaps
from palp_core.models.attention import is_decoder, recorded_attention

pytestmark = pytest.mark.host

PROMPT = "a sketch of a cat in Paris"
PICTURES = torch.zeros(2, 64, 96, 3)  # what is sampled here, decoded


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def parts(request, host, comfyui_path, tmp_path_factory):
    """(MODEL, CLIP, VAE) with random weights."""
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    pipeline = tiny_pipeline(request.param, tmp_path_factory.mktemp("tiny"), make_tokenizer=make_tokenizer)
    return host_models.host_parts(pipeline, request.param)


def record(parts, prompt: str = PROMPT):
    """(MODEL, CONDITIONING, recording) of the node, as the host calls it."""
    from palp_pack.nodes.attention import RecordAttention

    with torch.inference_mode():
        return RecordAttention.execute(parts[0], parts[1], prompt).args


def sample(parts, model, positive, negative="", latents=None, cfg=5.0, seed=3):
    import comfy.sample

    _, clip, _ = parts
    latents = torch.zeros(2, 4, 8, 12) if latents is None else latents
    with torch.inference_mode():
        noise = comfy.sample.prepare_noise(latents, seed)
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(negative))
        arguments = (model, noise, 3, cfg, "euler", "normal", positive, negative, latents)
        return comfy.sample.sample(*arguments, seed=seed).clone()


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_recording_changes_nothing_and_starts_afresh(parts, cfg):
    before = hooks(parts[0])
    model, conditioning, recording = record(parts)
    plain = sample(parts, parts[0], conditioning, cfg=cfg)
    assert torch.allclose(sample(parts, model, conditioning, cfg=cfg), plain, atol=1e-6) and hooks(parts[0]) == before
    first = recording.maps(PICTURES)
    assert recording.heat.runs == 3 and first.shape == (2, len(recording.tokens), 8, 12)
    sample(parts, model, conditioning, cfg=cfg, seed=4)
    other = recording.maps(PICTURES)
    sample(parts, model, conditioning, cfg=cfg)
    assert recording.heat.runs == 3 and torch.equal(recording.maps(PICTURES), first) and not torch.equal(other, first)


def test_only_the_rows_of_the_prompt_are_recorded(parts):
    """The same maps as those of the model run on the prompt alone, at the sampler's own latents."""
    from comfy.patcher_extension import WrappersMP
    from palp_pack.nodes.host.backbone import ComfyBackbone

    model, conditioning, recording = record(parts)
    seen = []

    def predict(executor, x, sigma, *rest):
        seen.append((x.clone(), sigma.clone()))
        return executor(x, sigma, *rest)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", predict)
    sample(parts, model, conditioning, negative="a house " * 60)  # longer: the host repeats the prompt beside it
    backbone, heat = ComfyBackbone(*parts), HeatMaps()
    cond = backbone.encode_prompt(PROMPT, {})
    for x, sigma in seen:
        with torch.no_grad(), recorded_attention(backbone.denoiser, recording.tokens, only=is_decoder) as layers:
            backbone.denoise(x, sigma, [cond])
        heat.add(layers, (8, 12), batch=2)
    assert len(seen) == 3
    torch.testing.assert_close(recording.maps(PICTURES), heat.maps, rtol=1e-3, atol=1e-6)


def test_cancel_removes_the_hooks(parts):
    import comfy.model_management
    from comfy.patcher_extension import WrappersMP

    before = hooks(parts[0])
    model, conditioning, _ = record(parts)

    def cancel(executor, *args, **kwargs):
        raise comfy.model_management.InterruptProcessingException

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(parts, model, conditioning)
    assert hooks(parts[0]) == before


def test_what_cannot_be_shown_is_named(parts):
    model, conditioning, recording = record(parts)
    with pytest.raises(ValueError, match=r"nothing was recorded.*CONDITIONING to the sampler's positive input"):
        recording.maps(PICTURES)
    with torch.inference_mode():
        other = parts[1].encode_from_tokens_scheduled(parts[1].tokenize("a dog"))
    sample(parts, model, other)
    with pytest.raises(ValueError, match="nothing was recorded"):
        recording.maps(PICTURES)
    sample(parts, model, conditioning)
    with pytest.raises(ValueError, match="image holds 1 pictures, but 2 were sampled"):
        recording.maps(PICTURES[:1])
    with pytest.raises(ValueError, match=r"image is 64 x 96 pixels, but .* latents of 12 x 8: a tile, or another"):
        recording.maps(PICTURES.movedim(1, 2))
    recording.maps(torch.zeros(2, 130, 195, 3))  # the same pictures, scaled
    with pytest.raises(ValueError, match="the word 'dog' is not in the prompt"):
        recording.positions("dog")


def test_a_learned_word_is_recorded(parts):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.nodes.host.text import clip_with_words

    model, clip, vae = parts
    words = {e: torch.randn(2, v.shape[-1]) for e, v in ComfyBackbone(*parts).word_vectors("cat").items()}
    learned = (model, clip_with_words(clip, {"embedding:my_cat": words, "[V]": words}), vae)
    patched, conditioning, recording = record(learned, "a sketch of [V] in Paris")
    sample(parts, patched, conditioning)
    assert recording.positions("[V]") == recording.positions("embedding:my_cat") == [3, 4]
    assert recording.maps(PICTURES).shape[1] == 7


@pytest.mark.parametrize("recorded_first", [True, False])
def test_a_compiled_model_is_named(parts, recorded_first):
    """Torch Compile Model puts the compiled network in the place of the other while it runs, whose hooks it passes."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, clip, vae = parts
    source = model.clone()
    if not recorded_first:
        set_torch_compile_wrapper(source, backend="eager")
    patched, conditioning, _ = record((source, clip, vae))
    if recorded_first:
        set_torch_compile_wrapper(patched, backend="eager")
    before = hooks(model)
    with pytest.raises(ValueError, match=r"model is compiled.*remove the node Torch Compile Model"):
        sample(parts, patched, conditioning)
    assert hooks(model) == before


def test_a_model_that_shrinks_inside_is_recorded(parts):
    """Deep Shrink: the grids of its layers are no halvings of the latents."""
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    (shrinking,) = PatchModelAddDownscale.execute(parts[0], 1, 1.5, 0.0, 1.0, True, "bicubic", "bicubic").args
    patched, conditioning, recording = record((shrinking, *parts[1:]))
    latents = torch.zeros(2, 4, 16, 24)
    plain = sample(parts, shrinking, conditioning, latents=latents)
    assert torch.allclose(sample(parts, patched, conditioning, latents=latents), plain, atol=1e-6)
    assert recording.maps(PICTURES).shape[-2:] == (16, 24)


def test_a_model_whose_text_attention_cannot_be_seen_is_named(parts):
    from palp_pack.nodes.attention import RecordAttention

    with pytest.raises(ValueError, match=r"model is of the family Lumina2\. PALP works with"):
        RecordAttention.execute(other_model(), parts[1], PROMPT)
    with pytest.raises(ValueError, match=r"model \(Anima\) has no text attention that can be looked at"):
        RecordAttention.execute(tiny_model("anima"), tiny_clip("anima"), PROMPT)


def graph(checkpoint: str, batch: int = 1, width: int = 64, recorded: bool = True, **widgets) -> dict:
    """From a checkpoint to a heat map and its mask."""
    widgets = {"word": "cat", "opacity": 0.6, "against": "", **widgets}
    source = ["10", 0] if recorded else ["1", 0]
    sampler = {"seed": 1, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": source, "positive": ["10", 1], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": 64, "batch_size": batch}},
        "5": {"class_type": "KSampler", "inputs": {**links, **sampler}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "recorded"}},
        "10": {
            "class_type": "PALP_RecordAttention",
            "inputs": {"model": ["1", 0], "clip": ["1", 1], "prompt": PROMPT},
        },
        "11": {
            "class_type": "PALP_AttentionHeatmap",
            "inputs": {"recording": ["10", 2], "image": ["6", 0], **widgets},
        },
        "12": {"class_type": "MaskToImage", "inputs": {"mask": ["11", 1]}},
        "13": {"class_type": "SaveImage", "inputs": {"images": ["12", 0], "filename_prefix": "mask"}},
    }


def files(server: ComfyServer, result, node: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(server.file(image))).astype(int) for image in result.outputs[node]["images"]]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_heat_maps_on_a_server(server, family, request):
    checkpoint = request.getfixturevalue(f"{family}_checkpoint")
    result = server.queue(graph(checkpoint, batch=2, width=128), timeout=900).require_success()
    pictures, heats, masks = (files(server, result, node) for node in ("7", "11", "13"))
    assert [image.shape for image in (*pictures, *heats, *masks)] == [(64, 128, 3)] * 6
    for mask in masks:
        assert mask.min() == 0 and mask.max() == 255
    assert all(np.abs(heat - picture).mean() > 5 for heat, picture in zip(heats, pictures, strict=True))
    assert any(node == "11" and "% of the attention that the prompt's words get" in text for node, text in result.texts)
    seen = masks
    for widgets in ({"word": "Paris"}, {"word": "Paris", "against": "cat, sketch"}):  # of the same sampling
        another = server.queue(graph(checkpoint, batch=2, width=128, **widgets), timeout=900).require_success()
        assert "5" not in another.executed
        assert any((a != b).any() for a, b in zip(files(server, another, "13"), seen, strict=True))
        seen = files(server, another, "13")
    unknown = server.queue(graph(checkpoint, batch=2, width=128, against="cat, dog"))
    assert "the word 'dog' is not in the prompt" in unknown.error["exception_message"]

    unrecorded = graph(checkpoint, batch=2, width=128, recorded=False)
    for node in ("11", "12", "13"):
        del unrecorded[node]
    plain = server.queue(unrecorded, timeout=900).require_success()
    assert all((a == b).all() for a, b in zip(files(server, plain, "7"), pictures, strict=True))


def test_an_unrecorded_sampling_is_named_on_the_node(server, sd15_checkpoint):
    prompt = graph(sd15_checkpoint, recorded=False)
    prompt["10"]["inputs"]["prompt"] = (
        "a cat that nobody has sampled yet"  # else the node is cached, with its recording
    )
    result = server.queue(prompt)
    assert result.error["node_id"] == "11" and "nothing was recorded" in result.error["exception_message"]
