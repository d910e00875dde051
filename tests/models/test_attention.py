"""Maps of a word against diffusers' own attention scores, and heat maps made of them."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from devtools.random_models import TOKENS, tiny_pipeline
from palp_core.methods.heatmap import HeatMaps, overlay, word_heat, word_share
from palp_core.models.attention import (
    cross_attention_layers,
    is_decoder,
    layer_grid,
    min_max,
    recorded_attention,
    token_shares,
)
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.prompts import find_tokens

PROMPT = "a cat on a mat"


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def backbone(request, tmp_path_factory):
    return DiffusersBackbone(tiny_pipeline(request.param, tmp_path_factory.mktemp("tiny")), device="cpu")


class Scores(AttnProcessor):
    """diffusers' plain attention, which hands its scores over."""

    def __init__(self):
        self.seen: list[torch.Tensor] = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        original = attn.get_attention_scores

        def spy(*args):
            scores = original(*args)
            self.seen.append(scores.detach().unflatten(0, (-1, attn.heads)).mean(dim=1))  # (B, N, T)
            return scores

        attn.get_attention_scores = spy
        try:
            return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)
        finally:
            del attn.get_attention_scores


def hooks(network) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_maps_are_the_scores_of_the_network(backbone):
    x, sigma = latents(2, 4, 8, 12), torch.tensor([3.0, 3.0])
    cond = backbone.encode_prompt(PROMPT, {})
    tokens = backbone.token_positions(PROMPT, "cat", {})
    with torch.no_grad(), recorded_attention(backbone.denoiser, tokens, keep_features=is_decoder) as layers:
        backbone.denoise(x, sigma, [cond])
    own = backbone.denoiser.attn_processors
    spies = {f"{name}.processor": Scores() for name in cross_attention_layers(backbone.denoiser)}
    backbone.denoiser.set_attn_processor({**own, **spies})
    try:
        with torch.no_grad():
            backbone.denoise(x, sigma, [cond])
    finally:
        backbone.denoiser.set_attn_processor(own)
    assert layers.keys() == {name.removesuffix(".processor") for name in spies}
    for name, layer in layers.items():
        (scores,) = spies[f"{name}.processor"].seen
        torch.testing.assert_close(layer.maps.flatten(2).mT, scores[:, :, list(tokens)], rtol=1e-3, atol=1e-6)
        assert layer.maps.shape[-2] / layer.maps.shape[-1] == 8 / 12
        assert (layer.features is not None) == is_decoder(name) == name.startswith("up_blocks.")


def test_chosen_rows_only(backbone):
    """The conditional half of a CFG batch gives the same maps as a run of its own."""
    x, sigma = latents(2, 4, 8, 8), torch.tensor([1.0, 1.0])
    null, cond = (backbone.encode_prompt(p, {}) for p in ("", PROMPT))
    tokens = backbone.token_positions(PROMPT, "cat", {})
    with torch.no_grad():
        with recorded_attention(backbone.denoiser, tokens) as alone:
            backbone.denoise(x, sigma, [cond])
        with recorded_attention(backbone.denoiser, tokens, rows=torch.tensor([2, 3])) as chosen:
            backbone.denoise(torch.cat([x, x]), torch.cat([sigma, sigma]), [null, cond])
    for name in alone:
        torch.testing.assert_close(chosen[name].maps, alone[name].maps)


def test_a_prompt_that_stands_twice_counts_once():
    q, k = torch.randn(1, 6, 8), torch.randn(1, 5, 8)
    torch.testing.assert_close(token_shares(q, k.repeat(1, 2, 1), 2, repeats=2), token_shares(q, k, 2))
    torch.testing.assert_close(token_shares(q, k, 2).sum(-1), torch.ones(1, 6))


def test_maps_are_differentiable_in_the_latents(backbone):
    x = latents(1, 4, 8, 8).requires_grad_()
    cond = backbone.encode_prompt(PROMPT, {})
    with recorded_attention(backbone.denoiser, (2,)) as layers:
        backbone.denoise(x, torch.tensor([1.0]), [cond])
    (gradient,) = torch.autograd.grad(sum(layer.maps.square().sum() for layer in layers.values()), x)
    assert gradient.abs().max() > 0


def test_hooks_are_gone_and_the_result_is_the_same(backbone):
    x, sigma, cond = latents(1, 4, 8, 8), torch.tensor([1.0]), backbone.encode_prompt(PROMPT, {})
    before = hooks(backbone.denoiser)
    with torch.no_grad():
        plain = backbone.denoise(x, sigma, [cond])
        with recorded_attention(backbone.denoiser, (1,)):
            recorded = backbone.denoise(x, sigma, [cond])
    assert torch.equal(plain, recorded)
    with pytest.raises(RuntimeError, match="stop"), recorded_attention(backbone.denoiser, (1,)):
        raise RuntimeError("stop")
    assert hooks(backbone.denoiser) == before


def test_a_network_that_passes_by_its_layers_is_named(backbone):
    with (
        pytest.raises(ValueError, match="model is compiled"),
        recorded_attention(backbone.denoiser, (1,)),
    ):
        pass  # the compiled copy would run here


