"""The training loop on tiny real models: what it learns, what it leaves alone, and what it says of bad input."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import closing

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from devtools.random_models import fingerprint, pictures, same, tiny_pipeline
from palp_core.errors import DivergedError, SettingError
from palp_core.methods import personalization
from palp_core.methods.alignment import AlignmentConfig
from palp_core.methods.personalization import Personalization, PersonalizationConfig
from palp_core.methods.scores import Delta, Nfsd, Palp, Sds
from palp_core.methods.subjects import Subject
from palp_core.methods.word_length import longest_norms
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.noise import spread_timesteps
from palp_core.training.loop import Training
from palp_core.training.objective import denoising_loss

PROMPT = "a sketch of [V] in Paris"
CONFIG = PersonalizationConfig(
    steps=3, resolution=64, rank=4, learning_rate=1e-3, embedding_learning_rate=1e-3, hold_norm=False
)


def cat(*sizes, **kwargs) -> Subject:
    return Subject(pictures(*(sizes or [(64, 64)])), "cat", **kwargs)


def configured(**changes) -> PersonalizationConfig:
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def trained(backbone, subjects=None, prompt=PROMPT, config=CONFIG) -> Training:
    run = Training(Personalization(backbone, subjects or [cat()], prompt, config))
    for _ in run.steps():
        pass
    return run


def equal(ours, theirs) -> bool:
    return ours.lora.keys() == theirs.lora.keys() and all(torch.equal(ours.lora[k], theirs.lora[k]) for k in ours.lora)


# --- what is learned ---


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_lora_and_every_encoders_word_learn(tmp_path, family):
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    backbone = DiffusersBackbone(tiny_pipeline(family, tmp_path, prediction), device="cpu")
    run = trained(backbone)
    start = backbone.word_vectors("cat")
    assert run.result.words["[V]"].keys() == start.keys() == set(backbone.family.encoders)
    for encoder, vectors in run.result.words["[V]"].items():
        assert not torch.equal(vectors, start[encoder])
    ups = [v for k, v in run.result.lora.items() if k.endswith("lora_up.weight")]
    attention = [n for n, _ in backbone.denoiser.named_modules() if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    assert len(ups) == len(attention) and all(up.abs().max() > 0 for up in ups)


def test_weight_zero_is_plain_textual_inversion_with_lora_bit_for_bit(backbone, tmp_path):
    """Against the plain recipe written out here with peft and AdamW alone."""
    run = trained(backbone, [cat((64, 64), (64, 64))], config=configured(alignment=AlignmentConfig(weight=0)))

    plain = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    unet, encoder = plain.pipeline.unet, plain.pipeline.text_encoder
    unet.requires_grad_(False).eval()
    encoder.requires_grad_(False).eval()
    latents = [plain.encode_image(image) for image in pictures((64, 64), (64, 64))]
    keys = plain.projections()
    kohya = {name: key for key, (name,) in keys.items()}
    inject_adapter_in_model(
        LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), unet, "default"
    )
    down = {n.replace(".lora_A.default.weight", ""): p for n, p in unet.named_parameters() if "lora_A" in n}
    up = {n.replace(".lora_B.default.weight", ""): p for n, p in unet.named_parameters() if "lora_B" in n}
    with run_start(run, backbone) as start:
        for key, (name,) in keys.items():
            down[name].data = start[f"{key}.lora_down.weight"].clone()
    word = {e: torch.nn.Parameter(v.clone()) for e, v in plain.word_vectors("cat").items()}
    # In the order of our optimizer, since the norm of all gradients is a sum.
    pairs = [p for name in down for p in (down[name], up[name])]
    optimizer = torch.optim.AdamW(
        [
            {"params": pairs, "lr": 1e-3, "weight_decay": 0.01},
            {"params": list(word.values()), "lr": 1e-3, "weight_decay": 0.0},
        ]
    )
    random = torch.Generator().manual_seed(0)
    for _ in range(CONFIG.steps):
        torch.randint(1, (), generator=random)  # the subject
        chosen = [int(torch.randint(2, (), generator=random)) for _ in range(CONFIG.batch_size)]
        x0 = torch.cat([latents[i] for i in chosen])
        sigma = plain.levels.sigmas[(torch.arange(2) * 1000 + torch.randint(1000, (1,), generator=random)) // 2]
        noise = torch.randn(x0.shape, generator=random)
        x = x0 + sigma.view(-1, 1, 1, 1) * noise
        cond = plain.encode_prompt("a photo of [V]", {"[V]": word})
        denoised = plain.denoise(x, sigma, [cond])
        loss = (sigma**-2 * (denoised - x0).square().mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*pairs, *word.values()], 1.0)
        optimizer.step()
    for name, parameter in up.items():
        assert torch.equal(parameter, run.result.lora[f"{kohya[name]}.lora_up.weight"]), name
    for encoder_name, vectors in word.items():
        assert torch.equal(vectors, run.result.words["[V]"][encoder_name])


class run_start:  # noqa: N801 - reads as a function
    """The initial LoRA of a run's seed, from a run that makes no step."""

    def __init__(self, run, backbone):
        self.run = Training(
            Personalization(backbone, list(run.method.subjects.values()), run.method.target_prompt, run.method.config)
        )

    def __enter__(self):
        from palp_core.models.lora import attached_lora

        config, backbone = self.run.method.config, self.run.method.backbone
        with attached_lora(backbone, config.rank, config.seed) as lora:
            return lora.state_dict()

    def __exit__(self, *args):
        return None


