"""The same weights behind both backbones: the same predictions, the same losses, the same LoRA."""

from __future__ import annotations

import copy
from itertools import chain
from random import Random

import pytest
import torch
from safetensors.torch import save_file

from devtools import host_models
from devtools.random_models import pictures, tiny_pipeline
from palp_core import AlignmentConfig, Delta, Personalization, PersonalizationConfig, Subject
from palp_core.errors import PromptError
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.prompt_weights import weighted_parts
from palp_core.training.data import encode_examples
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


@pytest.mark.parametrize(
    "prompt",
    [
        "a (red:1.3) cat",
        "a (red) [V], ((very) small:0.4) and (old:-1)",
        "([V]:1.5) in (Paris (at night:1.2))",
        r"a \(red\) [V] and (a \(blue\) hat:1.2)",
        "a ) stray (bracket:1.2), and (an open one",
    ],
)
def test_same_conditioning_with_weights(backbones, prompt):
    assert_same_conditioning(backbones, prompt)


def test_brackets_are_read_as_the_host_reads_them(host):
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    random, pieces = Random(1), ["(", ")", ":", "\\", "a", " ", "1", ".5", ":1.3)", "(b"]
    for _ in range(20_000):
        prompt = "".join(random.choices(pieces, k=random.randrange(10)))
        theirs = [(unescape_important(text), weight) for text, weight in token_weights(escape_important(prompt), 1.0)]
        assert [tuple(part) for part in weighted_parts(prompt)] == theirs, prompt


def test_same_conditioning_in_several_windows(backbones):
    tags = ", ".join(f"tag number {n}" for n in range(24))
    assert_same_conditioning(backbones, f"{tags}, a photo of [V] in Paris, {tags}", windows=4)
    assert_same_conditioning(backbones, f"({tags}:1.2), (a photo of [V]:0.7) in Paris", windows=2)
    for count in range(70, 77):  # a short text, and a word, do not stand in two windows
        assert_same_conditioning(backbones, "a " * count + "([V]:1.1) (in the old town:1.2)", windows=2)


def test_a_word_is_found_in_the_second_window(backbones):
    vectors = two_vectors(backbones)
    prompt = "very " * 80 + "small [V] and a (small:1.2) dog"
    for word in ("[V]", "small", "small [V]"):
        ours, theirs = (b.token_positions(prompt, word, vectors) for b in backbones)
        assert ours == theirs and min(ours) > 77


def two_vectors(backbones) -> dict:
    random = torch.Generator().manual_seed(2)
    width = {e: v.shape[-1] for e, v in backbones[0].word_vectors("cat").items()}
    return {"[V]": {e: torch.randn(2, columns, generator=random) for e, columns in width.items()}}


def assert_same_conditioning(backbones, prompt: str, windows: int = 1) -> None:
    ours, theirs = (b.encode_prompt(prompt, two_vectors(backbones)).tensors for b in backbones)
    assert ours["context"].shape[1] == 77 * windows
    assert relative_difference(ours["context"], theirs["cross_attn"]) < 1e-5, prompt
    if "pooled" in ours:
        assert relative_difference(ours["pooled"], theirs["pooled_output"]) < 1e-5, prompt