def test_a_network_without_text_attention_is_named():
    with pytest.raises(ValueError, match="model is compiled"), recorded_attention(torch.compile(nn.Linear(1, 1)), (1,)):
        pass
    with pytest.raises(ValueError, match=r"model \(Linear\) has no text attention"):
        cross_attention_layers(torch.nn.Linear(1, 1))


def test_grids_of_odd_sizes():
    assert [layer_grid(n, (9, 15)) for n in (135, 40, 12)] == [(9, 15), (5, 8), (3, 4)]
    assert layer_grid(6 * 11, (9, 16)) == (6, 11)  # scaled to two thirds
    with pytest.raises(ValueError, match="no grid like that of latents of 15 x 9"):
        layer_grid(41, (9, 15))


def test_positions_of_words_and_placeholders(backbone):
    """The tokenizer of the tests spells: one token a letter, and one start token before them."""
    assert backbone.token_positions("a cat", "a", {}) == (1,)  # not the letter inside the word
    assert backbone.token_positions("a cat, a cat", "cat", {}) == (2, 3, 4, 7, 8, 9)
    assert backbone.token_positions("a red cat", "red cat", {}) == tuple(range(2, 8))
    vectors = {"[V]": {e: torch.zeros(2, v.shape[-1]) for e, v in backbone.word_vectors("cat").items()}}
    assert backbone.token_positions("my [V] and me", "[V]", vectors) == (3, 4)
    for word in ("dog", "ca", "[V]", ""):
        with pytest.raises(ValueError, match=f"the word '{word}' is not in the prompt".replace("[", r"\[")):
            backbone.token_positions("a cat", word, {})
    window = TOKENS - 2
    assert backbone.token_positions("o " * window + "cat", "cat", {}) == tuple(range(TOKENS + 1, TOKENS + 4))


def test_vectors_among_the_tokens_are_found():
    v, w = torch.ones(3), torch.zeros(3)
    assert find_tokens([5, v, w, 7, v, w], [v.clone(), w.clone()]) == [1, 2, 4, 5]
    assert find_tokens([5, v], [w]) == []
    assert find_tokens([5, v], []) == []


def test_heat_is_the_mean_over_steps_layers_and_copies(backbone):
    sigma, cond = torch.tensor([1.0, 1.0]), backbone.encode_prompt(PROMPT, {})
    tokens = backbone.token_positions(PROMPT, PROMPT, {})
    heat, wanted = HeatMaps(), 0
    for step in range(2):
        with torch.no_grad(), recorded_attention(backbone.denoiser, tokens) as layers:
            backbone.denoise(latents(2, 4, 8, 12) + step, sigma, [cond])
        heat.add(layers, (8, 12), batch=2)
        parts = [torch.nn.functional.interpolate(y.maps, (8, 12), mode="bilinear") for y in layers.values()]
        wanted = wanted + torch.stack(parts).mean(0) / 2
    assert heat.runs == 2
    torch.testing.assert_close(heat.maps, wanted)
    both = HeatMaps()
    both.add({n: y._replace(maps=torch.cat([y.maps, y.maps])) for n, y in layers.items()}, (8, 12), batch=2)
    assert both.maps.shape == (2, len(tokens), 8, 12)
    torch.testing.assert_close(word_share(heat.maps, list(range(len(tokens)))), torch.ones(2))


def test_a_hot_place_shows_in_the_overlay():
    maps = torch.full((1, 2, 4, 4), 0.1)
    maps[0, 1, :2, :2] = 0.9
    heat = word_heat(maps, [1], (32, 32))
    assert heat[0, :12, :12].min() > 0.5 > 0.05 > heat[0, 20:, 20:].max()
    picture = overlay(torch.full((1, 32, 32, 3), 0.5), heat, 0.5)
    assert picture[0, 4, 4].mean() > picture[0, 28, 28].mean() + 0.2
    assert torch.equal(overlay(torch.full((1, 32, 32, 3), 0.5), heat, 0.0), torch.full((1, 32, 32, 3), 0.5))
    assert word_share(maps, [0]).item() == pytest.approx(1.6 / (1.6 + 4 * 0.9 + 12 * 0.1))


def test_a_word_of_the_background_is_found_against_the_things_in_it():
    maps = torch.full((1, 2, 4, 4), 0.1)  # the first word is looked at everywhere, the second at its thing
    maps[0, 1, :2, :2] = 0.9
    assert word_heat(maps, [0], (4, 4)).max() == 0
    heat = word_heat(maps, [0], (4, 4), against=[1])
    assert heat[0, 3, 3] == 1 and heat[0, 0, 0] == 0


def test_only_the_layers_that_are_asked_for_are_recorded(backbone):
    cond = backbone.encode_prompt(PROMPT, {})
    with torch.no_grad(), recorded_attention(backbone.denoiser, (1,), only=is_decoder) as layers:
        backbone.denoise(latents(1, 4, 8, 8), torch.ones(1), [cond])
    assert layers and all(name.startswith("up_blocks.") for name in layers)


def test_a_flat_map_is_cold():
    assert torch.equal(min_max(torch.full((1, 3, 3), 0.2)), torch.zeros(1, 3, 3))
