"""Pick-and-Draw on the host: both backbones alike, the stock samplers guided, and everything left as it was found."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from devtools import host_models
from devtools.comfy_server import ComfyServer
from devtools.host_transformers import other_model
from devtools.random_models import pictures, tiny_pipeline
from palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from palp_core.models.attention import prompted
from palp_core.models.diffusers.backbone import DiffusersBackbone

pytestmark = pytest.mark.host

PROMPT = "a sketch of a cat in Paris"
CONFIG = ("pick_weight", "draw_weight", "step_size", "end_percent", "threshold")  # that are not the usual
WIDGETS = {
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


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def both(request, host, comfyui_path, tmp_path_factory):
    """(diffusers backbone, (MODEL, CLIP, VAE)) of one set of weights."""
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    pipeline = tiny_pipeline(request.param, tmp_path_factory.mktemp("tiny"), make_tokenizer=make_tokenizer)
    return DiffusersBackbone(pipeline, device="cpu"), host_models.host_parts(pipeline, request.param)


def guidance(backbone, **config) -> PickAndDraw:
    """What the node makes of WIDGETS, without the node."""
    (image,) = pictures((64, 64))
    return PickAndDraw(
        prompted(backbone, PROMPT, "cat"),
        prompted(backbone, "a photo of a cat", "cat"),
        prompted(backbone, PROMPT.replace("cat", "dog"), "dog"),
        backbone.encode_image(image),
        backbone.levels,
        PickAndDrawConfig(**{name: WIDGETS[name] for name in CONFIG} | config),
    )


def execute(parts, node_id=None, **changes):
    """(MODEL, CONDITIONING) of the node, as the host calls it."""
    from palp_pack.nodes.pick_and_draw import PickAndDrawGuidance

    model, clip, vae = parts
    (image,) = pictures((64, 64))
    PickAndDrawGuidance.hidden = SimpleNamespace(unique_id=node_id)  # which the host sets
    inputs = {"model": model, "clip": clip, "vae": vae, "image": image[None], **WIDGETS, **changes}
    with torch.inference_mode():
        return PickAndDrawGuidance.execute(**inputs).args


def sample(parts, model, positive, latents=None, sampler="euler", cfg=1.0, seed=3, steps=4):
    """The host's own sampling, (B, 4, h, w)."""
    import comfy.sample

    _, clip, _ = parts
    latents = torch.zeros(1, 4, 8, 8) if latents is None else latents
    with torch.inference_mode():
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        noise = comfy.sample.prepare_noise(latents, seed)
        return comfy.sample.sample(
            model, noise, steps, cfg, sampler, "normal", positive, negative, latents, seed=seed
        ).clone()


def state(patcher) -> dict:
    modules = patcher.model.named_modules()
    found = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules}
    found |= {name: p.detach().clone() for name, p in patcher.model.named_parameters()}
    return found | {"patches": len(patcher.patches), "wrappers": str(patcher.wrappers)}


def assert_same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if torch.is_tensor(value) else value == after[key], key


def with_lora(model):
    """The MODEL with random patches on its attention projections."""
    patched = model.clone()
    keys = [k for k in model.model.state_dict() if k.endswith(("attn2.to_k.weight", "attn2.to_q.weight"))]
    weights = model.model.state_dict()
    patched.add_patches({k: ("diff", (0.3 * random(*weights[k].shape, seed=i),)) for i, k in enumerate(keys)}, 1.0)
    return patched


def test_both_backbones_guide_alike(both):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    ours, parts = both
    x, sigma = random(2, 4, 8, 12) * 3, torch.tensor([3.0, 3.0])
    moved, losses = [], []
    for backbone in (ours, ComfyBackbone(*parts)):
        guide = guidance(backbone, iterations=2, reference="inversion")
        moved.append(guide(x, sigma) - x)
        losses.append([value for step in guide.history for value in step])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert (moved[0] - moved[1]).norm() < 1e-2 * moved[0].norm() > 0


def test_both_backbones_find_the_same_tokens(both):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    ours, parts = both
    theirs = ComfyBackbone(*parts)
    vectors = {"[V]": {e: torch.randn(2, v.shape[-1]) for e, v in ours.word_vectors("cat").items()}}
    for prompt, word in (
        (PROMPT, "cat"),
        ("my [V], and a [V]", "[V]"),
        ("an extraterrestrial, Cat's cat", "extraterrestrial"),
        ("a red cat, a red hat", "red"),
    ):
        positions = ours.token_positions(prompt, word, vectors)
        assert positions == theirs.token_positions(prompt, word, vectors) and positions
    for backbone in (ours, theirs):
        with pytest.raises(ValueError, match="the word 'dog' is not in the prompt"):
            backbone.token_positions(PROMPT, "dog", vectors)