def test_same_conditioning_as_the_hosts_own_with_a_file_of_the_word(backbones, tmp_path):
    """embedding:NAME is found in the folder for embeddings, which the command has no need of."""
    ours, host = backbones
    (vectors,) = two_vectors(backbones).values()
    named = vectors if len(vectors) > 1 else {"emb_params": next(iter(vectors.values()))}
    save_file(named, tmp_path / "my-cat_1.safetensors")
    clip = host.clip.clone()
    clip.tokenizer = copy.copy(clip.tokenizer)
    for name, part in [*vars(clip.tokenizer).items()]:
        if hasattr(part, "embedding_directory"):
            setattr(clip.tokenizer, name, copy.copy(part))
            getattr(clip.tokenizer, name).embedding_directory = str(tmp_path)
            getattr(clip.tokenizer, name).embedding_size = next(iter(vectors.values())).shape[-1]
    for prompt in (
        "a photo of embedding:my-cat_1, sitting",
        "(embedding:my-cat_1:1.3) in Paris and (an embedding:my-cat_1)",
        "a " * 74 + "embedding:my-cat_1 in Paris",
        "a " * 72 + "embedding:my-cat_1 in Paris",
    ):
        ((context, more),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        found = ours.encode_prompt(prompt, {"[V]": vectors, "embedding:my-cat_1": vectors}).tensors
        assert relative_difference(found["context"], context) < 1e-5, prompt
        if "pooled" in found:
            assert relative_difference(found["pooled"], more["pooled_output"]) < 1e-5, prompt


def test_an_embedding_without_a_file_is_named(backbones):
    vectors = two_vectors(backbones)
    with pytest.raises(PromptError, match=r"names embedding:dog, of which there is no file here. Write .*: \[V\]"):
        backbones[0].encode_prompt("[V] and (embedding:dog:1.2)", vectors)
    with pytest.raises(PromptError, match=r"names embedding:dog, of which there is no file here. Leave it out."):
        backbones[0].encode_prompt("a dog, embedding:dog", {})


def test_same_denoised_for_prompts_of_other_lengths(backbones):
    sigma, results = torch.tensor([0.05, 0.9, 12.0]), []
    x = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(1)) * (1 + sigma.view(-1, 1, 1, 1))
    for backbone in backbones:
        conds = [backbone.encode_prompt(prompt, {}) for prompt in ("a photo of a cat", "very " * 80, "very " * 160)]
        with torch.no_grad():
            apart = torch.cat([backbone.denoise(x[[n]], sigma[[n]], [cond]) for n, cond in enumerate(conds)])
            results.append(backbone.denoise(x, sigma, conds))
            assert relative_difference(results[-1], apart) < 1e-5
    assert relative_difference(*results) < 1e-5


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


def test_same_denoised_for_photos_of_other_sizes(backbones):
    """In the same order of height and width, crop and target; a model that is told no sizes has no photos' sizes."""
    if not backbones[0].family.pooled:
        assert learned_example(backbones[0]).size is None
        return
    sizes = [torch.tensor([[300, 200, 16, 4, 64, 128]]), None, torch.tensor([[96, 128, 0, 0, 96, 128]])]
    sigma, results = torch.tensor([0.05, 0.9, 12.0]), []
    x = torch.randn(3, 4, 8, 16, generator=torch.Generator().manual_seed(1)) * (1 + sigma.view(-1, 1, 1, 1))
    for backbone in backbones:
        conds = [backbone.encode_prompt("a photo of a cat", {}).with_size(size) for size in sizes]
        with torch.no_grad():
            results.append(backbone.denoise(x, sigma, conds))
            whole = backbone.denoise(x, sigma, [conds[1]])
        differences = [relative_difference(found, other) for found, other in zip(results[-1], whole, strict=True)]
        assert differences[1] < 1e-5 and differences[0] > 1e-4 and differences[2] > 1e-4
    assert relative_difference(*results) < 1e-5


def learned_example(backbone):
    (image,) = pictures((300, 200))
    (example,) = encode_examples(backbone, "it", (image,), (), 64)
    return example


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        ("attention", (".attn",)),
        ("attention+ff", (".attn", ".ff.")),
        ("attention+ff+proj", (".attn", ".ff.", ".proj_in", ".proj_out")),
    ],
)
def test_same_names_for_the_projections(backbones, targets, parts):
    names = []
    for backbone in backbones:
        modules = backbone.denoiser.named_modules()
        layers = (n for n, m in modules if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
        projections = backbone.projections(targets)
        assert set(chain(*projections.values())) == {n for n in layers if any(part in n for part in parts)}
        names.append(set(projections))
    assert names[0] == names[1]


def test_same_losses_and_lora_after_training(backbones):
    assert_same_training(backbones, STEPS, PROMPT, "")


def test_same_training_with_weights_and_prompts_of_several_windows(backbones):
    """The target prompt has the subject in its second window; the photo's has one window alone."""
    assert_same_training(backbones, 3, "very " * 80 + "small ([V]:0.8) in Paris", "a (photo:1.2) of ([V]:1.3)")


def test_same_training_of_all_layers(backbones):
    assert_same_training(backbones, 3, PROMPT, "", targets="attention+ff+proj")


def assert_same_training(backbones, steps: int, target: str, photo: str, **settings) -> None:
    shared = {"steps": steps, "rank": 4, "resolution": 64, "learning_rate": 1e-3, "seed": 5, **settings}
    config = PersonalizationConfig(**shared, alignment=AlignmentConfig(0.5, Delta(interval=1)))
    images = pictures((64, 64), (64, 64), (70, 140))
    histories, weights = [], []
    for backbone in backbones:
        subject = Subject(images=images, class_word="cat", personalization_prompt=photo)
        run = Training(Personalization(backbone, [subject], target, config))
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
