"""Checkpoints in one file: known by their keys, loaded with the configuration that comes with us, or refused."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from devtools.checkpoints import SMALL, write_sd15_checkpoint
from palp_core.errors import FileError, ModelError
from palp_core.models.diffusers import single_file
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.diffusers.loading import load_pipeline
from palp_core.models.diffusers.single_file import INPUT_KEY, SPREAD_KEY, TEXT_KEYS, configuration_folder

#: Numbers of parameters, as they are published: UNet, VAE, text encoders.
PUBLISHED = {
    "sd1": [859_520_964, 83_653_863, 123_060_480],
    "sd2": [865_910_724, 83_653_863, 340_387_840],
    "sdxl": [2_567_463_684, 83_653_863, 123_060_480, 694_659_840],
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_configuration_makes_networks_of_the_published_size(family):
    with configuration_folder(family, {}) as folder, torch.device("meta"):
        unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
        texts = [CLIPTextConfig.from_pretrained(path) for path in sorted(folder.glob("text_encoder*"))]
        kinds = [CLIPTextModel, CLIPTextModelWithProjection]
        encoders = [kind(config) for kind, config in zip(kinds, texts, strict=False)]
        networks = [UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae), *encoders]
    assert [count(network) for network in networks] == PUBLISHED[family]


def test_the_vocabulary_is_clips():
    """Numbers of the tokens as OpenAI's own tokenizer has them, a letter of several bytes among them."""
    with configuration_folder("sd2", {}) as folder:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer("a photo of a cat, été 猫", padding="max_length").input_ids
    assert ids[:13] == [49406, 320, 1125, 539, 320, 2368, 267, 3459, 39694, 163, 234, 360, 49407]
    assert len(tokenizer) == 49408 and ids[-1] == 0  # 2.x fills up with "!"


def test_a_checkpoint_is_loaded_with_what_comes_with_us_and_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    made = configuration_folder

    @contextmanager
    def small(family, changes):
        """The shipped configuration with the sizes of the test's small checkpoint."""
        sizes = {
            "unet/config.json": {
                **{"block_out_channels": [320, 320], "layers_per_block": 1, "attention_head_dim": 8},
                "down_block_types": ["CrossAttnDownBlock2D"] * 2,
                "up_block_types": ["CrossAttnUpBlock2D"] * 2,
            },
            "vae/config.json": {"block_out_channels": list(SMALL.vae_widths)},
            "text_encoder/config.json": {"num_hidden_layers": SMALL.text_layers, "intermediate_size": 768},
        }
        with made(family, {**sizes, **changes}) as folder:
            yield folder

    monkeypatch.setattr(single_file, "configuration_folder", small)
    backbone = DiffusersBackbone(load_pipeline(write_sd15_checkpoint(tmp_path / "a.safetensors", SMALL)), "cpu")
    assert (backbone.family.name, backbone.prediction.name) == ("sd1", "epsilon")
    assert backbone.encode_prompt("a cat", {}).tensors


def described(tmp_path, family: str, *markers: str, channels: int = 4, spread: float | None = None) -> dict:
    """What is read from the keys of a checkpoint: its family, and what is unusual."""
    tensors = {INPUT_KEY: torch.zeros(1, channels, 1, 1), **{key: torch.zeros(1) for key in markers}}
    if family in TEXT_KEYS:
        tensors[TEXT_KEYS[family]] = torch.zeros(1)
    if spread is not None:
        tensors[SPREAD_KEY] = torch.tensor([-spread, spread])
    save_file(tensors, tmp_path / "model.safetensors")
    return single_file._described(tmp_path / "model.safetensors")


def test_what_a_model_predicts_is_read_from_its_keys(tmp_path):
    scheduler = "scheduler/scheduler_config.json"
    assert described(tmp_path, "sd1") == ("sd1", {}) and described(tmp_path, "sdxl", "ztsnr") == ("sdxl", {})
    assert described(tmp_path, "sdxl", "v_pred")[1] == {scheduler: {"prediction_type": "v_prediction"}}
    assert described(tmp_path, "sdxl", "v_pred", "ztsnr")[1] == {
        scheduler: {
            **{"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            "timestep_spacing": "trailing",
        }
    }
    assert described(tmp_path, "sd2", spread=0.2) == ("sd2", {})
    base = described(tmp_path, "sd2", spread=0.05)[1]
    assert base == {scheduler: {"prediction_type": "epsilon"}, "unet/config.json": {"sample_size": 64}}


def test_what_changes_is_in_the_folder(tmp_path):
    with configuration_folder("sdxl", {"unet/config.json": {"sample_size": 7}}) as folder:
        assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == 7
        assert (folder / "tokenizer_2" / "merges.txt").exists()
    assert not folder.exists()


def test_other_checkpoints_are_refused_with_the_remedy(tmp_path):
    for changes, message in (
        ({"family": "sd1", "channels": 9}, "takes 9 channels for latents of 4: it is an inpainting or editing model"),
        ({"family": "refiner"}, r"without the text encoders of .* as the SDXL refiner does\. Give a whole checkpoint"),
    ):
        with pytest.raises(ModelError, match=message):
            described(tmp_path, **changes)
    file = tmp_path / "flux.safetensors"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match=r"is no checkpoint of .* Give other models as a folder"):
        load_pipeline(file)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(FileError, match=r"flux\.safetensors cannot be read"):
        load_pipeline(file)


def test_a_smaller_model_made_of_a_family_is_refused_by_its_shape(tmp_path):
    with pytest.raises(ModelError, match="is not laid out as Stable Diffusion is"):
        load_pipeline(write_sd15_checkpoint(tmp_path / "small.safetensors", SMALL))
