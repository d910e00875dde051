"""The host's flow-matching transformers: trained in place, right gradients, left as found, and back from the file."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from devtools.comfy_server import find_comfyui
from devtools.host_transformers import (
    QUANTIZED,
    TinyVae,
    families_of,
    other_model,
    quantized_model,
    tiny_clip,
    tiny_model,
)
from devtools.random_models import pictures
from palp_core.models.families import FAMILIES

pytestmark = pytest.mark.host

FAMILY_NAMES = families_of(find_comfyui())
PROMPT = "a sketch of [V] in Paris at night"
WEIGHTS = ["bf16", "fp8", "scaled fp8", "inference"]


@cache
def text_encoder(family: str):
    """Loaded once, because nothing may change it."""
    return tiny_clip(family)


@pytest.fixture(params=FAMILY_NAMES)
def family(request, host) -> str:
    return request.param


def make_backbone(family: str, model=None):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    return ComfyBackbone(model or tiny_model(family), text_encoder(family), TinyVae(family))


def personalization(backbone, score=None, weight=0.25, class_word="cat", **changes):
    from palp_pack.palp_core import AlignmentConfig, Personalization, PersonalizationConfig, Subject
    from palp_pack.palp_core.methods.scores import Delta
    from palp_pack.palp_core.training.loop import Training

    alignment = AlignmentConfig(weight, score or Delta())
    settings = {"steps": 2, "rank": 4, "resolution": 64, "learning_rate": 1e-2, "batch_size": 2, **changes}
    config = PersonalizationConfig(alignment=alignment, **settings)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), class_word)], PROMPT, config))


def load(backbone) -> None:
    """Bring the model where it computes, as the host's sampler does."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([backbone.patcher])


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether they differ by rounding alone, which on a GPU is that of shorter numbers."""
    share = 1e-4 if found.device.type == "cpu" else 3e-3
    return bool((found - expected).abs().max() < share * expected.abs().max())


def noisy(backbone) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        shape = backbone.encode_image(pictures((64, 64))[0]).shape[1:]
    sigma = torch.tensor([0.7, 6.0])
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    x = noise * (1 + sigma).view(-1, *[1] * len(shape))
    return x.to(backbone.device), sigma.to(backbone.device)


def encoded(backbone, *prompts: str) -> list:
    with torch.no_grad():
        return [backbone.encode_prompt(prompt, {}) for prompt in prompts]


def fingerprint(backbone) -> dict:
    import comfy.model_management

    model = backbone.patcher.model
    found = {k: v.to("cpu", copy=True) for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        hooks = (len(module._forward_hooks), len(module._forward_pre_hooks))
        attributes = tuple(key for key in ("forward", "peft_config") if key in module.__dict__)
        found[f"{name} module"] = (type(module), module.training, hooks, attributes)
    found["flags"] = [p.requires_grad for p in model.parameters()]
    found["in_training"] = getattr(comfy.model_management, "in_training", False)
    return found


def assert_same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if torch.is_tensor(value) else value == after[key], key


@pytest.mark.parametrize("targets", ["attention", "attention+ff"])
def test_from_photo_to_file_and_back(family, targets, tmp_path):
    """The file gives what was trained, by Load PALP LoRA and by the host's own loader, with all of its keys."""
    import comfy.sd
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.palp_core.files.lora_file import load_lora_file
    from palp_pack.palp_core.methods.result import save_run
    from palp_pack.palp_core.models.lora import attached_lora
    from safetensors import safe_open
    from safetensors.torch import load_file

    backbone = make_backbone(family)
    before = fingerprint(backbone)
    run = personalization(backbone, targets=targets)
    losses = [step.losses for step in run.steps()]
    assert all(value > 0 for step in losses for value in step.values())
    assert_same(before, fingerprint(backbone))
    path = save_run(run, tmp_path, "cat")

    x, sigma = noisy(backbone)
    (cond,) = encoded(backbone, "a sketch of ohwx cat in Paris at night")
    load(backbone)
    with torch.no_grad():
        base = backbone.denoise(x, sigma, [cond])
        with backbone.training(False), attached_lora(backbone, 4, 0, targets) as lora:
            lora.load_state_dict({k: v.half().float() for k, v in run.result.lora.items()})
            trained = backbone.denoise(x, sigma, [cond])
    assert (trained - base).abs().max() > 1e-3

    file = load_lora_file(path)
    assert file.info.prompt == "a sketch of ohwx cat in Paris at night" and file.words == {}
    with safe_open(path, "pt") as opened:
        assert opened.metadata()["modelspec.trigger_phrase"] == "ohwx cat"
    ours, _, left_out = apply_lora_file(backbone.patcher, backbone.clip, file, 1.0)
    assert left_out == []
    stock, _ = comfy.sd.load_lora_for_models(backbone.patcher, None, load_file(path), 1.0, 0.0)
    assert len(stock.patches) == len(backbone.projections(targets)) == file.projections
    assert (file.projections > len(backbone.projections())) == (targets != "attention")
    for patched in (ours, stock):
        with torch.no_grad():
            loaded = loaded_denoised(family, patched, x, sigma, cond)
        assert near(loaded, trained)