def test_words_in_long_weighted_and_learned_prompts(both):
    from palp_pack.nodes.host.text import clip_with_words, spelled_out, token_positions

    ours, (_, clip, _) = both
    start = token_positions(clip.tokenizer, "a (red:1.3) cat", "cat")
    assert start == (3,)
    beyond = token_positions(clip.tokenizer, "very " * 90 + "cat", "cat")
    assert beyond == (77 + 16,)  # the second window begins with a start token, too: 75 words, then 15
    vectors = {e: torch.randn(2, v.shape[-1]) for e, v in ours.word_vectors("cat").items()}
    learned = clip_with_words(clip, {"embedding:my_cat_00001": vectors})
    prompt = spelled_out(learned.tokenizer, "a sketch of [V], in Paris")
    assert prompt == "a sketch of embedding:my_cat_00001, in Paris"
    assert token_positions(learned.tokenizer, prompt, "embedding:my_cat_00001") == (4, 5)
    assert spelled_out(clip.tokenizer, "[V]") == "[V]"
    two = clip_with_words(learned, {"embedding:my_dog_00001": vectors})
    with pytest.raises(ValueError, match=r"\[V\] .* Write embedding:my_cat_00001 or embedding:my_dog_00001 for the"):
        spelled_out(two.tokenizer, "a sketch of [V]")
    for bracketed in ("a sketch of [V], [blurry] background", "a sketch of embedding:my_cat_00001, [blurry]"):
        with pytest.raises(ValueError, match=r"Write embedding:my_cat_00001 for the subject, and no other square"):
            spelled_out(learned.tokenizer, bracketed)


def test_a_learned_word_is_no_part_of_a_longer_name(both):
    from palp_pack.nodes.host.text import clip_with_words

    ours, (_, clip, _) = both
    vectors = {e: torch.randn(1, v.shape[-1]) for e, v in ours.word_vectors("cat").items()}
    learned = clip_with_words(clip, {"embedding:cat": vectors, "[V]": vectors})

    def found(prompt: str) -> int:
        rows = learned.tokenize(prompt)["l"]
        return sum(torch.is_tensor(entry[0]) for row in rows for entry in row)

    assert found("embedding:cat, (embedding:cat:1.2) [V]s and a [V].") == 4
    for other in ("embedding:cat-v2", "embedding:cat_2", "embedding:cats", "embedding:cat.safetensors"):
        assert found(other) == 0, other


def test_the_stock_sampler_takes_the_steps_of_the_core(both):
    """KSampler's Euler with the patched MODEL is Euler's method with the core's guided denoiser."""
    import comfy.samplers
    from palp_pack.nodes.host.backbone import ComfyBackbone

    _, parts = both
    model, conditioning = execute(parts)
    theirs = sample(parts, model, conditioning)
    backbone = ComfyBackbone(*parts)
    sampling = parts[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 4)
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(3))
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    cond = backbone.encode_prompt(PROMPT, {})
    guide = guidance(backbone)
    for sigma, following in pairwise(sigmas):
        with torch.no_grad():
            x = guide(x, sigma[None])
            denoised = backbone.denoise(x, sigma[None], [cond])
        x = x + (x - denoised) / sigma * (following - sigma)
    ours = parts[0].model.process_latent_out(x)
    unguided = sample(parts, parts[0], conditioning)
    assert (theirs - ours).norm() < 1e-2 * (unguided - ours).norm()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "heun", "uni_pc"])
@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_samplers_with_and_without_classifier_free_guidance(both, sampler, cfg):
    _, parts = both
    before = state(parts[0])
    model, conditioning = execute(parts)
    latents = torch.zeros(2, 4, 8, 12)
    pictures = [sample(parts, m, conditioning, latents, sampler, cfg) for m in (parts[0], model, model)]
    assert torch.isfinite(pictures[1]).all() and not torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[1], pictures[2])  # queued again
    off, _ = execute(parts, pick_weight=0.0, draw_weight=0.0)
    assert torch.equal(sample(parts, off, conditioning, latents, sampler, cfg), pictures[0])
    assert_same(before, state(parts[0]))


