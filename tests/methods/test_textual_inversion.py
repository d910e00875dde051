"""Textual inversion on tiny real models: what it learns, what it leaves alone, and what it says of bad input.

The tiny tokenizer spells, so that the only words of one token are single letters: "c" stands for the coarse word.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing

import pytest
import torch

from devtools.random_models import fingerprint, pictures, same, tiny_pipeline
from palp_core import DivergedError
from palp_core.files.embedding_file import Embedding
from palp_core.methods.concept import Concept, first_vectors, start_vectors
from palp_core.methods.personalization import Personalization, PersonalizationConfig
from palp_core.methods.result import save_word
from palp_core.methods.subjects import Subject
from palp_core.methods.templates import TEMPLATES
from palp_core.methods.textual_inversion import TextualInversion, TextualInversionConfig
from palp_core.methods.word_length import longest_norms
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

CONFIG = TextualInversionConfig(steps=3, resolution=64, learning_rate=1e-2, hold_norm=False)


def letter(*sizes, **kwargs) -> Concept:
    return Concept(pictures(*(sizes or [(64, 64)])), **{"initial_word": "c", **kwargs})


def configured(**changes) -> TextualInversionConfig:
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture
def backbone(tmp_path):
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")


def trained(backbone, concept=None, config=CONFIG) -> Training:
    run = Training(TextualInversion(backbone, concept or letter(), config))
    for _ in run.steps():
        pass
    return run


def rows(run: Training) -> torch.Tensor:
    return run.result.vectors["clip_l"]


def prompts_of(backbone, concept, **changes) -> list[str]:
    """What the text encoder reads while a run goes on."""
    run = Training(TextualInversion(backbone, concept, configured(**changes)))
    encode, seen = backbone.encode_prompt, []
    backbone.encode_prompt = lambda prompt, words: (seen.append(prompt), encode(prompt, words))[1]
    list(run.steps())
    del backbone.encode_prompt
    return seen


# --- what is learned ---


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_rows_of_every_encoder_learn_and_nothing_else_changes(tmp_path, family):
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    backbone = DiffusersBackbone(tiny_pipeline(family, tmp_path, prediction), device="cpu")
    backbone.encode_prompt("", {})  # at the first call transformers adds hooks of its own
    before = fingerprint(backbone)
    run = trained(backbone)
    assert same(before, fingerprint(backbone))
    start = start_vectors(backbone, letter(), 1, CONFIG.seed)
    assert run.result.vectors.keys() == start.keys() == set(backbone.family.encoders)
    for encoder, vectors in run.result.vectors.items():
        assert vectors.shape == (1, 32) and not torch.equal(vectors, start[encoder])


def test_it_is_the_plain_recipe(backbone, tmp_path):
    """Against a new row in the token table, the scheduler's own noising, and AdamW: the usual way to write it."""
    concept = letter((64, 64), (64, 64), templates=("a photo of {}",))
    run = trained(backbone, concept)

    pipeline = tiny_pipeline("sd1", tmp_path)
    unet, encoder, tokenizer = pipeline.unet.eval(), pipeline.text_encoder.eval(), pipeline.tokenizer
    unet.requires_grad_(False)
    encoder.requires_grad_(False)
    latents = [DiffusersBackbone(pipeline, device="cpu").encode_image(image) for image in concept.images]
    start = encoder.get_input_embeddings().weight[tokenizer("c", add_special_tokens=False).input_ids[0]].clone()
    tokenizer.add_tokens("<word>")
    encoder.resize_token_embeddings(len(tokenizer))
    new = tokenizer.convert_tokens_to_ids("<word>")
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[new] = start
    table.requires_grad_(True)
    others = torch.arange(len(table)) != new
    optimizer = torch.optim.AdamW([table], lr=CONFIG.learning_rate, weight_decay=0.0)
    random = torch.Generator().manual_seed(0)
    for _ in range(CONFIG.steps):
        chosen = [int(torch.randint(2, (), generator=random)) for _ in range(2)]
        x0 = torch.cat([latents[i] for i in chosen])
        timesteps = (torch.arange(2) * 1000 + torch.randint(1000, (1,), generator=random)) // 2
        noise = torch.randn(x0.shape, generator=random)
        torch.randint(1, (), generator=random)  # the template
        ids = tokenizer(["a photo of <word>"] * 2, padding="max_length", max_length=154, return_tensors="pt").input_ids
        noisy = pipeline.scheduler.add_noise(x0, noise, timesteps)
        prediction = unet(noisy, timesteps, encoder(ids).last_hidden_state).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(prediction, noise).backward()
        table.grad[others] = 0
        torch.nn.utils.clip_grad_norm_([table], 1.0)
        optimizer.step()
    torch.testing.assert_close(rows(run), table[[new]].detach(), rtol=1e-3, atol=1e-5)
    assert (rows(run) - start).abs().max() > 1e-2