def test_same_seed_same_result_and_another_seed_another(backbone):
    first, again, other = (trained(backbone, config=configured(seed=s)) for s in (4, 4, 5))
    assert equal(first.result, again.result)
    assert not equal(first.result, other.result)


def test_methods_compare_on_the_same_samples(backbone):
    """The alignment branch must not change which images, noise levels and noise the denoising loss sees."""
    sigmas = [
        [
            step.sigma
            for step in Training(Personalization(backbone, [cat()], PROMPT, configured(alignment=alignment))).steps()
        ]
        for alignment in (AlignmentConfig(weight=0), AlignmentConfig(), AlignmentConfig(noise="fresh"))
    ]
    assert sigmas[0] == sigmas[1] == sigmas[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"score": Palp()},
        {"score": Sds()},
        {"score": Nfsd()},
        {"noise": "fresh"},
        {"rescale": False},
        {"weight": 0.0},
        {"score": Delta(push=1.0)},
    ],
    ids=str,
)
def test_every_choice_changes_what_is_learned(backbone, changes):
    palp = trained(backbone)
    other = trained(backbone, config=configured(alignment=AlignmentConfig(**changes)))
    assert not equal(palp.result, other.result)


def test_gradient_checkpointing_changes_nothing_but_memory(backbone):
    plain, checkpointed = (trained(backbone, config=configured(gradient_checkpointing=on)) for on in (False, True))
    for key, value in plain.result.lora.items():
        torch.testing.assert_close(value, checkpointed.result.lora[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(tmp_path, precision):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu", precision=precision)
    run = trained(backbone)
    assert {v.dtype for v in run.result.lora.values()} == {torch.float32}
    assert all(torch.isfinite(v).all() for v in run.result.lora.values())
    assert any(v.abs().max() > 0 for k, v in run.result.lora.items() if "lora_up" in k)


def test_half_precision_model_trains(tmp_path):
    pipeline = tiny_pipeline("sdxl", tmp_path).to(torch.bfloat16)
    run = trained(DiffusersBackbone(pipeline, device="cpu"))
    assert all(torch.isfinite(v).all() for v in run.result.lora.values())
    with pytest.raises(ValueError, match="precision is fp32"):
        DiffusersBackbone(pipeline, device="cpu", precision="fp32")


def test_a_word_starts_as_exactly_what_the_class_word_says(backbone):
    """Of a class word of several tokens each has a vector of its own."""
    run = Training(Personalization(backbone, [cat()], "a sketch of [V]", configured()))
    start = run.method.initial["[V]"]["clip_l"]
    assert len(start) > 1
    with torch.no_grad():
        ours, theirs = run.method.encode("a sketch of [V]"), backbone.encode_prompt("a sketch of cat", {})
    torch.testing.assert_close(ours.tensors["context"], theirs.tensors["context"])


def test_a_word_grows_no_longer_than_it_starts_or_the_vocabulary_is(backbone):
    """A word that grows drowns the rest of the prompt; it is held after each step, and in the average, too."""
    limit = longest_norms(backbone, backbone.word_vectors("cat"))["clip_l"]
    eager = {"embedding_learning_rate": 0.2, "steps": 4}
    free, held, average = (
        trained(backbone, config=configured(**eager, **settings)).result.words["[V]"]["clip_l"].norm(dim=-1)
        for settings in ({"hold_norm": False}, {"hold_norm": True}, {"hold_norm": True, "ema_decay": 0.9})
    )
    assert (free > 1.5 * limit).all()
    assert (held <= limit * 1.0001).all() and (average <= limit * 1.0001).all()
    assert PersonalizationConfig().hold_norm


@pytest.mark.parametrize("held", [{}, {"hold_norm": False}, {"embedding_learning_rate": 0.0}, {"subject_word": "text"}])
def test_an_average_that_cannot_be_held_is_refused_where_a_word_learns(backbone, monkeypatch, held):
    monkeypatch.setattr(personalization, "check_optimizer", lambda name: None)  # its package may be missing
    config = dataclasses.replace(PersonalizationConfig(resolution=64), optimizer="schedulefree", **held)
    if held:
        Personalization(backbone, [cat()], PROMPT, config)
        return
    with pytest.raises(SettingError, match="Switch hold_norm off"):
        Personalization(backbone, [cat()], PROMPT, config)


def test_frozen_word_stays_at_its_class_word(backbone):
    run = trained(backbone, config=configured(embedding_learning_rate=0.0))
    start = backbone.word_vectors("cat")
    assert all(torch.equal(v, start[e]) for e, v in run.result.words["[V]"].items())
    assert any(v.abs().max() > 0 for k, v in run.result.lora.items() if "lora_up" in k)


def test_several_subjects_are_drawn_and_learned(backbone):
    dog = Subject(pictures((64, 64)), "dog", placeholder="[V2]", personalization_prompt="an oil painting of [V2]")
    run = Training(Personalization(backbone, [cat(), dog], "[V] beside [V2]", configured(steps=8)))
    drawn = {step.subject for step in run.steps()}
    assert drawn == {"[V]", "[V2]"}
    assert run.method.clean_prompt == "a cat beside a dog"
    for placeholder, word in (("[V]", "cat"), ("[V2]", "dog")):
        start = backbone.word_vectors(word)["clip_l"]
        assert not torch.equal(run.result.words[placeholder]["clip_l"], start)


@pytest.mark.parametrize("word_rate", [0.0, 1e-3])
@pytest.mark.parametrize("seed", [0, 1])  # each draws another of the two subjects
def test_a_step_with_delta_follows_both_written_losses(backbone, monkeypatch, word_rate, seed):
    """Denoising under the drawn subject's own y_P, plus -weight * mean(Delta * e) under y, with its own c_P."""
    alignment = AlignmentConfig(0.7, Delta(0.5, interval=1, null_prior=0))
    config = configured(embedding_learning_rate=word_rate, batch_size=1, alignment=alignment, seed=seed)
    dog = Subject(pictures((64, 64)), "dog", placeholder="[V2]", personalization_prompt="an oil painting of [V2]")
    run = Training(Personalization(backbone, [cat(), dog], "[V] beside [V2]", config))
    region = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    monkeypatch.setattr(personalization, "subject_region", lambda *args, **kwargs: region)
    denoise, calls, found = backbone.denoise, [], []

    def recorded(x, sigma, cond):
        calls.append((x.detach(), sigma))
        return denoise(x, sigma, cond)

    def held(_number, measured):
        groups = run.learner.optimizer.optimizer.param_groups
        found.extend((p, p.grad.clone()) for group in groups for p in group["params"])
        return {name: value.item() for name, value in measured.items()}

    backbone.denoise = recorded
    steps = run.steps()
    next(steps)  # the LoRA is no longer without effect
    calls.clear()
    monkeypatch.setattr(run.learner.optimizer, "step", held)
    subject = run.method.subjects[next(steps).subject]
    (x, sigma), words = calls[0], run.learner.words
    x0 = backbone.encode_image(subject.images[0])
    column = sigma.view(-1, 1, 1, 1)

    def noise_in(x, prompt, words=words):
        return (x - denoise(x, sigma, [backbone.encode_prompt(prompt, words)])) / column

    class_photo = {"[V]": "a photo of a cat", "[V2]": "an oil painting of a dog"}[subject.placeholder]
    e = noise_in(x, "[V] beside [V2]")
    with torch.no_grad():
        x_hat = x - column * e + (x - x0)
        with run.learner.lora.disabled():
            clean, of_class = noise_in(x_hat, "a cat beside a dog", {}), noise_in(x_hat, class_photo, {})
        learned = noise_in(x_hat, subject.personalization_prompt) - of_class
        delta = clean + region * learned - noise_in(x_hat, "[V] beside [V2]") + 0.5 * (clean - of_class)
    denoised = denoise(x, sigma, [backbone.encode_prompt(subject.personalization_prompt, words)])
    loss = (backbone.prediction.loss_weight(sigma) * (denoised - x0).square().mean(dim=(1, 2, 3))).mean()
    loss = loss - 0.7 * (delta * e).mean()
    expected = torch.autograd.grad(loss, [p for p, _ in found])
    steps.close()
    for (_, ours), theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_the_region_is_the_mask_or_else_found_before_the_first_step(backbone):
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    run = Training(Personalization(backbone, [cat(masks=(mask,)), cat(placeholder="[V2]")], "[V] and [V2]", CONFIG))
    with closing(run.steps()) as steps:
        next(steps)
        masked, found = (run.learner.examples[placeholder][0].region for placeholder in ("[V]", "[V2]"))
    assert masked[0, 0, :, 0].tolist() == [1.0] * 4 + [0.0] * 4
    assert found.shape == (1, 1, 8, 8) and set(found.unique().tolist()) <= {0.0, 1.0}


def test_clean_prompt_can_be_overridden(backbone):
    run = Training(
        Personalization(backbone, [cat()], PROMPT, configured(clean_prompt="a drawing of a tabby in France"))
    )
    assert run.method.clean_prompt == "a drawing of a tabby in France"


def test_images_of_one_run_may_differ_in_size(backbone, monkeypatch):
    shapes, denoise = set(), type(backbone).denoise

    def seen(self, x, sigma, cond):
        shapes.add(tuple(x.shape[-2:]))
        return denoise(self, x, sigma, cond)

    monkeypatch.setattr(type(backbone), "denoise", seen)
    run = Training(
        Personalization(backbone, [cat((64, 64), (64, 200), (300, 90))], PROMPT, configured(steps=8, batch_size=2))
    )
    for _ in run.steps():
        pass
    assert len(shapes) > 1 and all(h % 8 == w % 8 == 0 for h, w in shapes)


# --- masks ---


def test_denoising_loss_counts_only_the_mask():
    generator = torch.Generator().manual_seed(0)
    denoised, x0 = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :4] = 1
    elsewhere = denoised.clone()
    elsewhere[:, :, 4:] += 100
    weight = torch.tensor([1.0, 2.0])
    inside = denoising_loss(denoised, x0, weight, mask)
    assert denoising_loss(elsewhere, x0, weight, mask) == inside
    torch.testing.assert_close(inside, denoising_loss(denoised[:, :, :4], x0[:, :, :4], weight))
    torch.testing.assert_close(
        denoising_loss(denoised, x0, weight, torch.ones_like(mask)), denoising_loss(denoised, x0, weight)
    )


def test_what_lies_outside_the_mask_does_not_change_what_is_learned(backbone, monkeypatch):
    """A model of whose predictions only the lower half can learn."""
    denoise = backbone.denoise

    def lower_half(*inputs):
        denoised = denoise(*inputs)
        return torch.cat([denoised[:, :, :4].detach(), denoised[:, :, 4:]], dim=2)

    monkeypatch.setattr(backbone, "denoise", lower_half)
    upper = torch.zeros(64, 64)
    upper[:32] = 1
    config = configured(alignment=AlignmentConfig(weight=0))
    words = []
    for mask in (upper, 1 - upper):
        words.append(trained(backbone, [Subject(pictures((64, 64)), "cat", masks=(mask,))], config=config).result.words)
    start = backbone.word_vectors("cat")["clip_l"]
    assert torch.equal(words[0]["[V]"]["clip_l"], start) and not torch.equal(words[1]["[V]"]["clip_l"], start)


# --- what is left alone ---


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("ending", ["success", "closed", "error", "diverged"])
def test_the_model_is_put_back(backbone, ending, checkpointing):
    backbone.pipeline.unet.train()  # a state of the user's own, to be kept
    before = fingerprint(backbone)
    run = Training(Personalization(backbone, [cat()], PROMPT, configured(gradient_checkpointing=checkpointing)))
    steps = run.steps()
    assert next(steps).index == 0
    if ending == "success":
        list(steps)
    elif ending == "closed":
        steps.close()
    else:
        breaking(backbone, ending)
        with pytest.raises(DivergedError if ending == "diverged" else KeyboardInterrupt):
            list(steps)
        del backbone.denoise
    assert same(before, fingerprint(backbone))
    assert run.result.steps == (3 if ending == "success" else 1)


def breaking(backbone, ending: str, spared: int = 0) -> None:
    """From now on calls of the denoiser fail or return nonsense, but for the first few."""
    denoise, calls = backbone.denoise, itertools.count()

    def broken(x, sigma, cond):
        if next(calls) < spared:
            return denoise(x, sigma, cond)
        if ending == "error":
            raise KeyboardInterrupt
        return denoise(x, sigma, cond) * float("nan")

    backbone.denoise = broken


@pytest.mark.parametrize("spared", [0, 1])  # 1: the first of a step's two backward passes is done
def test_a_diverged_run_names_its_step_and_keeps_the_weights_before_it(backbone, spared):
    alignment = AlignmentConfig(score=Delta(interval=1))
    run = Training(Personalization(backbone, [cat()], PROMPT, configured(alignment=alignment)))
    steps = run.steps()
    next(steps), next(steps)
    breaking(backbone, "diverged", spared)
    with pytest.raises(DivergedError, match="step 3") as failure:
        next(steps)
    assert failure.value.step == 3 and run.result.steps == 2
    assert all(torch.isfinite(v).all() for v in run.result.lora.values())
    del backbone.denoise
    two = trained(backbone, config=configured(steps=2, alignment=alignment))
    assert equal(run.result, two.result)


# --- bad input ---


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a sketch of a cat", "has no placeholder"),
        ("a sketch of [V] and [V2]", r"\[V2\].*no subject"),
        ("[V] and embedding:dog", r"names embedding:dog, of which there is no file here. Write .*: \[V\]"),
    ],
)
def test_bad_target_prompts(backbone, prompt, message):
    with pytest.raises(ValueError, match=message):
        Training(Personalization(backbone, [cat()], prompt, CONFIG))