def test_the_template_is_the_model_without_its_lora(both):
    """The default, and the same by hand: the MODEL before its LoRA, and a second one with weights of its own."""
    import comfy.model_management

    backbone, parts = both
    model, clip, vae = parts
    before = state(model)
    family = "sdxl" if backbone.family.name == "sdxl" else "sd1"
    copy, _, _ = host_models.host_parts(backbone.pipeline, family)
    personalized = (with_lora(model), clip, vae)
    plain = sample(parts, *execute(parts, pick_weight=0.0))
    results = []
    for vanilla in (None, model, copy):
        guided_model, conditioning = execute(personalized, pick_weight=0.0, base_model=vanilla)
        results.append(sample(personalized, guided_model, conditioning))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-3, atol=1e-4)
    own = sample(personalized, *execute(personalized, pick_weight=0.0, base_model=personalized[0]))
    assert not torch.allclose(results[0], own, atol=1e-4) and not torch.allclose(results[0], plain, atol=1e-4)
    comfy.model_management.unload_all_models()
    assert_same(before, state(model))


def test_a_base_model_is_its_own_template(both):
    """There is no other layout to draw: that costs nothing, and changes nothing."""
    _, parts = both
    model, conditioning = execute(parts, class_word="", pick_weight=0.0)
    assert torch.equal(sample(parts, model, conditioning), sample(parts, parts[0], conditioning))


