"""A PALP file on the host's MODEL: what is counted as matched is what the host has really changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools import host_models
from devtools.random_files import RANK, random_lora_file, rewrite
from devtools.random_models import tiny_pipeline

pytestmark = pytest.mark.host

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def make(host, comfyui_path, tmp_path):
    """Maker of MODEL and CLIP with random weights."""

    def made(family: str) -> tuple:
        make_tokenizer = host_models.host_tokenizer(comfyui_path)
        pipeline = tiny_pipeline(family, tmp_path / family, make_tokenizer=make_tokenizer)
        return host_models.host_parts(pipeline, family, "epsilon")[:2]

    return made


@pytest.fixture
def parts(make):
    return make("sd1")


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


@pytest.mark.parametrize(
    ("trained", "loaded", "message"),
    [
        ("sd1", "sdxl", r"checkpoint of Stable Diffusion 1\.x, .* trained on SDXL, which model is of"),
        ("sd1", "sd2", r"checkpoint of Stable Diffusion 1\.x, .* trained on Stable Diffusion 2\.x, which model is of"),
        ("z_image", "sd1", r"checkpoint of Z-Image, .* trained on Stable Diffusion 1\.x, which model is of"),
        ("toy_flow", "sdxl", r"checkpoint of the demo world's transformer, .* trained on SDXL"),
    ],
)
def test_a_file_of_another_family_is_refused_before_anything_is_applied(
    make, parts, tmp_path, trained, loaded, message
):
    """Even where keys match, as those of Stable Diffusion 1.x in SDXL do."""
    from palp_pack.nodes.host.lora import apply_lora_file

    file = file_with(tmp_path, parts[0])
    file = replace(file, info=replace(file.info, family=trained))
    model, clip = make(loaded)
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        apply_lora_file(model, clip, file, 1.0)
    assert not model.patches and changed(before, model) == set()


def test_a_clip_of_another_family_is_refused(make, parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file

    with pytest.raises(ValueError, match=r"clip \(SDXLClipModel\) does not belong to model \(SD15\)"):
        apply_lora_file(parts[0], make("sdxl")[1], file_with(tmp_path, parts[0]), 1.0)


def test_a_model_that_is_not_supported_is_compared_key_by_key(parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.nodes.load_lora import report

    class OfAnotherKind(type(parts[0].model)):
        """As the host's classes of editing models are."""

    model, clip = parts
    file = file_with(tmp_path, model)
    model.model.__class__ = OfAnotherKind
    _, _, left_out = apply_lora_file(model, clip, file, 1.0)
    assert report(file, left_out).startswith("2 of 2 keys matched.")


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