def test_bad_sets_of_subjects(backbone):
    with pytest.raises(ValueError, match="there are 0 subjects; there can be 1 to 100"):
        Training(Personalization(backbone, [], "a sketch", PersonalizationConfig()))
    with pytest.raises(ValueError, match="belongs to two subjects"):
        Training(Personalization(backbone, [cat(), cat()], PROMPT, CONFIG))
    with pytest.raises(ValueError, match=r"does not name the subject \[V2\]"):
        Training(Personalization(backbone, [cat(), cat(placeholder="[V2]")], PROMPT, CONFIG))


def masks(shade: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.full(image.shape[:2], shade) for image in cat().images)


def test_a_subject_that_cannot_be_found_by_its_word_needs_masks(backbone):
    plural = {"personalization_prompt": "a photo of [V]s"}
    with pytest.raises(ValueError, match=r"personalization_prompt .* joins \[V\] to other letters.*masks"):
        Training(Personalization(backbone, [cat(**plural)], PROMPT, CONFIG))
    with pytest.raises(ValueError, match="joins"):  # a mask that is white everywhere masks nothing
        Training(Personalization(backbone, [cat(**plural, masks=masks(1.0))], PROMPT, CONFIG))
    masked = cat(**plural, masks=masks(0.5))
    next(Training(Personalization(backbone, [masked], PROMPT, CONFIG)).steps())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_word": " "}, "class_word of .* is empty"),
        ({"class_word": "[V]"}, "holds a placeholder"),
        ({"placeholder": "V"}, "square brackets"),
        ({"images": ()}, "has no image"),
        ({"images": (torch.zeros(1, 1, 3),)}, "too small"),
        ({"images": (torch.full((64, 64, 3), float("nan")),)}, "not finite"),
        ({"images": (torch.zeros(3, 64, 64),)}, "shape"),
        ({"masks": (torch.zeros(64, 64),)}, "all black"),
        ({"masks": (torch.ones(64, 32),)}, "32x64 pixels, but its image is 64x64"),
        ({"masks": (torch.ones(64, 64),) * 2}, "1 images but 2 masks"),
        ({"personalization_prompt": "a photo of a cat"}, "does not name its subject"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_subjects(arguments, message):
    with pytest.raises(ValueError, match=message):
        Subject(**{"images": pictures((64, 64)), "class_word": "cat", **arguments})


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"rank": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"embedding_learning_rate": -1.0},
        {"resolution": 32},
        {"max_grad_norm": 0.0},
        {"clean_prompt": "a sketch of [V]"},
    ],
    ids=str,
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PersonalizationConfig(**wrong)


