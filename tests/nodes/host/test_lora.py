"""A PALP file on the host's MODEL: what is counted as matched is what the host has really changed."""

from __future__ import annotations

import pytest
import torch

from devtools import host_models
from devtools.random_files import RANK, random_lora_file, rewrite
from devtools.random_models import tiny_pipeline

pytestmark = pytest.mark.host

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def parts(host, comfyui_path, tmp_path):
    """MODEL and CLIP with random weights."""
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    pipeline = tiny_pipeline("sd1", tmp_path, make_tokenizer=make_tokenizer)
    return host_models.host_parts(pipeline, "sd1", "epsilon")[:2]


def weight_keys(model) -> dict[str, str]:
    import comfy.lora

    return {name: comfy.lora.model_lora_keys_unet(model.model, {})[name] for name in (QUERY, KEY)}


def file_with(tmp_path, model, change=lambda lora: None):
    """A PALP file for two projections of the model, as it is read again; change: its LoRA."""
    from palp_pack.palp_core import load_lora_file

    def put(tensors, metadata) -> None:
        for key in [key for key in tensors if key.startswith("lora_")]:
            del tensors[key]
        lora = {}
        for name, key in weight_keys(model).items():
            out, inputs = model.model.state_dict()[key].shape
            lora[f"{name}.lora_down.weight"] = torch.randn(RANK, inputs)
            lora[f"{name}.lora_up.weight"] = torch.randn(out, RANK)
            lora[f"{name}.alpha"] = torch.tensor(float(RANK))
        change(lora)
        tensors |= lora

    return load_lora_file(rewrite(random_lora_file(tmp_path), put))


def renamed(lora: dict, name: str, to: str) -> None:
    for key in [key for key in lora if key.startswith(name)]:
        lora[key.replace(name, to)] = lora.pop(key)


def changed(before: dict, model) -> set[str]:
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    return {key for key, value in model.model.state_dict().items() if not torch.equal(value.cpu(), before[key])}


def weights(model) -> dict:
    return {key: value.clone() for key, value in model.model.state_dict().items()}


def test_every_key_that_is_counted_has_changed_its_weight(parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.nodes.load_lora import report

    model, clip = parts
    file, before = file_with(tmp_path, model), weights(model)
    patched, _, left_out = apply_lora_file(model, clip, file, 1.0)
    assert report(file, left_out) == "2 of 2 keys matched. Words: embedding:cat_00001"
    assert changed(before, patched) == set(weight_keys(model).values())


def test_a_projection_that_the_model_does_not_have_is_named_and_not_counted(parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.nodes.load_lora import report

    model, clip = parts
    file = file_with(tmp_path, model, lambda lora: renamed(lora, KEY, "lora_unet_elsewhere"))
    before = weights(model)
    patched, _, left_out = apply_lora_file(model, clip, file, 1.0)
    assert left_out == ["lora_unet_elsewhere"]
    assert report(file, left_out).startswith("1 of 2 keys matched; the model does not have lora_unet_elsewhere.")
    assert changed(before, patched) == {weight_keys(model)[QUERY]}


def wider(lora: dict) -> None:
    lora[f"{KEY}.lora_down.weight"] = torch.randn(RANK, 48)


def turned(lora: dict) -> None:
    """Of as many numbers as the weight, which the host would pour into it in the wrong order."""
    lora[f"{KEY}.lora_down.weight"], lora[f"{KEY}.lora_up.weight"] = torch.randn(RANK, 16), torch.randn(64, RANK)


@pytest.mark.parametrize("change", [wider, turned])
def test_a_projection_of_another_shape_is_refused_by_name(parts, tmp_path, change):
    from palp_pack.nodes.host.lora import apply_lora_file

    model, clip = parts
    file, before = file_with(tmp_path, model, change), weights(model)
    with pytest.raises(ValueError, match=rf"{KEY}.*the model's is 32 x 32.*made for sd1"):
        apply_lora_file(model, clip, file, 1.0)
    assert not model.patches and all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_a_lora_with_one_nan_is_refused_before_it_is_on_a_model(parts, tmp_path):
    def put(lora: dict) -> None:
        lora[f"{KEY}.lora_up.weight"][0, 0] = float("nan")

    with pytest.raises(ValueError, match=rf"cat_00001\.safetensors is damaged: {KEY}\.lora_up\.weight"):
        file_with(tmp_path, parts[0], put)
