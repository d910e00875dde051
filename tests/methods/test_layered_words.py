"""P+ and NeTI: each layer of a UNet reads the prompt with a word of its own, and no trace of that stays behind."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from devtools.random_flow_models import tiny_flow_pipeline
from devtools.random_models import fingerprint, pictures, same, tiny_pipeline
from palp_core.errors import ModelError
from palp_core.methods.concept import Concept
from palp_core.methods.layered_words.learner import LayeredWord
from palp_core.methods.layered_words.neti import BYPASS_SHARE, NetiConfig, NetiWord, kept
from palp_core.methods.layered_words.p_plus import PPlusConfig, PPlusWord
from palp_core.methods.result import word_identity
from palp_core.methods.templates import WORD
from palp_core.models.backbone import guided_noise
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.families import FLUX
from palp_core.models.layer_contexts import Reading, layered, read_by_layer, text_layers
from palp_core.training.loop import Training

CONFIGS = [
    PPlusConfig(steps=2, resolution=64, batch_size=2),
    NetiConfig(steps=2, resolution=64, gradient_accumulation=1),
]
TEXT = f"a photo of a {WORD} in paris"
SIGMA = torch.tensor([1.5])


def backbone_of(family: str, folder) -> DiffusersBackbone:
    return DiffusersBackbone(tiny_pipeline(family, folder), device="cpu")


@pytest.fixture
def backbone(tmp_path) -> DiffusersBackbone:
    return backbone_of("sd1", tmp_path)


def method(backbone, config) -> LayeredWord:
    return LayeredWord(backbone, Concept(pictures((64, 64), (96, 64)), "c"), config)


def layers_of(backbone) -> list:
    return list(text_layers(backbone.denoiser, "P+").values())


def hooks(backbone) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in backbone.denoiser.modules())


def latents() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def read(backbone, cond) -> list[tuple]:
    """What the keys and the values of each layer take in, in a run of the network."""
    layers, taken = layers_of(backbone), []
    parts = [part for layer in layers for part in (layer.to_k, layer.to_v)]
    with read_by_layer(layers), torch.no_grad():
        handles = [part.register_forward_hook(lambda _m, inputs, _out: taken.append(inputs[0])) for part in parts]
        backbone.denoise(latents(), SIGMA, [cond])
    for handle in handles:
        handle.remove()
    return list(zip(taken[::2], taken[1::2], strict=True))


def word_of(backbone, kind: type, config) -> PPlusWord | NetiWord:
    return kind(backbone, backbone.word_vectors("c"), len(layers_of(backbone)), config)


# --- what a layer reads ---


def test_a_layer_alone_reads_the_embedding_that_is_its_own(backbone):
    word = word_of(backbone, PPlusWord, CONFIGS[0])
    before = read(backbone, *word.encode([TEXT], SIGMA))
    assert len(before) == len(word.vectors["clip_l"]) > 2
    with torch.no_grad():
        word.vectors["clip_l"][1] += 0.1
    after = read(backbone, *word.encode([TEXT], SIGMA))
    for number, pairs in enumerate(zip(before, after, strict=True)):
        assert [torch.equal(*pair) for pair in zip(*pairs, strict=True)] == [number != 1] * 2


def test_layers_are_in_the_order_in_which_they_run(backbone):
    layers, ran = text_layers(backbone.denoiser, "P+"), []
    handles = [layer.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, layer in layers.items()]
    backbone.denoise(latents(), SIGMA, [backbone.encode_prompt("a cat", {})])
    assert ran == list(layers) and ran[-1].startswith("up_blocks")
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("family", "text"), [("sd1", TEXT), ("sd1", " ".join([TEXT] * 9)), ("sdxl", TEXT)])
def test_one_embedding_in_all_layers_is_textual_inversion(tmp_path, family, text):
    backbone = backbone_of(family, tmp_path)
    word, learned = word_of(backbone, PPlusWord, CONFIGS[0]), backbone.word_vectors("c")
    null, cond = (backbone.encode_prompt(t, {WORD: learned}) for t in ("", text))
    assert (cond.tensors["context"].shape != null.tensors["context"].shape) == (text != TEXT), "of several windows"
    with torch.no_grad():
        expected = guided_noise(backbone.denoise, latents(), SIGMA, null, cond, 3.0)
        layers = layers_of(backbone)
        with read_by_layer(layers):
            (told,), empty = word.encode([text], SIGMA), layered([Reading(null, null)] * len(layers))
            found = guided_noise(backbone.denoise, latents(), SIGMA, empty, told, 3.0)
    if family == "sdxl":  # whose pooled texts are averaged
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


def test_the_mappers_word_depends_on_time_and_layer_and_is_as_long_as_the_class_word(monkeypatch, backbone):
    word, encode, seen = word_of(backbone, NetiWord, CONFIGS[1]), backbone.encode_prompt, []
    count = len(layers_of(backbone))

    def spy(prompt, words):
        seen.append(words[WORD]["clip_l"].detach())
        return encode(prompt, words)

    monkeypatch.setattr(backbone, "encode_prompt", spy)
    word.encode([TEXT, TEXT], torch.tensor([0.2, 5.0]))
    words = torch.cat(seen)
    assert len(words) == 2 * count
    assert torch.pdist(words).min() > 0.01
    torch.testing.assert_close(words.norm(dim=-1), backbone.word_vectors("c")["clip_l"].norm().expand(2 * count))


def test_the_bypass_moves_the_words_token_alone_and_only_for_the_values(backbone):
    cond = word_of(backbone, NetiWord, CONFIGS[1]).encode([TEXT], SIGMA)[0]
    (at,) = backbone.token_positions(TEXT, WORD, {WORD: backbone.word_vectors("c")})
    for keys, values in read(backbone, cond):
        moved = (values - keys)[0].norm(dim=-1)
        assert moved[at] == pytest.approx(BYPASS_SHARE * keys[0, at].norm().item(), rel=1e-4)
        assert moved.count_nonzero() == 1


def test_nested_dropout_leaves_the_first_numbers_of_about_half(backbone):
    left = kept(torch.ones(50, 8, 16), torch.Generator().manual_seed(0))
    assert (left.diff(dim=-1) <= 0).all() and 0.4 < (left.sum(dim=-1) < 16).float().mean() < 0.6
    word = word_of(backbone, NetiWord, CONFIGS[1])
    t = torch.tensor([300.0])
    assert torch.equal(word.mapper(t), word.mapper(t))
    assert not torch.equal(word.mapper(t, torch.Generator().manual_seed(0)), word.mapper(t))


# --- the training ---


@pytest.mark.parametrize("config", CONFIGS, ids=["p_plus", "neti"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_it_goes_on_bit_by_bit_and_leaves_the_model_as_it_was(tmp_path, family, config):
    backbone = backbone_of(family, tmp_path)
    backbone.encode_prompt("a cat", {})  # from then on transformers has hooks of its own
    before, hooked = fingerprint(backbone), hooks(backbone)
    whole = Training(method(backbone, replace(config, gradient_checkpointing=True)))
    assert [step.index for step in whole.steps()] == [0, 1]
    start = Training(method(backbone, replace(config, steps=1)))
    with closing(start.steps()) as steps:
        next(steps)
        state = {name: tensor.clone() for name, tensor in start.learner.state().items()}
    second = Training(method(backbone, config))
    drawn = [second.learner.draw("a [V]", "[V]", 2.0, 5, 2) for _ in second.steps(state)]
    assert [picture.shape for picture in drawn] == [(64, 64, 3)]
    assert whole.result.tensors.keys() == second.result.tensors.keys()
    for name, tensor in whole.result.tensors.items():
        assert torch.equal(tensor, second.result.tensors[name]), name
    assert same(before, fingerprint(backbone)) and hooks(backbone) == hooked


def test_each_layers_embedding_learns(backbone):
    run = Training(method(backbone, CONFIGS[0]))
    list(run.steps())
    (learned,) = run.result.tensors.values()
    assert (learned - backbone.word_vectors("c")["clip_l"]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert torch.pdist(learned.flatten(1)).min() > 0


@pytest.mark.parametrize(("config", "times"), [(CONFIGS[0], 1), (CONFIGS[1], 3)], ids=["p_plus", "neti"])
def test_a_prompt_is_encoded_anew_where_the_word_depends_on_the_noise_level(monkeypatch, backbone, config, times):
    run, encode, texts = Training(method(backbone, config)), backbone.encode_prompt, []
    with closing(run.steps()) as steps:
        next(steps)
        monkeypatch.setattr(backbone, "encode_prompt", lambda *args: texts.append(args[0]) or encode(*args))
        run.learner.draw("a [V] in paris", "[V]", 2.0, 5, steps=3)
    assert texts.count(f"a {WORD} in paris") == times * len(layers_of(backbone))


def test_a_training_is_known_by_which_of_them_it_is(backbone):
    of = {"learning_rate": 1e-3, "batch_size": 2, "gradient_accumulation": 1}
    both = [word_identity(method(backbone, replace(config, **of)), "word") for config in CONFIGS]
    assert both[0] != both[1]


@pytest.mark.parametrize("config", CONFIGS, ids=["p_plus", "neti"])
def test_an_error_leaves_no_hook(monkeypatch, backbone, config):
    before = hooks(backbone)
    run = Training(method(backbone, config))
    monkeypatch.setattr(backbone, "denoise", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        list(run.steps())
    assert hooks(backbone) == before


def test_a_transformer_is_refused_by_name(tmp_path):
    backbone = DiffusersBackbone(tiny_flow_pipeline(FLUX.name, tmp_path), device="cpu")
    for config, name in zip(CONFIGS, (r"P\+", "NeTI"), strict=True):
        with pytest.raises(ModelError, match=f"{name} learns a word for each layer that attends to the prompt, but"):
            method(backbone, config)