def test_a_model_with_an_adapter_is_refused(backbone):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), backbone.pipeline.unet, "mine")
    with pytest.raises(ValueError, match="already carries a peft adapter"):
        trained(backbone)


def test_attention_that_cannot_carry_lora_is_refused(backbone):
    """A quantised checkpoint has layers of its own in the place of linear ones."""
    backbone.pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q = torch.nn.Identity()
    before = fingerprint(backbone)
    with pytest.raises(ValueError, match="Use a checkpoint in fp32"):
        trained(backbone)
    assert same(before, fingerprint(backbone))


def test_inference_mode_is_refused(backbone):
    run = Training(Personalization(backbone, [cat()], PROMPT, CONFIG))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        next(run.steps())


# --- going on with an unfinished run ---


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(backbone):
    config = configured(steps=4, alignment=AlignmentConfig(noise="fresh"))
    whole = trained(backbone, config=config)

    first = Training(Personalization(backbone, [cat()], PROMPT, config))
    for step in first.steps():
        if step.index == 1:
            state = first.learner.state()
            early = first.learner.result()
            break
    assert first.result.steps == 2 and equal(first.result, early)
    second = Training(Personalization(backbone, [cat()], PROMPT, config))
    assert [step.index for step in second.steps(state)] == [2, 3]
    assert equal(second.result, whole.result) and second.result.steps == 4
    assert torch.equal(second.result.words["[V]"]["clip_l"], whole.result.words["[V]"]["clip_l"])