def test_only_the_words_path_carries_gradients(backbone):
    denoise, seen = backbone.denoise, []

    def watched(x, sigma, conds):
        seen.append((x.requires_grad, conds[0].tensors["context"].requires_grad))
        return denoise(x, sigma, conds)

    run = Training(TextualInversion(backbone, letter(), CONFIG))
    backbone.denoise = watched
    encoder = backbone.pipeline.text_encoder
    for _ in run.steps():
        assert not any(p.grad is not None for m in (backbone.denoiser, encoder) for p in m.parameters())
    assert seen == [(False, True)] * 3


def test_same_seed_same_word_and_another_seed_another(backbone):
    first, again, other = (trained(backbone, config=configured(seed=seed)) for seed in (4, 4, 5))
    assert torch.equal(rows(first), rows(again)) and not torch.equal(rows(first), rows(other))


def test_what_was_learned_so_far_can_be_asked_for_between_steps(backbone):
    run = Training(TextualInversion(backbone, letter(), CONFIG))
    snapshots = [(step.index + 1, run.learner.result()) for step in run.steps()]
    assert [(number, word.steps) for number, word in snapshots] == [(1, 1), (2, 2), (3, 3)]
    learned = [word.vectors["clip_l"] for _, word in snapshots]
    assert not torch.equal(learned[0], learned[1]) and torch.equal(learned[2], rows(run))
    with pytest.raises(RuntimeError, match="no training under way"):
        run.learner.result()


def test_a_word_goes_on_where_it_was_stopped(backbone):
    config = configured(steps=4, regularization=0.1)
    whole = trained(backbone, config=config)
    first = Training(TextualInversion(backbone, letter(), config))
    with closing(first.steps()) as steps:
        next(steps), next(steps)
        state = first.learner.state()
    second = Training(TextualInversion(backbone, letter(), config))
    assert [step.index for step in second.steps(state)] == [2, 3]
    assert torch.equal(rows(second), rows(whole)) and second.result.steps == 4


def test_several_vectors_start_near_the_word_but_not_alike(backbone):
    word = backbone.word_vectors("c")["clip_l"]
    start = start_vectors(backbone, letter(), 4, CONFIG.seed)["clip_l"]
    assert start.shape == (4, 32) and torch.equal(start[:1], word)
    distances = torch.cdist(start, start)[~torch.eye(4, dtype=bool)]
    assert 0 < distances.min() and distances.max() < 0.15 * word.norm()
    learned = rows(trained(backbone, config=configured(vectors=4)))
    assert learned.shape == (4, 32) and (learned != start).any(dim=1).all()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_norm_is_held_at_the_vocabularys_or_the_initial_words(tmp_path, family):
    backbone = DiffusersBackbone(tiny_pipeline(family, tmp_path), device="cpu")
    limits = longest_norms(backbone, first_vectors(backbone, letter()))
    for name, encoder in zip(backbone.family.encoders, backbone.text.modules(), strict=True):
        table = encoder.get_input_embeddings().weight
        mean = sum(row.norm().item() for row in table) / len(table)
        word = backbone.word_vectors("c")[name]
        assert limits[name] == pytest.approx(max(mean, word.norm().item()), rel=1e-5)
        longest = max(row.norm().item() for row in table)
        for scale, limit in ((9.0, longest), (0.1, mean), (1.0, max(mean, word.norm().item()))):
            old = Embedding("old.safetensors", {e: scale * rows for e, rows in backbone.word_vectors("c").items()})
            start = first_vectors(backbone, letter(initial_embedding=old))
            assert longest_norms(backbone, start)[name] == pytest.approx(limit, rel=1e-5)
    eager = {"learning_rate": 0.2, "steps": 4, "vectors": 2}
    free, held = (trained(backbone, config=configured(hold_norm=on, **eager)) for on in (False, True))
    average = trained(backbone, config=configured(hold_norm=True, ema_decay=0.9, **eager))
    for name, limit in limits.items():
        assert (free.result.vectors[name].norm(dim=-1) > 1.5 * limit).all()
        assert (held.result.vectors[name].norm(dim=-1) <= limit * 1.0001).all()
        assert (average.result.vectors[name].norm(dim=-1) <= limit * 1.0001).all()
    assert TextualInversionConfig().hold_norm


def test_regularization_keeps_the_word_near_its_start(backbone):
    start = start_vectors(backbone, letter(), 1, CONFIG.seed)["clip_l"]
    far, near = (rows(trained(backbone, config=configured(steps=10, regularization=w))) for w in (0.0, 100.0))
    assert (near - start).norm() < 0.5 * (far - start).norm()


