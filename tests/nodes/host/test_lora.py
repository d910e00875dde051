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
    from palp_pack.nodes.host.lora_loading import report

    model, clip = parts
    file, before = file_with(tmp_path, model), weights(model)
    patched, _, left_out = apply_lora_file(model, clip, file, 1.0)
    assert report(file, left_out) == "2 of 2 keys matched. Words: embedding:cat_00001"
    assert changed(before, patched) == set(weight_keys(model).values())


def test_a_projection_that_the_model_does_not_have_is_named_and_not_counted(parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.nodes.host.lora_loading import report

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
    from palp_pack.nodes.host.lora_loading import report

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


def encoded(clip, prompt: str) -> torch.Tensor:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0]


def with_word(file, clip):
    """The file with a word of this CLIP's width."""
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.shape[-1]
    return replace(file, words={name: {"clip_l": torch.randn(2, width)} for name in file.words})


def test_the_word_goes_from_its_class_word_to_what_was_learned(parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file

    model, clip = parts
    file = with_word(file_with(tmp_path, model), clip)

    def word(strength: float) -> torch.Tensor:
        known = apply_lora_file(model, clip, file, 1.0, strength)[1]
        return torch.stack([vector for vector, _ in known.tokenize("embedding:cat_00001")["l"][0][1:3]])

    class_token = clip.tokenize("cat")["l"][0][1][0]
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    learned, start = file.words["cat_00001"]["clip_l"], table[class_token].detach().float()
    torch.testing.assert_close(word(1.0), learned)
    torch.testing.assert_close(word(0.0), start.expand(2, -1))
    torch.testing.assert_close(word(0.5), (learned + start) / 2)


def bundle_of(file, folder, **words):
    """The file as another tool would write it, with the words by the ends of their keys."""
    from palp_pack.palp_core.files.bundled_words import load_bundle
    from safetensors.torch import save_file

    tensors = {f"bundle_emb.{name}.{end}": rows.clone() for name, ends in words.items() for end, rows in ends.items()}
    path = folder / "other.safetensors"
    save_file({**file.lora, **tensors}, path, {"ss_network_dim": "4"})
    return load_bundle(path)


@pytest.mark.parametrize("end", ["string_to_param.*", "emb_params", "clip_l"])
def test_another_tools_file_gives_the_same_weights_and_knows_its_words(parts, tmp_path, end):
    from palp_pack.nodes.host.lora import apply_bundle, apply_lora_file

    model, clip = parts
    file = with_word(file_with(tmp_path, model), clip)
    rows = file.words["cat_00001"]["clip_l"]
    bundle = bundle_of(file, tmp_path, ohwx={end: rows}, **{"a.style": {end: rows[:1]}})
    assert bundle.spelled == ["embedding:a.style", "embedding:ohwx"]
    ours, ours_clip, _ = apply_lora_file(model, clip, file, 0.5)
    theirs, theirs_clip, applied, total = apply_bundle(model, clip, bundle, 0.5)
    assert (applied, total) == (2, 2)
    before = weights(model)
    assert changed(before, ours) == set(weight_keys(model).values())
    wanted = weights(ours)
    model.detach()
    assert changed(before, theirs) == set(weight_keys(model).values())
    assert all(torch.equal(wanted[key].cpu(), value.cpu()) for key, value in weights(theirs).items())
    mine, other = encoded(ours_clip, "a embedding:cat_00001"), encoded(theirs_clip, "a embedding:ohwx")
    torch.testing.assert_close(mine, other)
    assert not torch.equal(other, encoded(clip, "a embedding:ohwx"))


def test_another_tools_file_that_does_not_fit_is_refused(make, parts, tmp_path):
    from palp_pack.nodes.host.lora import apply_bundle
    from palp_pack.palp_core.errors import FileError, ModelError

    model, clip = parts
    file = with_word(file_with(tmp_path, model, lambda lora: renamed(lora, KEY, "lora_unet_elsewhere")), clip)
    rows = file.words["cat_00001"]["clip_l"]
    assert apply_bundle(model, clip, bundle_of(file, tmp_path, ohwx={"clip_l": rows}), 1.0)[2] == 1
    with pytest.raises(ModelError, match=r"holds words for clip_l of width 5\. Connect the CLIP"):
        apply_bundle(model, clip, bundle_of(file, tmp_path, ohwx={"clip_l": rows[:, :5]}), 1.0)
    with pytest.raises(ModelError, match="holds words for clip_g of width"):
        apply_bundle(model, clip, bundle_of(file, tmp_path, ohwx={"clip_l": rows, "clip_g": rows}), 1.0)
    renamed(file.lora, QUERY, "lora_unet_nowhere")
    with pytest.raises(ModelError, match="none of the file's LoRA keys fits this model"):
        apply_bundle(model, clip, bundle_of(file, tmp_path, ohwx={"clip_l": rows}), 1.0)
    with pytest.raises(FileError, match=r"was not made by PALP, and has no words inside\. Use ComfyUI's Load LoRA"):
        bundle_of(file, tmp_path)
    with pytest.raises(FileError, match="holds the word a b, which no prompt can name"):
        bundle_of(file, tmp_path, **{"a b": {"clip_l": rows}})
    with pytest.raises(FileError, match="different numbers of vectors"):
        bundle_of(file, tmp_path, ohwx={"clip_l": rows, "clip_g": rows[:1]})