def test_between_steps_the_base_model_is_at_hand(backbone):
    x, sigma, cond = torch.randn(1, 4, 8, 8), torch.ones(1), backbone.encode_prompt("a cat", {})
    before = backbone.denoise(x, sigma, [cond])
    run = Training(Personalization(backbone, [cat()], PROMPT, CONFIG))
    with closing(run.steps()) as steps, torch.no_grad():
        next(steps)
        assert not torch.equal(backbone.denoise(x, sigma, [cond]), before)
        with run.learner.lora.disabled():
            assert torch.equal(backbone.denoise(x, sigma, [cond]), before)


def test_there_is_no_state_before_or_after_the_steps(backbone):
    run = Training(Personalization(backbone, [cat()], PROMPT, CONFIG))
    with pytest.raises(RuntimeError, match="no training under way"):
        run.learner.state()
    for _ in run.steps():
        pass
    with pytest.raises(RuntimeError, match="no training under way"):
        run.learner.result()


def test_the_timesteps_of_a_batch_come_from_all_parts_of_the_schedule():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spread_timesteps(16, 1000, generator) for _ in range(500)])  # (500, 16)
    assert drawn.min() == 0 and drawn.max() == 999
    assert torch.equal((drawn * 16 // 1000).clamp(max=15).float().mean(dim=0).round(), torch.arange(16.0))
    assert abs(drawn.float().mean().item() - 499.5) < 5