def loaded_denoised(family: str, patched, x, sigma, cond) -> torch.Tensor:
    import comfy.model_management

    comfy.model_management.load_models_gpu([patched])
    try:
        return make_backbone(family, patched).denoise(x, sigma, [cond])
    finally:
        patched.detach()


def randomize(parameters: list) -> None:
    for number, parameter in enumerate(parameters):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data.copy_(0.2 * drawn)


def gradients(backbone, checkpointing: bool, targets="attention") -> list[torch.Tensor]:
    from palp_pack.palp_core.models.backbone import predict_noise
    from palp_pack.palp_core.models.lora import attached_lora
    from palp_pack.palp_core.models.memory import recomputed_in_backward

    x, sigma = noisy(backbone)
    conds = encoded(backbone, "a cat", "a sketch of an ohwx cat in Paris at night in the rain")
    blocks = backbone.checkpointed_modules() if checkpointing else []
    with backbone.training(False), attached_lora(backbone, 4, 0, targets) as lora, recomputed_in_backward(blocks):
        randomize(lora.parameters())
        sum(e.square().mean() for e in predict_noise(backbone.denoise, x, sigma, [[c] for c in conds])).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in lora.parameters()]


@pytest.mark.parametrize("targets", ["attention", "attention+ff"])
def test_checkpointed_gradients_are_the_plain_ones(family, targets):
    plain, checkpointed = (gradients(make_backbone(family), how, targets) for how in (False, True))
    assert sum(g.abs().max() > 0 for g in plain) > 0.8 * len(plain)
    for some, others in zip(plain, checkpointed, strict=True):
        rtol, atol = (1e-4, 1e-6) if some.device.type == "cpu" else (1e-2, 1e-4)
        torch.testing.assert_close(some, others, rtol=rtol, atol=atol)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["flux", "z_image", "sd3"])
def test_streamed_layers_have_the_plain_gradients(host, monkeypatch, name, checkpointing):
    """Where weights lie in RAM, which here is said of all of them; precision bf16 is mixed with that of the weights."""
    from palp_pack.nodes.host import offloading

    plain = gradients(make_backbone(name), checkpointing)
    monkeypatch.setattr(offloading, "_lies_elsewhere", lambda module, _device: hasattr(module, "comfy_cast_weights"))
    found = gradients(make_backbone(name), checkpointing)
    assert sum(g.abs().max() > 0 for g in found) > 0.8 * len(found)
    for some, others in zip(plain, found, strict=True):
        rtol, atol = (1e-4, 1e-6) if some.device.type == "cpu" else (1e-2, 1e-4)
        torch.testing.assert_close(some, others, rtol=rtol, atol=atol)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no NVIDIA GPU that this torch can use.")