def test_a_long_start_is_shortened_before_the_regularization_pulls_to_it(backbone):
    long = Embedding("old.safetensors", {e: 9 * rows for e, rows in backbone.word_vectors("c").items()})
    config = configured(steps=2, regularization=1.0)
    first, second = Training(TextualInversion(backbone, letter(initial_embedding=long), config)).steps()
    assert first.losses["regularization"] == 0 and second.losses["regularization"] < 0.1


def test_gradient_checkpointing_changes_nothing_but_memory(backbone):
    plain, checkpointed = (trained(backbone, config=configured(gradient_checkpointing=on)) for on in (False, True))
    torch.testing.assert_close(rows(plain), rows(checkpointed), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_rows(tmp_path, precision):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu", precision=precision)
    learned = rows(trained(backbone))
    assert learned.dtype == torch.float32 and torch.isfinite(learned).all()
    assert not torch.equal(learned, start_vectors(backbone, letter(), 1, CONFIG.seed)["clip_l"])


# --- what it is learned from ---


def test_objects_and_styles_have_their_own_templates(backbone):
    for kind, other in (("object", "style"), ("style", "object")):
        known = {text.replace("{}", "[W]") for text in TEMPLATES[kind]}
        read = prompts_of(backbone, letter(kind=kind), steps=8)
        assert len(read) == 8 and len(set(read)) > 2 and set(read) <= known  # once a step, whatever the batch
        assert not known & {text.replace("{}", "[W]") for text in TEMPLATES[other]}


def test_own_templates_and_captions_take_their_place(backbone):
    assert set(prompts_of(backbone, letter(templates=("one {}", "two {}")), steps=8)) == {"one [W]", "two [W]"}
    captions = ("{} on a table", "{} in a box")
    concept = letter((64, 64), (64, 128), captions=captions)
    assert set(prompts_of(backbone, concept, steps=8)) == {"[W] on a table", "[W] in a box"}


def test_a_caption_belongs_to_its_image(backbone, monkeypatch):
    """Images of two sizes, which tell which of them a step has drawn."""
    encode, denoise, seen = backbone.encode_prompt, backbone.denoise, []
    monkeypatch.setattr(backbone, "encode_prompt", lambda text, words: (seen.append(text), encode(text, words))[1])
    monkeypatch.setattr(backbone, "denoise", lambda x, *rest: (seen.append(x.shape[-1]), denoise(x, *rest))[1])
    run = Training(
        TextualInversion(backbone, letter((64, 64), (64, 200), captions=("{} x", "{} y")), configured(steps=8))
    )
    seen.clear()
    list(run.steps())
    assert set(zip(seen[::2], seen[1::2], strict=True)) == {("[W] x", 8), ("[W] y", 16)}


def test_what_lies_outside_the_mask_does_not_count(backbone, monkeypatch):
    """A model of whose predictions only the lower half depends on the word."""
    denoise = backbone.denoise

    def lower_half(*inputs):
        denoised = denoise(*inputs)
        return torch.cat([denoised[:, :, :4].detach(), denoised[:, :, 4:]], dim=2)

    monkeypatch.setattr(backbone, "denoise", lower_half)
    upper = torch.zeros(64, 64)
    upper[:32] = 1
    start = start_vectors(backbone, letter(), 1, CONFIG.seed)["clip_l"]
    assert torch.equal(rows(trained(backbone, letter(masks=(upper,)))), start)
    assert not torch.equal(rows(trained(backbone, letter(masks=(1 - upper,)))), start)


def test_an_unfinished_run_of_the_longest_name_is_kept(backbone, tmp_path):
    name = "x" * 100
    run = Training(TextualInversion(backbone, letter(), CONFIG))
    with closing(run.steps()) as steps:
        next(steps)
    path = save_word(run, tmp_path, name)
    assert path.exists() and path.stem.endswith("_step1")


def test_images_may_differ_in_size(backbone):
    run = Training(TextualInversion(backbone, letter((64, 64), (64, 200), (300, 90)), configured(steps=8)))
    assert len(list(run.steps())) == 8 and torch.isfinite(rows(run)).all()


def test_a_word_learned_before_is_where_the_next_run_starts(backbone):
    earlier = Embedding("mine.safetensors", {"emb_params": torch.randn(3, 32)})
    concept = letter(initial_word="", initial_embedding=earlier)
    assert torch.equal(start_vectors(backbone, concept, 1, CONFIG.seed)["clip_l"], earlier.vectors["emb_params"])
    learned = rows(trained(backbone, concept, configured(learning_rate=1e-4)))
    assert learned.shape == (3, 32)
    assert 0 < (learned - earlier.vectors["emb_params"]).abs().max() < 1e-3


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_palp_refines_a_learned_word(tmp_path, family):
    """Pivotal tuning: the placeholder starts from the word, not from its class word."""
    backbone = DiffusersBackbone(tiny_pipeline(family, tmp_path), device="cpu")
    learned = trained(backbone, config=configured(vectors=2)).result.vectors
    subject = Subject(pictures((64, 64)), "cat", initial_embedding=Embedding("learned", learned))
    for rate in (0.0, 1e-4):
        config = PersonalizationConfig(steps=2, resolution=64, rank=2, embedding_learning_rate=rate, hold_norm=False)
        run = Training(Personalization(backbone, [subject], "a sketch of [V]", config))
        list(run.steps())
        for encoder, vectors in run.result.words["[V]"].items():
            moved = (vectors - learned[encoder]).abs().max()
            assert moved < 1e-3 and (moved > 0) == (rate > 0)


# --- what is left alone ---


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("ending", ["closed", "error", "diverged"])
def test_the_model_is_put_back_after_a_broken_run_and_the_word_is_kept(backbone, ending, checkpointing):
    backbone.pipeline.text_encoder.train()  # a state of the user's own, to be kept
    before = fingerprint(backbone)
    run = Training(TextualInversion(backbone, letter(), configured(gradient_checkpointing=checkpointing)))
    steps = run.steps()
    assert next(steps).index == 0
    if ending == "closed":
        steps.close()
    else:
        fails = KeyboardInterrupt if ending == "error" else DivergedError
        breaking(backbone, ending)
        with pytest.raises(fails):
            next(steps)
        del backbone.denoise
    assert same(before, fingerprint(backbone))
    assert run.result.steps == 1
    assert torch.equal(rows(run), rows(trained(backbone, config=configured(steps=1))))


def breaking(backbone, ending: str) -> None:
    denoise = backbone.denoise

    def broken(x, sigma, cond):
        if ending == "error":
            raise KeyboardInterrupt
        return denoise(x, sigma, cond) * float("nan")

    backbone.denoise = broken


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_word": " "}, "initial_word is empty"),
        ({"kind": "person"}, "kind is 'person'"),
        ({"images": ()}, "the concept has no image"),
        ({"images": (torch.zeros(1, 1, 3),)}, "image 1 of the concept is 1 x 1 pixels"),
        ({"masks": (torch.zeros(64, 64),)}, "mask 1 of the concept is all black"),
        ({"captions": ("{} a", "{} b")}, "there are 1 images but 2 captions"),
        ({"captions": ("a cat",)}, r"captions: 'a cat' has no {}"),
        ({"templates": ("a photo of {}", "a photo")}, r"templates: 'a photo' has no {}"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_concepts(arguments, message):
    with pytest.raises(ValueError, match=message):
        Concept(**{"images": pictures((64, 64)), "initial_word": "c", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_word": "cat"}, "initial_word 'cat' is 3 tokens"),
        ({"initial_word": "c a"}, "initial_word 'c a' is 2 tokens"),
        ({"initial_word": "ж"}, "does not know the word 'ж'"),
        ({"templates": ("{} embedding:dog",)}, "names embedding:dog, of which there is no file here"),
        ({"captions": ("{} embedding:dog",)}, "names embedding:dog, of which there is no file here"),
        (
            {"initial_embedding": Embedding("wide.safetensors", {"emb_params": torch.zeros(1, 64)})},
            "wide.safetensors holds clip_l of width 64, but the model has clip_l of width 32",
        ),
        (
            {"initial_embedding": Embedding("long.safetensors", {"emb_params": torch.ones(17, 32)})},
            "long.safetensors has 17 vectors; at most 16",
        ),
        (
            {"initial_embedding": Embedding("empty.safetensors", {"emb_params": torch.zeros(2, 32)})},
            "empty.safetensors holds a vector of zeros",
        ),
        (
            {"initial_embedding": Embedding("xl.safetensors", {k: torch.zeros(1, 32) for k in ("clip_l", "clip_g")})},
            "clip_l of width 32 and clip_g of width 32, but the model has clip_l of width 32",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_input_that_does_not_fit_the_model(backbone, arguments, message):
    with pytest.raises(ValueError, match=message):
        Training(TextualInversion(backbone, letter(**arguments), CONFIG))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"vectors": 0},
        {"vectors": 17},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"regularization": -1.0},
        {"resolution": 32},
    ],
    ids=str,
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TextualInversionConfig(**wrong)


def test_inference_mode_is_refused(backbone):
    run = Training(TextualInversion(backbone, letter(), CONFIG))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        next(run.steps())
