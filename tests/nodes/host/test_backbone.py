"""The host's MODEL and CLIP: trained in place, left as found, and reproduced from the file by the host's loader."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import pytest
import torch

from devtools import host_models
from devtools.random_models import pictures, tiny_pipeline
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

PROMPT = "a sketch of [V] in Paris"


@pytest.fixture
def make(host, comfyui_path, tmp_path):
    """Maker of (MODEL, CLIP, VAE) with random weights."""

    def parts(family="sd1", prediction="epsilon"):
        make_tokenizer = host_models.host_tokenizer(comfyui_path)
        return host_models.host_parts(
            tiny_pipeline(family, tmp_path, make_tokenizer=make_tokenizer), family, prediction
        )

    return parts


def personalization(model, clip, vae, precision="auto", **changes):
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject

    config = PersonalizationConfig(
        **{"steps": 3, "resolution": 64, "rank": 4, "learning_rate": 1e-2, "embedding_learning_rate": 1e-2, **changes}
    )
    backbone = ComfyBackbone(model, clip, vae, precision)
    return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], PROMPT, config))


def fingerprint(*patchers) -> dict:
    """All of a model that training could change by mistake."""
    found = {}
    for patcher in patchers:
        kind = type(patcher.model).__name__
        found |= {f"{kind}.{k}": v.to("cpu", copy=True) for k, v in patcher.model.state_dict().items()}
        found |= {f"{kind}.{n} flag": p.requires_grad for n, p in patcher.model.named_parameters()}
        for name, module in patcher.model.named_modules():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            attributes = tuple(k for k in ("forward", "peft_config", "manual_cast_dtype") if module.__dict__.get(k))
            found[f"{kind}.{name} module"] = (type(module), module.training, hooks, attributes)
        found[f"{kind} patcher"] = (len(patcher.patches), len(patcher.object_patches), patcher.force_cast_weights)
    return found


def assert_same(before: dict, after: dict) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if torch.is_tensor(value) else value == after[key]
        assert same, key


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_model_and_clip_are_put_back_after_success(make, family, checkpointing, precision):
    model, clip, vae = make(family)
    before = fingerprint(model, clip.patcher)
    run = personalization(model, clip, vae, precision, gradient_checkpointing=checkpointing)
    assert len(list(run.steps())) == 3 and run.result.steps == 3
    assert_same(before, fingerprint(model, clip.patcher))


@pytest.mark.parametrize("ending", ["error", "cancel", "closed"])
def test_model_and_clip_are_put_back_after_a_broken_run(make, ending):
    import comfy.model_management

    model, clip, vae = make()
    before = fingerprint(model, clip.patcher)
    run = personalization(model, clip, vae, gradient_checkpointing=True)
    steps = run.steps()
    next(steps)
    if ending == "closed":
        steps.close()
    elif ending == "cancel":
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            next(steps)
    else:
        run.method.backbone.denoise = lambda *args: 1 / 0
        with pytest.raises(ZeroDivisionError):
            next(steps)
    assert_same(before, fingerprint(model, clip.patcher))
    assert run.result.steps == 1


def move(*patchers) -> None:
    """Put other data into the parameters, as the host does on the way to a GPU."""
    for parameter in (p for patcher in patchers for p in patcher.model.parameters()):
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("moved", ["never", "outside", "inside", "at loading"])
def test_weights_that_were_loaded_in_inference_mode_can_be_trained(make, moved, monkeypatch):
    """moved: where the weights have been moved, outside of inference mode, inside, or in whichever mode loads them."""
    import comfy.model_management

    with torch.inference_mode(moved != "inside"):
        model, clip, vae = make()
        for patcher in (model, clip.patcher):
            for module in patcher.model.modules():
                for name, parameter in list(module._parameters.items()):
                    if parameter is not None:
                        module._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
    if moved in ("outside", "inside"):
        with torch.inference_mode(moved == "inside"):
            move(model, clip.patcher)
    if moved == "at loading":
        load, done = comfy.model_management.load_models_gpu, []

        def load_and_move(patchers, *args, **kwargs) -> None:
            load(patchers, *args, **kwargs)
            move(*(patcher for patcher in patchers if patcher not in done))
            done.extend(patchers)

        monkeypatch.setattr(comfy.model_management, "load_models_gpu", load_and_move)
    weight = next(model.model.diffusion_model.parameters())
    assert weight.is_inference() == (moved != "outside")
    before = fingerprint(model, clip.patcher)
    run = personalization(model, clip, vae)
    list(run.steps())
    assert all(torch.isfinite(v).all() for v in run.result.lora.values())
    assert_same(before, fingerprint(model, clip.patcher))


def test_a_model_that_is_streamed_in_gives_its_plain_copy_and_clip_only_where_it_is_needed(make, monkeypatch):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    model, clip, vae = make()
    plain = model.clone()
    for patcher in (model, clip.patcher):
        monkeypatch.setattr(patcher, "is_dynamic", lambda: True, raising=False)
    monkeypatch.setattr(model, "cached_patcher_init", (make, ()), raising=False)
    monkeypatch.setattr(model, "get_non_dynamic_delegate", lambda: plain, raising=False)
    monkeypatch.setattr(clip.patcher, "cached_patcher_init", None, raising=False)
    monkeypatch.delattr(type(clip.patcher), "get_non_dynamic_delegate", raising=False)
    if "disable_dynamic" not in inspect.signature(model.clone).parameters:  # an older host
        with pytest.raises(ValueError, match="computes no gradients with dynamic VRAM"):
            ComfyBackbone(model, clip, vae)
        return
    backbone = ComfyBackbone(model, clip, vae)
    assert backbone.patcher is plain
    backbone.encode_image(torch.rand(64, 64, 3))
    with pytest.raises(ValueError, match="Use ComfyUI's own loader"):
        backbone.encode_prompt("a cat", {})


@pytest.mark.parametrize("targets", ["attention", "attention+ff+proj"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_hosts_loader_reproduces_the_trained_model_from_the_file(make, family, targets, tmp_path):
    import comfy.model_management
    import comfy.sd
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.palp_core import load_lora_file, save_run
    from palp_pack.palp_core.models.lora import attached_lora
    from safetensors.torch import load_file

    model, clip, vae = make(family)
    run = personalization(model, clip, vae, targets=targets)
    list(run.steps())
    path = save_run(run, tmp_path, "cat")
    backbone = run.method.backbone
    with torch.no_grad():
        cond = backbone.encode_prompt("a cat", {})
        x, sigma = torch.randn(1, 4, 8, 8, device=backbone.device), torch.tensor([1.0], device=backbone.device)
        comfy.model_management.load_models_gpu([backbone.patcher])
        untouched = backbone.denoise(x, sigma, [cond])
        with attached_lora(backbone, 4, 0, targets) as lora:
            assert all(key.partition(".")[0] in lora.layers for key in run.result.lora)
            for name, (layer,) in lora.layers.items():
                layer.lora_A["palp"].weight.data = run.result.lora[f"{name}.lora_down.weight"].to(x)
                layer.lora_B["palp"].weight.data = run.result.lora[f"{name}.lora_up.weight"].to(x)
            trained = backbone.denoise(x, sigma, [cond])
        stock, _ = comfy.sd.load_lora_for_models(model, None, load_file(path), 1.0, 0.0)
        ours, _, left_out = apply_lora_file(model, clip, load_lora_file(path), 1.0)
        assert left_out == []
        effect = (trained - untouched).norm()
        assert effect > 1e-3
        for patched in (stock, ours):
            reloaded = ComfyBackbone(patched, clip, vae)
            comfy.model_management.load_models_gpu([reloaded.patcher])
            loaded = reloaded.denoise(x, sigma, [cond])
            assert (loaded - trained).norm() < 0.01 * effect  # the file is fp16


def test_a_word_reads_the_same_from_our_clip_as_from_the_hosts_embeddings_folder(make, tmp_path):
    from palp_pack.nodes.host.text import clip_with_words
    from palp_pack.palp_core import load_lora_file, save_run

    model, clip, vae = make("sdxl")
    run = personalization(model, clip, vae)
    list(run.steps())
    file = load_lora_file(save_run(run, tmp_path, "cat"))
    name = "embedding:cat_00001"
    ours = clip_with_words(clip, {name: file.words["cat_00001"]})
    for key, width in (("l", 32), ("g", 32)):
        tokenizer = getattr(clip.tokenizer, f"clip_{key}")
        tokenizer.embedding_directory, tokenizer.embedding_size = [str(tmp_path)], width
    (tmp_path / "stock.safetensors").write_bytes((tmp_path / "cat_00001.safetensors").read_bytes())
    prompts = (f"a sketch of {name} in Paris", f"({name}:1.3) and {name}, a hat", name, "no word")
    for prompt in (*prompts, "embedding:stock alone", f"embedding:stock, {name} and (embedding:stock:0.8)"):
        with torch.no_grad():
            expected = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
            found = ours.encode_from_tokens(ours.tokenize(prompt), return_pooled=True)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_words_of_two_files_work_in_one_prompt(make):
    from palp_pack.nodes.host.text import clip_with_words

    _, clip, _ = make()
    words = {
        f"embedding:{name}": {"clip_l": torch.full((count, 32), value)}
        for name, count, value in (("cat", 1, 1.0), ("cat_2", 2, 2.0))
    }
    both = clip
    for word, vectors in words.items():
        both = clip_with_words(both, {word: vectors})
    row = both.tokenize("a embedding:cat_2, and embedding:cat.")["l"][0]
    placed = [float(token[0]) for token, _ in row if torch.is_tensor(token)]
    assert placed == [2.0, 2.0, 1.0]
    assert not any(torch.is_tensor(token) for token, _ in clip.tokenize("a embedding:cat")["l"][0])


@pytest.mark.parametrize("text", ["a embedding:cat. in Paris", "a,embedding:cat", "embedding:cat's hat"])
def test_the_log_says_where_a_word_works_only_until_it_is_read_from_its_file(make, text, caplog):
    from palp_pack.nodes.host.text import clip_with_words

    clip = clip_with_words(make()[1], {"embedding:cat": {"clip_l": torch.ones(1, 32)}})
    for found in ("embedding:cat", "a (embedding:cat:1.2), b", "a embedding:cat, b", "(a embedding:cat)"):
        clip.tokenize(found)
    assert "would not find" not in caplog.text
    assert any(torch.is_tensor(token) for token, _ in clip.tokenize(text)["l"][0])
    assert "would not find the word" in caplog.text


def test_models_that_cannot_be_trained_are_named(make):
    import comfy.model_sampling
    from palp_pack.nodes.host.backbone import ComfyBackbone

    model, clip, vae = make()
    xl_model, xl_clip, _ = make("sdxl")
    with pytest.raises(ValueError, match="MODEL and CLIP of the same family"):
        ComfyBackbone(model, xl_clip, vae)
    with pytest.raises(ValueError, match="MODEL and CLIP of the same family"):
        ComfyBackbone(xl_model, clip, vae)

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    flow = model.clone()
    flow.add_object_patch("model_sampling", Flow())
    with pytest.raises(ValueError, match="neither eps- nor v-prediction"):
        ComfyBackbone(flow, clip, vae)
    with_t5 = make()[1]  # as in Flux and SD 3
    with_t5.cond_stage_model.add_module("t5xxl", copy.deepcopy(with_t5.cond_stage_model.clip_l))
    with pytest.raises(ValueError, match="MODEL and CLIP of the same family"):
        ComfyBackbone(model, with_t5, vae)
    with pytest.raises(ValueError, match="clip is missing"):
        ComfyBackbone(model, None, vae)
    with pytest.raises(ValueError, match="vae is missing"):
        ComfyBackbone(model, clip, None)
    flux = ComfyBackbone(model, clip, vae)
    flux.vae.encode = lambda image: torch.zeros(1, 16, 8, 8)
    with pytest.raises(ValueError, match=r"vae makes latents of shape .1, 16, 8, 8."):
        flux.encode_image(torch.zeros(64, 64, 3))
    model.model.model_config.unet_config["in_channels"] = 9
    with pytest.raises(ValueError, match="inpainting"):
        ComfyBackbone(model, clip, vae)


def test_a_lora_that_the_user_had_loaded_takes_part_and_stays(make):
    """E_pre is the MODEL as it was connected, with what the user put on it."""
    model, clip, vae = make()
    weight = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    patched = model.clone()
    patched.add_patches({weight: ("diff", (torch.randn(32, 32),))})
    first, second = (personalization(m, clip, vae) for m in (model, patched))
    losses = [next(iter(run.steps())).losses["denoising_loss"] for run in (first, second)]
    assert losses[0] != losses[1]
    assert len(patched.patches) == 1 and len(model.patches) == 0


def test_a_file_of_another_family_is_refused_by_the_loader(make, tmp_path):
    from palp_pack.nodes.host.lora import apply_lora_file
    from palp_pack.palp_core import load_lora_file, save_run

    run = personalization(*make("sdxl"))
    list(run.steps())
    file = load_lora_file(save_run(run, tmp_path, "xl"))
    model, clip, _ = make("sd1")
    with pytest.raises(
        ValueError, match=r"Load a checkpoint of SDXL, .* trained on Stable Diffusion 1\.x, which model"
    ):
        apply_lora_file(model, clip, file, 1.0)
    unfit = dataclasses.replace(
        file,
        lora={key.replace("unet", "dit"): v for key, v in file.lora.items()},
        info=dataclasses.replace(file.info, family="sd1"),
    )
    with pytest.raises(ValueError, match=f"none of the file's {file.projections} LoRA keys fits this model"):
        apply_lora_file(model, clip, unfit, 1.0)
    xl_model, _, _ = make("sdxl")
    with pytest.raises(ValueError, match=r"clip \(\w+\) does not belong to model \(SDXL\)"):
        apply_lora_file(xl_model, clip, file, 1.0)


def recording(folder, run):
    """Of a training that has its own folder there."""
    from palp_pack.palp_core.files.run_folder import find_run
    from palp_pack.palp_core.methods.recording import Recording

    return Recording(find_run(folder / "runs", "cat", "0123abcd", {}, steps=3), run.method)


@pytest.mark.parametrize("good_steps", [0, 2])
def test_a_diverged_run_names_its_step_and_keeps_what_was_good(make, tmp_path, good_steps):
    from palp_pack.nodes.host.session import TrainingProgress, train
    from palp_pack.palp_core import load_lora_file, save_run
    from palp_pack.palp_core.methods.subject_region import DRAWS

    run = personalization(*make())
    denoise, calls = run.method.backbone.denoise, []

    def diverging(*args):
        calls.append(args)
        return denoise(*args) * (float("nan") if len(calls) > DRAWS + good_calls else 1)

    good_calls = 4 + 1 if good_steps else 0  # four in the step that keeps the prompt, and one in the next
    run.method.backbone.denoise = diverging  # called to find the subject, too
    with pytest.raises(RuntimeError) as failure:
        train(
            run,
            TrainingProgress(None, recording(tmp_path, run)),
            lambda folder: save_run(run, folder, "cat"),
            tmp_path,
            "PALP Personalize",
        )
    outcome = "is kept in cat_step2_00001.safetensors" if good_steps else "nothing was saved"
    assert f"not finite at step {good_steps + 1}" in str(failure.value) and outcome in str(failure.value)
    kept = [path.name for path in tmp_path.glob("*.safetensors*")]
    assert kept == (["cat_step2_00001.safetensors"] if good_steps else [])
    for name in kept:
        assert all(v.isfinite().all() for v in load_lora_file(tmp_path / name).lora.values())


def test_a_folder_that_cannot_be_written_to_does_not_lose_the_run(make, tmp_path, monkeypatch):
    import folder_paths
    from palp_pack.nodes.host.session import TrainingProgress, train
    from palp_pack.palp_core import save_run

    run = personalization(*make())
    full, refuge = tmp_path / "full", tmp_path / "output"
    full.write_text("a file where the folder should be")
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(refuge))
    with pytest.raises(RuntimeError, match=r"full could not be written to\. What was learned is kept in .*output"):
        train(
            run,
            TrainingProgress(None, recording(tmp_path, run)),
            lambda folder: save_run(run, folder, "cat"),
            full,
            "PALP Personalize",
        )
    assert [path.name for path in refuge.iterdir()] == ["cat_00001.safetensors"]


def test_out_of_memory_names_the_remedy_and_keeps_the_work(make, tmp_path):
    import comfy.model_management
    from palp_pack.nodes.host.session import TrainingProgress, train
    from palp_pack.palp_core import save_run

    run = personalization(*make())
    progress = TrainingProgress(None, recording(tmp_path, run))
    denoise = run.method.backbone.denoise

    def full(*args):
        if len(progress.recording.history) == 2:
            raise comfy.model_management.OOM_EXCEPTION("no memory left")
        return denoise(*args)

    run.method.backbone.denoise = full
    with pytest.raises(RuntimeError, match=r"Out of memory. Switch on gradient_checkpointing.*cat_step2_00001"):
        train(run, progress, lambda folder: save_run(run, folder, "cat"), tmp_path, "PALP Personalize")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["cat_step2_00001.safetensors"]