@pytest.mark.parametrize("weights", ["bf16", "scaled fp8"])
@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_offloaded_weights_learn_what_loaded_ones_do(host, monkeypatch, name, weights):
    from palp_pack.nodes.host import offloading
    from palp_pack.nodes.host.backbone import ComfyBackbone

    monkeypatch.setattr(offloading, "LEFT_FREE", 1)  # which is all of the card
    learned = []
    for offloaded in (False, True):
        model = quantized_model(name, weights)
        backbone = ComfyBackbone(model, text_encoder(name), TinyVae(name), offloading=offloaded)
        before = fingerprint(backbone)
        run = personalization(backbone, gradient_checkpointing=True)
        for _ in run.steps():
            elsewhere = [p for p in backbone.denoiser.parameters() if p.device.type == "cpu"]
            assert bool(elsewhere) == offloaded
        assert before.keys() == fingerprint(backbone).keys()
        learned.append(torch.cat([v.flatten() for k, v in run.result.lora.items() if "lora_up" in k]))
    assert torch.nn.functional.cosine_similarity(*learned, dim=0) > 0.98


def test_gradients_are_those_of_finite_differences(family):
    """Along the gradient itself the loss rises by its squared norm."""
    from palp_pack.palp_core.models.lora import attached_lora

    backbone = make_backbone(family)
    x, sigma = noisy(backbone)
    conds = encoded(backbone, "a sketch of an ohwx cat in Paris")
    with backbone.training(False), attached_lora(backbone, 4, 0) as lora:
        parameters = lora.parameters()
        randomize(parameters)

        def loss() -> torch.Tensor:
            return backbone.denoise(x, sigma, conds).square().mean()

        loss().backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        square = sum(g.double().square().sum() for g in found).item()
        step = 2e-3 / square**0.5
        sides = []
        with torch.no_grad():
            for sign in (1, -2):
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter += sign * step * gradient
                sides.append(loss().double().item())
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(square, rel=2e-2)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_as_users_have_them(host, name, weights):
    """bf16, fp8 and scaled fp8 train, and so does what was loaded in inference mode; nothing of the model changes."""
    import comfy.model_management

    model = quantized_model(name, weights)
    comfy.model_management.load_models_gpu([model], force_full_load=True)  # which sets flags of its own
    backbone = make_backbone(name, model)
    before = fingerprint(backbone)
    run = personalization(backbone, gradient_checkpointing=True)
    assert all(step.losses["denoising_loss"] > 0 for step in run.steps())
    assert any(v.abs().max() > 0 for k, v in run.result.lora.items() if k.endswith("lora_up.weight"))
    after = fingerprint(backbone)
    assert before.keys() == after.keys()
    assert not {key: (value, after[key]) for key, value in before.items() if not same_note(value, after[key])}
    for key, value in before.items():
        if torch.is_tensor(value):
            assert torch.equal(as_bytes(value), as_bytes(after[key])), key


def same_note(before: object, after: object) -> bool:
    return torch.is_tensor(before) or before == after


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.dequantize() if type(tensor) not in (torch.Tensor, torch.nn.Parameter) else tensor
    return plain.detach().contiguous().view(torch.uint8) if plain.ndim else plain.detach().clone()


@pytest.mark.parametrize("ending", ["closed", "error", "cancel"])
def test_put_back_after_a_run_that_ends_early(family, ending):
    import comfy.model_management

    backbone = make_backbone(family)
    before = fingerprint(backbone)
    run = personalization(backbone, gradient_checkpointing=True)
    steps = run.steps()
    next(steps)
    if ending == "closed":
        steps.close()
    elif ending == "cancel":
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            next(steps)
    else:
        backbone.model.apply_model = None
        with pytest.raises(TypeError):
            next(steps)
        del backbone.model.apply_model
    assert_same(before, fingerprint(backbone))
    assert run.result.steps == 1


def test_several_prompts_in_one_call_are_those_prompts_one_by_one(family):
    """Whether or not their lengths let them share a call of the network."""
    backbone = make_backbone(family)
    x, sigma = noisy(backbone)
    conds = encoded(backbone, "a cat", "a cat", "a sketch of an ohwx cat in Paris at night in the rain")
    load(backbone)
    with torch.no_grad():
        together = backbone.denoise(torch.cat([x, x, x]), sigma.repeat(3), conds)
        alone = torch.cat([backbone.denoise(x, sigma, [cond]) for cond in conds])
    assert near(together, alone)