@pytest.mark.parametrize("moment", ["generation", "template"])
def test_cancel_and_errors_leave_the_model_as_it_was(both, moment, monkeypatch):
    import comfy.model_management
    from palp_pack.nodes.host.backbone import ComfyBackbone

    _, (model, clip, vae) = both
    personalized = (with_lora(model), clip, vae)
    guided_model, conditioning = execute(personalized, end_percent=1.0)
    untouched = sample(personalized, personalized[0], conditioning)
    before = state(personalized[0])
    denoise, calls = ComfyBackbone.denoise, []
    last = {"generation": 7, "template": 8}[moment]  # template, reference twice, generation; then once each

    def cancelled(self, x, sigma, cond):
        denoised = denoise(self, x, sigma, cond)
        calls.append(x.requires_grad)
        if len(calls) == last:
            raise comfy.model_management.InterruptProcessingException
        return denoised

    monkeypatch.setattr(ComfyBackbone, "denoise", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(personalized, guided_model, conditioning)
    monkeypatch.undo()
    assert calls[-1] == (moment == "generation")
    assert_same(before, state(personalized[0]))
    assert torch.equal(sample(personalized, personalized[0], conditioning), untouched)


def test_the_model_is_loaded_whole_and_with_room_for_gradients(both, monkeypatch):
    import comfy.model_management

    load, calls = comfy.model_management.load_models_gpu, []

    def spy(models, **settings):
        calls.append(settings)
        return load(models, **settings)

    parts = both[1]
    model, positive = execute(parts)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", spy)
    sample(parts, parts[0], positive)
    sample(parts, model, positive)
    unguided, guided = (settings for settings in calls if "force_full_load" in settings)
    assert guided["force_full_load"] and not unguided["force_full_load"]
    assert guided["memory_required"] > unguided["memory_required"]


def test_without_the_layout_loss_nothing_is_prepared_for_it(both, monkeypatch):
    from palp_pack.nodes import pick_and_draw
    from palp_pack.nodes.host import guided_sampling

    parts = both[1]
    monkeypatch.setattr(guided_sampling, "base_weights", lambda *_: pytest.fail("weights of the template are made"))
    monkeypatch.setattr(pick_and_draw, "template_backbone", lambda *_: pytest.fail("the other model is loaded"))
    patched = with_lora(parts[0])
    model, positive = execute((patched, *parts[1:]), draw_weight=0.0, base_model=parts[0])
    assert not torch.equal(sample(parts, model, positive), sample(parts, patched, positive))


def test_a_merged_model_keeps_its_own_layout(both):
    """What another model's weights were mixed into is no LoRA to be left out."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    model, *others = both[1]
    (merged,) = ModelMergeSimple().merge(model, with_lora(model), 0.5)
    alone = {"pick_weight": 0.0, "class_word": ""}
    guided_model, positive = execute((merged, *others), **alone)
    assert torch.equal(sample(both[1], guided_model, positive), sample(both[1], merged, positive))
    personal = with_lora(merged)
    found, told = (execute((personal, *others), **alone, base_model=given)[0] for given in (None, merged))
    assert torch.equal(sample(both[1], found, positive), sample(both[1], told, positive))
    assert not torch.equal(sample(both[1], found, positive), sample(both[1], personal, positive))


def test_a_learned_word_is_guided_and_has_the_class_words_layout(both):
    from palp_pack.nodes.host.text import clip_with_words

    backbone, (model, clip, vae) = both
    vectors = {e: torch.randn(2, v.shape[-1]) for e, v in backbone.word_vectors("cat").items()}
    parts = (model, clip_with_words(clip, {"embedding:my_cat": vectors}), vae)
    alone = {"draw_weight": 0.0, "class_word": "cat"}
    results = []
    for word in ("[V]", "embedding:my_cat"):
        guided_model, positive = execute(parts, prompt=f"a sketch of {word} in Paris", subject_word=word, **alone)
        results.append(sample(parts, guided_model, positive))
    assert torch.equal(*results) and (results[0] - sample(parts, model, positive)).abs().mean() > 1e-3
    drawn, positive = execute(
        parts, prompt="a sketch of [V] in Paris", subject_word="[V]", class_word="cat", pick_weight=0.0
    )
    assert not torch.equal(sample(parts, drawn, positive), sample(parts, model, positive))


def test_the_class_word_takes_the_place_of_the_subject_but_not_of_other_names(host):
    from palp_pack.nodes.host.guidance_inputs import class_prompt

    prompt = "a Cat, (cat:1.2) and cats beside embedding:my-cat"
    assert class_prompt(prompt, "cat", "dog") == "a dog, (a dog:1.2) and cats beside embedding:my-cat"
    assert class_prompt("a (embedding:my_cat:1.1), big", "embedding:my_cat", "cat") == "a (cat:1.1), big"
    assert class_prompt("a embedding:my_cat cat, big", "embedding:my_cat", "cat") == "a cat, big"
    assert class_prompt("a photo of embedding:my_cat", "embedding:my_cat", "cat") == "a photo of a cat"
    assert class_prompt("a photo of cat", "cat", "cat") == "a photo of cat"


def test_an_article_and_a_class_word_beside_the_subject_are_not_repeated(both):
    from palp_pack.nodes.host.guidance_inputs import read_prompts
    from palp_pack.nodes.host.reader import PromptReader

    model, clip, _ = both[1]
    reader = PromptReader(model, clip)
    read = read_prompts(clip.tokenizer, reader.find, "a sketch of a cat", "cat", "a dog", "")
    assert (read.template.text, read.reference.text) == ("a sketch of a dog", "a photo of a cat")
    read = read_prompts(clip.tokenizer, reader.find, "a sketch of a cat", "a cat", "a dog", "")
    assert (read.template.text, read.reference.text) == ("a sketch of a dog", "a photo of a cat")
    with pytest.raises(ValueError, match=r"prompt holds \[V:1\.2\].*Write \(\[V\]:1\.2\) in its place"):
        read_prompts(clip.tokenizer, reader.find, "a [V:1.2]", "[V]", "cat", "")


def test_a_layout_that_is_the_models_own_is_told(both, monkeypatch):
    from palp_pack.nodes.host import guided_sampling

    shown = []
    monkeypatch.setattr(guided_sampling, "show_text", lambda *texts: shown.append(texts))
    sample(both[1], *execute(both[1], class_word="", node_id="7"))
    sample(both[1], *execute(both[1], class_word="", draw_weight=0.0))
    assert shown.count(("7", guided_sampling.OWN_LAYOUT)) == 1
    assert all(text != guided_sampling.OWN_LAYOUT for node_id, text in shown if node_id is None)


def test_where_the_word_is_hard_to_find_the_node_says_so(both, monkeypatch):
    from palp_pack.nodes.host import guided_sampling

    shown = []
    monkeypatch.setattr(guided_sampling, "show_text", lambda *texts: shown.append(texts))
    monkeypatch.setattr(
        "palp_pack.palp_core.methods.pick_and_draw.guidance.FAINT", 2.0
    )  # no word attends to less than it has
    sample(both[1], *execute(both[1], node_id="7"))
    ((node_id, text),) = shown
    assert node_id == "7" and "hardly anywhere in the reference picture. Connect a mask" in text


def test_a_cut_out_reference_is_the_subject_and_not_its_background(both, monkeypatch, caplog):
    """By Load Image's mask, which is the background's, and by the alpha of a picture that has one."""
    from palp_pack.nodes import pick_and_draw
    from palp_pack.nodes.host.guidance_inputs import read_reference

    backbone = pick_and_draw.ComfyBackbone(*both[1])
    image, alpha, shown = random(1, 64, 64, 3, seed=5).clamp(0, 1), torch.zeros(1, 64, 64), []
    alpha[:, 16:48, 16:48] = 1
    right = read_reference(backbone, image, alpha, 64)
    inverted = read_reference(backbone, image, 1 - alpha, 64)
    transparent = read_reference(backbone, torch.cat([image, alpha[..., None]], dim=-1), None, 64)
    assert torch.equal(right.mask, inverted.mask) and torch.equal(right.mask, transparent.mask)
    assert right.note == transparent.note == "" and inverted.note.startswith("mask is white all round")
    monkeypatch.setattr(pick_and_draw, "show_text", lambda *texts: shown.append(texts))
    execute(both[1], node_id="7", mask=1 - alpha)
    assert shown == [("7", inverted.note)] and inverted.note in caplog.text


def test_two_guidances_of_one_model_both_load_their_layouts_model(both, monkeypatch):
    from palp_pack.nodes import pick_and_draw
    from palp_pack.nodes.host import guided_sampling

    model, clip, vae = both[1]
    others = [pick_and_draw.ComfyBackbone(model.clone(), clip, vae) for _ in range(2)]
    waiting = iter(others)
    monkeypatch.setattr(pick_and_draw, "template_backbone", lambda *_: next(waiting))
    first, _ = execute(both[1], base_model=model)
    second, _ = execute((first, clip, vae), base_model=model)
    assert len(second.get_additional_models_with_key(guided_sampling.KEY)) == 2


def test_out_of_memory_says_what_to_lower(both, monkeypatch):
    import comfy.model_management
    from palp_pack.nodes.host.backbone import ComfyBackbone

    _, parts = both
    model, conditioning = execute(parts)

    def full(*_):
        raise comfy.model_management.OOM_EXCEPTION("no memory left")

    monkeypatch.setattr(ComfyBackbone, "denoise", full)
    with pytest.raises(RuntimeError, match=r"Out of memory in Pick-and-Draw Guidance.*Lower the batch size"):
        sample(parts, model, conditioning)


BAD = {
    "subject not in the prompt": ({"subject_word": "house"}, "the word 'house' is not in the prompt"),
    "word not in the reference's prompt": ({"reference_prompt": "a photo"}, "is not in the prompt 'a photo'"),
    "a learned word of no class": (
        {"prompt": "a sketch of embedding:x in Paris", "subject_word": "embedding:x", "class_word": ""},
        "class_word is empty. Say what embedding:x is",
    ),
    "a placeholder that the CLIP does not know": (
        {"prompt": "a sketch of [V] in Paris", "subject_word": "[V]"},
        "clip does not know what [V] stands for. Connect the CLIP of Load PALP LoRA",
    ),
    "a word that is written otherwise": (
        {"prompt": "a sketch of a (red:1.0) cat", "subject_word": "red cat"},
        "subject_word 'red cat' is in the prompt",
    ),
    "a model of another kind": ({"model": None}, "model is of the family Lumina2. PALP works with"),
    "two masks": ({"mask": torch.ones(2, 64, 64)}, "mask holds 2 masks"),
    "two references": ({"image": torch.rand(2, 64, 64, 3)}, "image holds 2 pictures"),
    "mask of another size": ({"mask": torch.ones(1, 32, 32)}, "mask is 32x32 pixels, but its image is 64x64"),
    "black mask": ({"mask": torch.zeros(1, 64, 64)}, "mask is all black"),
    "end before start": ({"start_percent": 0.9}, "start_percent is 0.9"),
    "no text encoder": ({"clip": None}, "clip is missing"),
    "no VAE": ({"vae": None}, "vae is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(both, case):
    changes, message = BAD[case]
    if "model" in changes:
        changes = {"model": other_model()}
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        execute(both[1], **changes)


def graph(checkpoint: str, sampler: dict | None = None, width: int = 64, batch: int = 1, **widgets) -> dict:
    """From a checkpoint and a photo to saved pictures, guided."""
    latents = {"width": width, "height": 64, "batch_size": batch}
    settings = {"seed": 1, "steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["10", 0], "positive": ["10", 1], "negative": ["3", 0], "latent_image": ["4", 0]}
    inputs = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "image": ["2", 0], **WIDGETS, **widgets}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "EmptyLatentImage", "inputs": latents},
        "5": {"class_type": "KSampler", "inputs": {**links, **settings, **(sampler or {})}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "guided"}},
        "10": {"class_type": "PALP_PickAndDraw", "inputs": inputs},
    }


def unguided(prompt: dict) -> dict:
    """The same graph without our node."""
    plain = {key: node for key, node in prompt.items() if key != "10"}
    plain["8"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": PROMPT}}
    plain["5"] = {**plain["5"], "inputs": {**plain["5"]["inputs"], "model": ["1", 0], "positive": ["8", 0]}}
    return plain


def run(server: ComfyServer, prompt: dict) -> np.ndarray:
    result = server.queue(prompt, timeout=900).require_success()
    return np.stack([np.asarray(Image.open(server.file(image))).astype(int) for image in result.images])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_weight_changes_the_picture_and_none_leaves_it(server, family, request):
    checkpoint = request.getfixturevalue(f"{family}_checkpoint")
    prompt = graph(checkpoint)
    plain, first = run(server, unguided(prompt)), run(server, prompt)
    assert first.shape == (1, 64, 64, 3) and first.std() > 5
    assert np.abs(first - plain).mean() > 0.5  # of 255 levels
    stronger = run(server, graph(checkpoint, pick_weight=3.0))
    assert np.abs(stronger - first).mean() > 0.5 and np.abs(stronger - plain).mean() > 0.5
    assert (run(server, graph(checkpoint, pick_weight=0.0, draw_weight=0.0)) == plain).all()
    server.free()  # nothing cached: the same picture again
    assert (run(server, prompt) == first).all()


def test_a_lora_is_left_out_of_the_template_on_a_server(server, sd15_checkpoint):
    models = server.base_directory / "models"
    weights = load_file(models / "checkpoints" / sd15_checkpoint)
    keys = [key for key in weights if key.endswith(("attn2.to_q.weight", "attn2.to_k.weight"))]
    patches = {key.removeprefix("model.").removesuffix("weight") + "diff": weights[key].roll(1, 0) for key in keys}
    save_file(patches, models / "loras" / "random.safetensors")

    def with_lora(prompt: dict) -> dict:
        strengths = {"lora_name": "random.safetensors", "strength_model": 1.0, "strength_clip": 0.0}
        loader = {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "clip": ["1", 1], **strengths}}
        user = "10" if "10" in prompt else "5"
        inputs = {**prompt[user]["inputs"], "model": ["11", 0]}
        return {**prompt, "11": loader, user: {**prompt[user], "inputs": inputs}}

    draw_only = graph(sd15_checkpoint, pick_weight=0.0, class_word="")
    bare = run(server, unguided(draw_only))
    assert (run(server, draw_only) == bare).all()  # the model is its own template
    plain, guided = run(server, with_lora(unguided(draw_only))), run(server, with_lora(draw_only))
    assert (plain != bare).any() and (guided != plain).any()
    assert (run(server, with_lora(graph(sd15_checkpoint))) != guided).any()
    server.free()
    assert (run(server, with_lora(draw_only)) == guided).all() and (run(server, unguided(draw_only)) == bare).all()


def test_batches_wide_pictures_and_other_samplers_on_a_server(server, sd15_checkpoint):
    for name, cfg in (("dpmpp_2m", 5.0), ("euler_ancestral", 1.0)):
        prompt = graph(sd15_checkpoint, {"sampler_name": name, "cfg": cfg}, width=128, batch=2)
        pictures = run(server, prompt)
        assert pictures.shape == (2, 64, 128, 3)
        assert np.abs(pictures - run(server, unguided(prompt))).mean() > 0.5


def test_a_word_that_is_not_in_the_prompt_is_named_on_the_node(server, sd15_checkpoint):
    result = server.queue(graph(sd15_checkpoint, subject_word="house"))
    assert result.error["node_id"] == "10"
    assert "the word 'house' is not in the prompt" in result.error["exception_message"]


def test_cancel_while_guided(server, sd15_checkpoint):
    def stop(message):
        if message.type == "progress" and message.data["node"] == "5":
            server.interrupt()

    result = server.queue(graph(sd15_checkpoint, {"steps": 500}, end_percent=1.0), on_message=stop)
    assert result.status == "interrupted" and result.progress[-1][1] < 100
    assert run(server, graph(sd15_checkpoint)).std() > 5
