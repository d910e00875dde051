"""The saved file: what it holds, that other tools read it, and that nothing is lost or overwritten."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devtools.faults.seams import no_space
from devtools.random_models import pictures, tiny_pipeline
from palp_core import Personalization, PersonalizationConfig, Subject, load_lora_file, save_run
from palp_core.files import writing
from palp_core.files.safetensors_file import reserve
from palp_core.methods.result import described_config
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.lora import attached_lora
from palp_core.training.loop import Training

PROMPT = "a sketch of [V], in Paris"
CONFIG = PersonalizationConfig(steps=4, resolution=64, rank=4, learning_rate=1e-2, embedding_learning_rate=1e-2, seed=7)


def trained(family, folder, prompt=PROMPT, subjects=None, targets="attention") -> Personalization:
    prediction = "v_prediction" if family == "sd2" else "epsilon"
    backbone = DiffusersBackbone(tiny_pipeline(family, folder, prediction), device="cpu")
    config = replace(CONFIG, targets=targets)
    run = Training(Personalization(backbone, subjects or [Subject(pictures((64, 64)), "cat")], prompt, config))
    list(run.steps())
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained("sd1", tmp_path_factory.mktemp("sd1"))


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("targets", ["attention", "attention+ff+proj"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_loads_the_lora_and_gives_the_trained_models_prediction(family, targets, tmp_path):
    run = trained(family, tmp_path, targets=targets)
    path = save_run(run, tmp_path / "loras", "cat")
    assert load_lora_file(path).info.settings["targets"] == targets
    backbone = run.method.backbone
    cond = backbone.encode_prompt("a cat", {})
    x, sigma = torch.randn(1, 4, 8, 8), torch.tensor([1.0])
    with torch.no_grad():
        untouched = backbone.denoise(x, sigma, [cond])
        with attached_lora(backbone, CONFIG.rank, 0, targets) as lora:
            for name, (layer,) in lora.layers.items():
                layer.lora_A["palp"].weight.data = run.result.lora[f"{name}.lora_down.weight"]
                layer.lora_B["palp"].weight.data = run.result.lora[f"{name}.lora_up.weight"]
            expected = backbone.denoise(x, sigma, [cond])
        lora_keys = {k: v for k, v in load_file(path).items() if not k.startswith("bundle_emb.")}
        backbone.pipeline.load_lora_weights(lora_keys)
        loaded = backbone.denoise(x, sigma, [cond])
    effect = (expected - untouched).norm()
    assert effect > 1e-3
    assert (loaded - expected).norm() < 0.01 * effect  # the file is fp16


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_is_read_is_what_was_learned(family, tmp_path):
    run = trained(family, tmp_path)
    file = load_lora_file(save_run(run, tmp_path, "cat"))
    assert file.lora.keys() == run.result.lora.keys()
    assert file.projections * 3 == len(file.lora)
    for key, value in run.result.lora.items():
        torch.testing.assert_close(file.lora[key].float(), value, rtol=1e-3, atol=1e-7)
    names = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-768-v", "sdxl": "stable-diffusion-xl-v1-base"}
    assert metadata(tmp_path / "cat_00001.safetensors")["modelspec.architecture"] == f"{names[family]}/lora"
    (name,) = file.words
    assert file.words[name].keys() == set(run.method.backbone.family.encoders)
    for encoder, vectors in run.result.words["[V]"].items():
        torch.testing.assert_close(file.words[name][encoder], vectors, rtol=1e-3, atol=1e-6)


def test_the_file_describes_itself(run, tmp_path):
    path = save_run(run, tmp_path, "my_cat")
    assert path.name == "my_cat_00001.safetensors"
    info = load_lora_file(path).info
    assert (info.family, info.rank, info.alpha, info.steps, info.settings["seed"]) == ("sd1", 4, 4.0, 4, 7)
    assert info.target_prompt == PROMPT
    assert info.clean_prompt == "a sketch of a cat, in Paris"
    assert info.prompt == "a sketch of embedding:my_cat_00001, in Paris"
    (subject,) = info.subjects
    assert (subject.placeholder, subject.class_word, subject.embedding) == ("[V]", "cat", "my_cat_00001")
    assert info.settings == {**described_config(run.method.config), "resolution": 64}
    fields = metadata(path)
    assert fields["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert fields["modelspec.trigger_phrase"] == "my_cat_00001"
    assert json.loads(fields["trained_words"]) == ["my_cat_00001"]
    assert json.loads(fields["ss_tag_frequency"]) == {"my_cat_00001": {"my_cat_00001": 1}}
    assert (fields["ss_network_dim"], fields["ss_network_alpha"], fields["ss_steps"]) == ("4", "4.0", "4")
    assert fields["ss_base_model_version"] == "sd_v1"


def test_the_words_have_the_keys_that_comfyui_and_a1111_read(run, tmp_path):
    keys = load_file(save_run(run, tmp_path, "cat"))
    assert keys["bundle_emb.cat_00001.string_to_param.*"].shape == (len("cat"), 32)  # a token each
    xl = load_file(save_run(trained("sdxl", tmp_path), tmp_path, "xl"))
    assert {"bundle_emb.xl_00001.clip_l", "bundle_emb.xl_00001.clip_g"} <= xl.keys()


def test_every_subject_has_a_word_of_its_own(tmp_path):
    subjects = [Subject(pictures((64, 64)), "cat"), Subject(pictures((64, 64)), "dog", placeholder="[V2]")]
    file = load_lora_file(save_run(trained("sd1", tmp_path, "[V] and [V2]", subjects), tmp_path, "pair"))
    assert list(file.words) == ["pair_00001_V", "pair_00001_V2"]
    assert file.info.prompt == "embedding:pair_00001_V and embedding:pair_00001_V2"


def test_another_run_is_never_overwritten(run, tmp_path):
    first = save_run(run, tmp_path, "cat")
    content = first.read_bytes()
    second = save_run(run, tmp_path, "cat.safetensors")
    assert second.name == "cat_00002.safetensors"
    assert first.read_bytes() == content


def test_a_failed_save_leaves_nothing(run, tmp_path):
    with no_space(writing, "in the middle"), pytest.raises(OSError, match="No space left"):
        save_run(run, tmp_path, "cat")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_before_the_run(tmp_path):
    assert reserve(tmp_path / "loras", "cat.safetensors", overwrite=True) == "cat"
    assert list((tmp_path / "loras").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="no folder can be written to"):
        reserve(tmp_path / "file" / "loras", "cat", overwrite=True)


def test_an_unfinished_run_has_its_steps_in_the_name(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), device="cpu")
    run = Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], PROMPT, CONFIG))
    steps = run.steps()
    next(steps), next(steps)
    steps.close()
    path = save_run(run, tmp_path, "cat.safetensors")
    assert path.name == "cat_step2_00001.safetensors" and load_lora_file(path).info.steps == 2


@pytest.mark.parametrize(
    "name",
    ["../cat", "a/b", "a\\b", "/cat", "..", "", ".hidden", "cat.v2", "C:cat", "my cat", "ca\nt", "(cat)", "c" * 101],
)
def test_names_with_path_parts_are_refused(run, tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        save_run(run, tmp_path / "loras", name)
    assert list(tmp_path.rglob("*.safetensors*")) == []


def test_names_of_any_script_are_fine(run, tmp_path):
    assert save_run(run, tmp_path, "моя_кошка-2").name == "моя_кошка-2_00001.safetensors"


def test_foreign_and_damaged_files_are_named(run, tmp_path):
    path = save_run(run, tmp_path, "cat")
    foreign, corrupt, damaged = (tmp_path / f"{n}.safetensors" for n in ("foreign", "corrupt", "damaged"))
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, foreign)
    corrupt.write_bytes(path.read_bytes()[:1000])
    save_file(load_file(path), damaged, metadata={"palp": "[]"})
    with pytest.raises(ValueError, match=r"foreign.safetensors was not made by PALP"):
        load_lora_file(foreign)
    with pytest.raises(ValueError, match=r"corrupt.safetensors cannot be read"):
        load_lora_file(corrupt)
    with pytest.raises(ValueError, match=r"inside damaged.safetensors is damaged"):
        load_lora_file(damaged)
    with pytest.raises(ValueError, match="cannot be read"):
        load_lora_file(tmp_path / "absent.safetensors")