def test_levels_are_the_hosts_and_the_estimate_is_its_own(family):
    backbone = make_backbone(family)
    table = backbone.patcher.get_model_object("model_sampling").sigmas
    shares = backbone.levels.sigmas / (1 + backbone.levels.sigmas)
    torch.testing.assert_close(shares.cpu(), table[: len(shares)].float().cpu(), rtol=1e-5, atol=1e-6)
    assert len(table) - len(shares) <= 5
    drawn = backbone.levels.sample(1000, torch.Generator().manual_seed(0))
    places = torch.searchsorted(backbone.levels.sigmas, drawn).float() / len(backbone.levels)
    assert places.mean() == pytest.approx(0.5, abs=0.01)
    assert (places < 0.25).float().mean() == pytest.approx(0.136, abs=0.02)  # logit-normal; uniform has .25


@pytest.mark.parametrize("score", ["palp", "plain"])
@pytest.mark.parametrize("name", ["z_image", "flux2_klein"])
def test_other_scores_train_too(host, name, score):
    from palp_pack.palp_core.methods.scores import Palp

    run = personalization(make_backbone(name), Palp(), 0.25 if score == "palp" else 0.0)
    assert [set(step.losses) for step in run.steps()] == [
        {"denoising_loss", "score_gap"} if score == "palp" else {"denoising_loss"}
    ] * 2


# --- what is refused ---


def test_guidance_distilled_models_have_no_null_prompt(host):
    from palp_pack.palp_core.methods.scores import Palp

    with pytest.raises(ValueError, match=r"FLUX\.1 dev never learned. Choose delta"):
        personalization(make_backbone("flux"), Palp())


def test_step_distilled_models_are_refused(host):
    with pytest.raises(ValueError, match=r"FluxSchnell, distilled to a few steps.*Train on the base model"):
        make_backbone("schnell")


def test_other_families_are_refused_by_name(host):
    with pytest.raises(ValueError, match=r"model is of the family Lumina2\. PALP works with .*Z-Image"):
        make_backbone("z_image", other_model())


def test_a_text_encoder_of_another_family_is_refused(host):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    with pytest.raises(ValueError, match="does not belong to model"):
        ComfyBackbone(tiny_model("z_image"), text_encoder("chroma"), TinyVae("z_image"))


def test_a_vae_of_another_family_is_refused(host):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    backbone = ComfyBackbone(tiny_model("z_image"), text_encoder("z_image"), TinyVae("qwen_image"))
    with pytest.raises(ValueError, match="vae makes latents of shape"):
        backbone.encode_image(pictures((64, 64))[0])


def test_language_models_learn_no_words(host):
    with pytest.raises(ValueError, match="text encoder of Z-Image is a language model"):
        personalization(make_backbone("z_image"), subject_word="learned")


# --- what the prompt's words attend to ---


LOCATED = [name for name in FAMILY_NAMES if FAMILIES[name].attention == "joint"]


@pytest.mark.parametrize("name", LOCATED)
def test_words_are_found_in_the_conditioning(host, name):
    """Where the tokens of a word stand, the conditioning of another word differs first."""
    backbone = make_backbone(name)
    positions = backbone.token_positions("a photo of a cat in Paris", "cat", {})
    cat, dog = encoded(backbone, "a photo of a cat in Paris", "a photo of a dog in Paris")
    texts = [cond.tensors["cross_attn"][0] for cond in (cat, dog)]
    changed = (texts[0] - texts[1]).abs().amax(dim=-1) > 1e-6
    if name in ("flux", "chroma"):  # T5 reads in both directions, so that all rows change: most where the word is
        differences = (texts[0] - texts[1]).norm(dim=-1)
        assert int(differences.argmax()) in positions
    else:  # others read from left to right
        assert int(changed.nonzero()[0, 0]) == min(positions)
    with pytest.raises(ValueError, match="the word 'horse' is not in the prompt"):
        backbone.token_positions("a photo of a cat", "horse", {})


