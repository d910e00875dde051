"""How a training in a node ends: by success, a fault, Cancel or the end of the process; nothing is hidden or lost."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from devtools import host_models
from devtools.random_models import pictures, tiny_pipeline
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

KEPT = "cat_step2_00001.safetensors"


@pytest.fixture
def parts(host, comfyui_path, tmp_path):
    """(MODEL, CLIP, VAE) with random weights."""
    make_tokenizer = host_models.host_tokenizer(comfyui_path)
    return host_models.host_parts(tiny_pipeline("sd1", tmp_path / "made", make_tokenizer=make_tokenizer), "sd1")


@pytest.fixture
def loras(tmp_path) -> Path:
    (tmp_path / "loras").mkdir()
    return tmp_path / "loras"


def training(parts, prompt: str = "a sketch of [V] in Paris", steps: int = 3, **subject) -> Training:
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject

    config = PersonalizationConfig(steps=steps, resolution=64, rank=2)
    subjects = [Subject(**{"images": pictures((64, 64), (64, 64)), "class_word": "cat", **subject})]
    return Training(Personalization(ComfyBackbone(*parts), subjects, prompt, config))


def recording(parent: Path, run: Training):
    """Of a training that has a folder there."""
    from palp_pack.palp_core.files.run_folder import find_run
    from palp_pack.palp_core.methods.recording import Recording

    return Recording(find_run(parent, "cat", "0123abcd", {}, steps=3), run.method)


def train(run: Training, folder: Path, event=None) -> Path:
    """As the node does. event: happens in the place of the third step."""
    from palp_pack.nodes.host import session
    from palp_pack.palp_core import save_run

    progress = session.TrainingProgress(None, recording(folder.parent / "runs", run))
    denoise = run.method.backbone.denoise

    def or_event(*args):
        if event is not None and len(progress.recording.history) == 2:
            event()
        return denoise(*args)

    run.method.backbone.denoise = or_event
    return session.train(run, progress, lambda where: save_run(run, where, "cat"), folder, "PALP Personalize")


def raising(error: BaseException) -> None:
    raise error


def full_disk(monkeypatch) -> None:
    monkeypatch.setattr("palp_pack.palp_core.methods.result.save_lora_file", lambda *_: raising(OSError("no space")))


# --- faults ---


def test_the_host_unloads_its_models_when_memory_ran_out_and_the_user_knows_what_to_do(parts, loras):
    import comfy.model_management as host

    run = training(parts)
    with pytest.raises(RuntimeError, match=rf"Out of memory\. Switch on gradient_checkpointing.*{KEPT}") as failure:
        train(run, loras, partial(raising, host.OOM_EXCEPTION("no memory left")))
    assert isinstance(failure.value, host.OOM_EXCEPTION)  # by which older hosts know it
    assert not hasattr(host, "is_oom") or host.is_oom(failure.value)
    assert [path.name for path in loras.iterdir()] == [KEPT]


def test_guidance_lets_the_host_unload_its_models_too(host):
    import comfy.model_management
    from palp_pack.nodes.host import guided_sampling

    error = comfy.model_management.OOM_EXCEPTION
    with pytest.raises(error, match="Out of memory in Pick-and-Draw"), guided_sampling._out_of_memory_named():
        raise error("no memory left")


def test_a_full_disk_does_not_hide_the_first_cause(parts, loras, monkeypatch):
    full_disk(monkeypatch)
    with pytest.raises(RuntimeError, match=r"the first cause What was learned could not be saved\. .*no space"):
        train(training(parts), loras, partial(raising, ZeroDivisionError("the first cause")))


def test_cancel_stays_cancel_on_a_full_disk_and_says_what_was_lost(parts, loras, monkeypatch, caplog):
    import comfy.model_management as host

    full_disk(monkeypatch)
    with caplog.at_level("INFO"), pytest.raises(host.InterruptProcessingException):
        train(training(parts), loras, partial(raising, host.InterruptProcessingException()))
    assert "PALP Personalize was cancelled. What was learned could not be saved." in caplog.text


def test_cancel_stays_cancel_when_the_device_is_lost(parts, loras, monkeypatch, caplog):
    import comfy.model_management as host
    from palp_pack.palp_core.methods.personalization_learner import PersonalizationLearner

    monkeypatch.setattr(PersonalizationLearner, "result", lambda _: raising(RuntimeError("device lost")))
    with caplog.at_level("INFO"), pytest.raises(host.InterruptProcessingException):
        train(training(parts), loras, partial(raising, host.InterruptProcessingException()))
    assert "What was learned could not be copied from the model: device lost" in caplog.text


def test_ctrl_c_inside_a_step_keeps_those_before_it(parts, loras):
    with pytest.raises(KeyboardInterrupt):
        train(training(parts), loras, partial(raising, KeyboardInterrupt()))
    assert [path.name for path in loras.iterdir()] == [KEPT]


def test_a_chart_that_fails_does_not_fail_the_run(parts, loras, monkeypatch, caplog):
    from palp_pack.nodes.host import progress as shown

    for chart in ("training.chart.loss_chart", "training.chart._plotted"):
        monkeypatch.setattr(f"palp_pack.palp_core.{chart}", lambda *_: raising(ValueError("no font")))
    monkeypatch.setattr(shown, "SECONDS_BETWEEN_CHARTS", 0.0)
    monkeypatch.setattr(shown.ui, "PreviewImage", lambda *_, **__: raising(OSError("no space")))
    run = training(parts)
    assert train(run, loras).is_file()
    progress = shown.TrainingProgress(None, recording(loras.parent / "other runs", run))
    chart, _, _, shown = progress.ending(None)
    assert chart.ndim == 4 and chart.shape[-1] == 3 and shown is None
    assert "could not be drawn: no font" in caplog.text and "could not be shown: no space" in caplog.text


def test_the_page_keeps_one_picture_of_a_training(parts, loras, monkeypatch):
    """The page keeps the picture of a running training, and would show what the node returns beside it."""
    import comfy.utils
    from palp_pack.nodes.host import progress as shown

    sent = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *told, node_id=None: sent.append(told[2]))
    monkeypatch.setattr(shown, "SECONDS_BETWEEN_CHARTS", 0.0)
    run = training(parts)
    progress = shown.TrainingProgress(None, recording(loras.parent / "runs", run))
    for step in run.steps():
        progress.update(step, progress.recording.note(step, run.learner))
    chart, pictures, _, beside = progress.ending(None)
    last = pictures if progress.recording.previews.pictures else chart
    assert beside is None and sent[-1][1].size == (last.shape[2], last.shape[1])


# --- what the page shows ---


def test_no_word_of_a_text_under_a_node_is_broken(host, monkeypatch):
    """The page breaks a line that is too long for a node at any letter."""
    from palp_pack.nodes.host.progress import show_text
    from server import PromptServer

    sent = []
    told = {"send_progress_text": lambda _, text, *to: sent.append((text, *to)), "client_id": "page", "sockets": {}}
    monkeypatch.setattr(PromptServer, "instance", type("Server", (), told)(), raising=False)
    text = "Saved as my_cat_00001.safetensors. Prompt: a sketch of embedding:my_cat_00001 in Paris\nLearning [V] (cat)"
    show_text("10", text)
    ((shown, node, page),) = sent
    assert node == "10" and page is None  # the page that queued the graph is closed: all pages are told
    assert all(len(line) <= 40 for line in shown.splitlines()) and shown.splitlines()[-1] == "Learning [V] (cat)"
    assert shown.split() == text.split()


# --- the end of the process ---


def test_a_process_that_ends_waits_until_what_was_learned_is_saved(parts, loras, monkeypatch):
    """The host runs nodes in a thread that dies with the process; here its exit is played, once a step is done."""
    import atexit

    import comfy.model_management as host
    from server import PromptServer

    at_exit, in_main, caught = [], [], []

    class Loop:
        def call_soon_threadsafe(self, call, *args):
            in_main.append(partial(call, *args))

    monkeypatch.setattr(PromptServer, "instance", type("Server", (), {"loop": Loop()})(), raising=False)
    monkeypatch.setattr(PromptServer.instance, "send_progress_text", lambda *_: None, raising=False)
    monkeypatch.setattr(atexit, "register", at_exit.append)
    run, usual = training(parts), signal.getsignal(signal.SIGTERM)
    two_steps, ended = threading.Event(), threading.Event()

    def wait_for_the_exit() -> None:
        two_steps.set()
        ended.wait(20)
        host.throw_exception_if_processing_interrupted()

    def work() -> None:
        try:
            train(run, loras, wait_for_the_exit)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert two_steps.wait(120)
    in_main.pop(0)()
    assert signal.getsignal(signal.SIGTERM) is not usual
    threading.Timer(0.2, ended.set).start()
    at_exit[0]()
    assert [path.name for path in loras.iterdir()] == [KEPT]
    thread.join(60)
    in_main.pop(0)()
    assert signal.getsignal(signal.SIGTERM) is usual
    assert isinstance(caught[0], host.InterruptProcessingException)


# --- what a run leaves behind ---


def test_torchs_random_numbers_go_on_as_if_nothing_had_been_trained(parts):
    before = torch.get_rng_state()
    run = training(parts)
    list(run.steps())
    assert torch.equal(before, torch.get_rng_state())


def test_a_parameter_of_the_hosts_that_was_loaded_in_inference_mode_keeps_its_flag(parts):
    """The host's own loader makes CLIP's logit_scale so, the one parameter that asks for a gradient."""
    encoder = parts[1].cond_stage_model.clip_l
    with torch.inference_mode():
        encoder.logit_scale = torch.nn.Parameter(torch.tensor(4.6))
    list(training(parts).steps())
    assert encoder.logit_scale.requires_grad and not encoder.logit_scale.is_inference()


# --- what is refused before any work ---


@pytest.mark.parametrize(("weight", "told"), [("nan", "nan"), ("1e400", "1e400"), (" -inf ", "-inf"), ("1e30", "1e30")])
def test_a_weight_that_is_no_number_is_refused(parts, weight, told):
    with pytest.raises(ValueError, match=f"target_prompt has a word of weight {told}"):
        training(parts, f"a (sketch:{weight}) of [V]")


def test_a_vae_that_overflows_is_named_with_the_photo_and_the_remedy(parts, loras):
    run = training(parts)
    encode, seen = parts[2].encode, []

    def overflowing(pixels):
        seen.append(pixels)
        return encode(pixels) * (float("nan") if len(seen) == 2 else 1)

    parts[2].encode = overflowing
    with pytest.raises(RuntimeError, match=r"the VAE makes values of image 2 of \[V\] that are not finite.*--fp32-vae"):
        train(run, loras)


@pytest.mark.parametrize("where", ["model", "clip"])
def test_a_lora_that_the_host_computes_beside_the_weights_is_refused_by_name(parts, where):
    import comfy.sd

    model, clip, vae = parts
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    names = {
        "model": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "clip": "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    }
    file = {f"{names[where]}.lora_down.weight": down, f"{names[where]}.lora_up.weight": up}
    model, clip = comfy.sd.load_bypass_lora_for_models(model, clip, file, 1.0, 1.0)
    with pytest.raises(
        ValueError, match=rf"{where} has a LoRA of the node Load LoRA \(Bypass\).*Use ComfyUI's Load LoRA"
    ):
        training((model, clip, vae))


def test_guidance_refuses_such_a_lora_on_its_base_model_and_behind_the_node(parts):
    import comfy.sd
    from palp_pack.nodes.host.backbone import ComfyBackbone
    from palp_pack.nodes.host.guidance_inputs import template_backbone
    from palp_pack.nodes.host.guided_sampling import GuidanceSource, GuidedSampling

    model, clip, vae = parts
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    file = {f"{name}.lora_down.weight": torch.randn(2, 32), f"{name}.lora_up.weight": torch.randn(32, 2)}
    base, _ = comfy.sd.load_bypass_lora_for_models(model, None, file, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"base_model has a LoRA of the node Load LoRA \(Bypass\)"):
        template_backbone(base, model, clip, vae)
    source = GuidanceSource(ComfyBackbone(*parts), *[None] * (len(GuidanceSource._fields) - 1))
    guider = SimpleNamespace(inner_model=model.model, model_patcher=base)
    with pytest.raises(ValueError, match=r"the sampler's model has a LoRA of the node Load LoRA \(Bypass\)"):
        GuidedSampling(source, [])._prepare(guider)


@pytest.mark.parametrize("found", ["0.12.2", "0.3.75", "0.12.2-rc1"])
def test_a_host_that_is_too_old_is_named_once_at_load(host, monkeypatch, found):
    module = type(sys)("comfyui_version")
    module.__version__ = found
    monkeypatch.setitem(sys.modules, "comfyui_version", module)
    with pytest.raises(RuntimeError, match=r"needs ComfyUI 0\.12\.3 or newer, and this is .*\. Update ComfyUI\."):
        sys.modules["palp_pack"]._check_version()


def test_the_oldest_host_is_the_one_that_the_registry_is_told(host):
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    oldest = ".".join(map(str, sys.modules["palp_pack"].OLDEST))
    assert f'requires-comfyui = ">={oldest}"' in text