@pytest.mark.parametrize("name", LOCATED)
def test_recorded_maps_are_the_networks_own_attention(host, name):
    """Each place's shares over all of the prompt's tokens sum to 1, and depend on the prompt."""
    from palp_pack.palp_core.models.attention import with_conditioning

    backbone = make_backbone(name)
    x, sigma = noisy(backbone)
    (cond,) = encoded(backbone, "a photo of a cat in Paris")
    tokens = tuple(range(cond.tensors["cross_attn"].shape[1]))
    prompted = with_conditioning(backbone, cond, tokens)
    load(backbone)
    with torch.no_grad(), prompted.recorded(keep_features=lambda _: True) as layers:
        prompted.denoise(x, sigma)
    assert len(layers) >= 2
    for layer in layers.values():
        batch, count, height, width = layer.maps.shape
        assert (batch, count) == (2, len(tokens)) and height == width == x.shape[-1] // backbone.joint.patch
        total = layer.maps.sum(dim=1)
        padded = backbone.joint.multiple > 1  # which takes a share, too
        assert (total <= 1 + 1e-4).all() if padded else torch.allclose(total, torch.ones_like(total), atol=1e-4)
        assert layer.features.shape[:2] == (2, height * width)


# --- learned words, where an encoder is CLIP or T5 ---


EITHER = [name for name in FAMILY_NAMES if FAMILIES[name].subject_words == "either"]


@pytest.mark.parametrize("name", EITHER)
def test_a_words_vectors_stand_where_its_tokens_would(host, name):
    """With the embeddings of a class word in the place of [V], a prompt is what it is with the word itself.

    CLIP and T5 divide it into tokens of their own.
    """
    backbone = make_backbone(name)
    vectors = {"[V]": backbone.word_vectors("tabby cat")}
    assert set(vectors["[V]"]) == set(FAMILIES[name].encoders)
    with torch.no_grad():
        for prompt in ("a photo of [V] in Paris", "[V] and (a [V] :1.2) in snow"):
            learned = backbone.encode_prompt(prompt, vectors).tensors
            plain = backbone.encode_prompt(prompt.replace("[V]", "tabby cat"), {}).tensors
            assert learned.keys() == plain.keys()
            for key, value in plain.items():
                torch.testing.assert_close(learned[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EITHER)
def test_a_word_is_learned_beside_the_lora_and_comes_back_from_the_file(host, name, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.palp_core.files.lora_file import load_lora_file
    from palp_pack.palp_core.methods.result import save_run

    backbone = make_backbone(name)
    text_before = {k: v.to("cpu", copy=True) for k, v in backbone.clip.cond_stage_model.state_dict().items()}
    run = personalization(backbone, class_word="tabby cat", subject_word="learned", embedding_learning_rate=1e-2)
    start = {encoder: v.clone() for encoder, v in run.method.initial["[V]"].items()}
    list(run.steps())
    (word,) = run.result.words.values()
    assert set(word) == set(FAMILIES[name].encoders)
    assert all((word[encoder] - start[encoder]).abs().max() > 1e-4 for encoder in word)
    text_after = backbone.clip.cond_stage_model.state_dict()
    assert all(torch.equal(value, text_after[key].cpu()) for key, value in text_before.items())
    assert not [m for m in backbone.clip.cond_stage_model.modules() if m._forward_pre_hooks or "forward" in m.__dict__]

    file = load_lora_file(save_run(run, tmp_path, "cat"))
    assert file.info.prompt == "a sketch of embedding:cat_00001 in Paris at night"
    _, clip, left_out = apply_lora_file(backbone.patcher, backbone.clip, file, 1.0)
    assert left_out == []
    with torch.inference_mode():
        typed = clip.encode_from_tokens(clip.tokenize(file.info.prompt))
    with torch.no_grad():
        rounded = {"[V]": {encoder: v.half().float() for encoder, v in word.items()}}
        trained = backbone.encode_prompt(PROMPT, rounded).tensors["cross_attn"]
    torch.testing.assert_close(typed.cpu().clone(), trained.cpu(), rtol=1e-5, atol=1e-6)
