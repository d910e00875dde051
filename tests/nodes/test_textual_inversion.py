"""Textual Inversion Train: both backbones agree, and on a real server the word works in the same run and after it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from devtools import host_models
from devtools.comfy_server import ComfyServer, PromptRejectedError
from devtools.graphs import personalize_graph, word_graph
from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, TextualInversion, TextualInversionConfig, load_embedding
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

pytestmark = pytest.mark.host

# --- in process: the host's MODEL and CLIP behind the core ---


@pytest.fixture
def parts(host, comfyui_path, tmp_path):
    """Maker of (diffusers pipeline, (MODEL, CLIP, VAE)) with the same random weights."""

    def make(family: str):
        pipeline = tiny_pipeline(
            family,
            tmp_path / "model",
            "v_prediction" if family == "sd2" else "epsilon",
            make_tokenizer=host_models.host_tokenizer(comfyui_path),
        )
        host_parts = host_models.host_parts(pipeline, family, "v" if family == "sd2" else "epsilon")
        if family == "sd2":  # diffusers' files leave out the last layer, which the host has and skips
            inner = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
            inner.encoder.layers = inner.encoder.layers[:-1]
        return pipeline, host_parts

    return make


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_both_backbones_learn_the_same_rows_and_the_host_keeps_its_own(parts, family):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    pipeline, (model, clip, vae) = parts(family)
    before = [{k: v.clone() for k, v in p.model.state_dict().items()} for p in (model, clip.patcher)]
    config = TextualInversionConfig(steps=20, resolution=64, learning_rate=1e-3, vectors=2, seed=5, hold_norm=False)
    images = pictures((64, 64), (70, 140))
    captions = ("a photo of a {}", "a wide photo of a {}")
    histories, words = [], []
    for backbone in (DiffusersBackbone(pipeline, device="cpu"), ComfyBackbone(model, clip, vae)):
        run = Training(TextualInversion(backbone, Concept(images, "cat", captions=captions), config))
        histories.append([step.losses["denoising_loss"] for step in run.steps()])
        words.append(run.result.vectors)
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)
    assert words[0].keys() == words[1].keys()
    start = DiffusersBackbone(pipeline, device="cpu").word_vectors("cat")
    for encoder, rows in words[0].items():
        assert (rows[:1] - start[encoder]).abs().max() > 5e-3  # it did learn
        assert ((rows - words[1][encoder]).norm() / rows.norm()).item() < 0.01
    for patcher, weights in zip((model, clip.patcher), before, strict=True):
        after = patcher.model.state_dict()
        assert after.keys() == weights.keys() and all(torch.equal(after[k], v) for k, v in weights.items())


@pytest.mark.parametrize("ending", ["success", "cancel"])
def test_no_hook_or_flag_is_left_on_the_host(parts, ending):
    import comfy.model_management
    from palp_pack.nodes.host.backbone import ComfyBackbone

    _, (model, clip, vae) = parts("sdxl")

    def state() -> list:
        modules = [m for p in (model, clip.patcher) for m in p.model.modules()]
        flags = [p.requires_grad for patcher in (model, clip.patcher) for p in patcher.model.parameters()]
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__) for m in modules]
        return [flags, hooks, [m.training for m in modules]]

    before = state()
    config = TextualInversionConfig(steps=2, resolution=64, gradient_checkpointing=True)
    run = Training(TextualInversion(ComfyBackbone(model, clip, vae), Concept(pictures((64, 64)), "cat"), config))
    steps = run.steps()
    next(steps)
    if ending == "cancel":
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            next(steps)
    else:
        list(steps)
    assert state() == before and run.result.steps == (1 if ending == "cancel" else 2)


def test_words_that_are_not_one_token_are_named(parts):
    from palp_pack.nodes.host.backbone import ComfyBackbone

    _, host_parts = parts("sd1")
    backbone = ComfyBackbone(*host_parts)
    for word, count in (("xqzvt", r"\d"), ("tabby cat", "2")):
        with pytest.raises(ValueError, match=f"initial_word '{word}' is {count} tokens.*such as cat, toy"):
            Training(TextualInversion(backbone, Concept(pictures((64, 64)), word), TextualInversionConfig()))


# --- on a real server ---


TEXT = "a photo of embedding:{}, in Paris"


def drawing(clip: list, text: str) -> dict:
    """From a prompt to a saved picture, nodes 20 to 25; the model comes from node 1."""
    latent = {"width": 64, "height": 64, "batch_size": 1}
    sampler = {"model": ["1", 0], "positive": ["20", 0], "negative": ["21", 0], "latent_image": ["22", 0], "seed": 7}
    how = {"steps": 2, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "20": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}},
        "21": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
        "22": {"class_type": "EmptyLatentImage", "inputs": latent},
        "23": {"class_type": "KSampler", "inputs": {**sampler, **how}},
        "24": {"class_type": "VAEDecode", "inputs": {"samples": ["23", 0], "vae": ["1", 2]}},
        "25": {"class_type": "SaveImage", "inputs": {"images": ["24", 0], "filename_prefix": "word"}},
    }


def picture(server: ComfyServer, result) -> np.ndarray:
    (saved,) = (image for image in result.images if image["type"] == "output")
    return np.asarray(Image.open(server.file(saved))).astype(int)


def embeddings(server: ComfyServer) -> dict[str, bytes]:
    folder = server.base_directory / "models/embeddings"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def trained_word(server: ComfyServer, checkpoint: str, name: str, widths: dict[str, int]) -> np.ndarray:
    """A picture of a word from the run that learned it. widths: of the vectors in its file."""
    text = TEXT.format(name)
    trained = server.queue(
        {**word_graph(checkpoint, name=name), **drawing(["10", 0], text)}, timeout=900
    ).require_success()
    first = picture(server, trained)
    assert any("denoising loss" in text for node, text in trained.texts if node == "10")
    assert any(f"Write embedding:{name} in any prompt" in text for _, text in trained.texts)

    path = server.base_directory / "models/embeddings" / f"{name}.safetensors"
    assert {key: rows.shape for key, rows in load_file(path).items()} == {k: (1, w) for k, w in widths.items()}
    return first


def test_words_work_in_their_own_run_and_after_a_restart(server, sd15_checkpoint, sdxl_checkpoint):
    words = {"cat-sd15": (sd15_checkpoint, {"emb_params": 768})}
    words |= {"cat-sdxl": (sdxl_checkpoint, {"clip_l": 768, "clip_g": 1280})}
    first = {name: trained_word(server, checkpoint, name, widths) for name, (checkpoint, widths) in words.items()}
    server.restart()
    for name, (checkpoint, _) in words.items():
        stock = {"1": word_graph(checkpoint)["1"]}
        again = server.queue({**stock, **drawing(["1", 1], TEXT.format(name))}, timeout=600).require_success()
        assert (picture(server, again) == first[name]).all(), name
        plain = drawing(["1", 1], "a photo of cat, in Paris")
        without = server.queue({**stock, **plain}, timeout=600).require_success()
        assert (picture(server, without) != first[name]).any(), name


def test_the_page_marks_a_node_whose_name_has_path_parts_before_anything_runs(server, sd15_checkpoint):
    with pytest.raises(PromptRejectedError) as refused:
        server.queue(word_graph(sd15_checkpoint, name="../../etc/cat"))
    (error, *_) = refused.value.node_errors["10"]["errors"]
    assert error["extra_info"]["input_name"] == "name" and "must be a plain name" in error["details"]


BAD = {
    "unknown word": ({"initial_word": "xqzvt"}, "which does not know it as one word"),
    "several words": ({"initial_word": "tabby cat"}, "is 2 tokens"),
    "no word": ({"initial_word": " "}, "initial_word is empty"),
    "template without a place": ({"templates": "a photo of {}\na photo"}, "'a photo' has no {}"),
    "too few captions": ({"captions": "{} a\n{} b"}, "there are 1 images but 2 captions"),
    "long template": ({"templates": "{} " + "in a very small town " * 100}, "letters; 2000 are the most"),
    "one pixel": (
        {
            "links": {"images.image0": ["3", 0]},
            "nodes": {
                "3": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": 0}}
            },
        },
        "1 x 1 pixels, too small",
    ),
    "pickled start": ({"options": {"initial_embedding": "old.pt"}}, "of a kind that may hold program code"),
    "start of another family": (
        {"options": {"initial_embedding": "xl.safetensors"}},
        "but the model has clip_l of width 768",
    ),
    "name of a file of another kind": ({"name": "old"}, "embedding:old would also mean"),
    "name of a file in a folder below": ({"name": "inner"}, "embedding:inner would also mean"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_on_the_node_before_any_training(server, sd15_checkpoint, case):
    folder = server.base_directory / "models/embeddings"
    (folder / "old.pt").write_bytes(b"not to be opened")
    (folder / "below").mkdir(exist_ok=True)
    (folder / "below/inner.bin").write_bytes(b"not to be opened")
    save_file({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, folder / "xl.safetensors")
    changes, message = BAD[case]
    before = embeddings(server)
    result = server.queue(word_graph(sd15_checkpoint, **changes))
    reader = "9" if case == "pickled start" else "10"  # PALP Options opens the file
    assert result.status == "error" and result.error["node_id"] == reader
    assert message in result.error["exception_message"]
    assert not any(node == "10" for node, _, _ in result.progress)
    assert embeddings(server) == before


def test_a_file_is_replaced_only_where_the_user_says_so(server, sd15_checkpoint):
    server.queue(word_graph(sd15_checkpoint, name="kept")).require_success()
    before = embeddings(server)
    refused = server.queue(word_graph(sd15_checkpoint, name="kept", seed=2))
    assert "kept.safetensors is in the embeddings folder already" in refused.error["exception_message"]
    assert embeddings(server) == before
    server.queue(word_graph(sd15_checkpoint, name="kept", seed=2, overwrite=True)).require_success()
    after = embeddings(server)
    assert after.keys() == before.keys() and after["kept.safetensors"] != before["kept.safetensors"]


def test_a_name_from_another_node_does_not_train_again(server, sd15_checkpoint):
    text = {"3": {"class_type": "PrimitiveString", "inputs": {"value": "linked"}}}
    run = word_graph(sd15_checkpoint, nodes=text, name=["3", 0])
    assert "10" in server.queue(run).require_success().executed
    assert "10" not in server.queue(run).require_success().executed


def test_what_could_not_be_saved_in_its_folder_replaces_nothing_elsewhere(server, sd15_checkpoint):
    blocked = server.base_directory / "models/embeddings/full.safetensors"
    blocked.mkdir()  # where the file would be
    for seed in (1, 2):
        result = server.queue(word_graph(sd15_checkpoint, name="full", seed=seed, overwrite=True))
        assert "could not be written to. What was learned is kept in" in result.error["exception_message"]
    blocked.rmdir()
    first, second = ((server.base_directory / "output" / f"full{n}.safetensors").read_bytes() for n in ("", "_2"))
    assert first != second


def test_cancel_ends_the_run_within_a_step_and_keeps_what_was_learned(server, sd15_checkpoint):
    seen = []

    def cancel(message):  # the host leaves out some progress messages when steps are quick
        if message.type == "progress" and message.data["node"] == "10" and not seen and message.data["value"] >= 2:
            seen.append(message.data["value"])
            server.interrupt()

    before = embeddings(server)
    result = server.queue(word_graph(sd15_checkpoint, steps=500, name="cancelled"), on_message=cancel)
    assert result.status == "interrupted"
    (kept,) = embeddings(server).keys() - before.keys()
    steps = int(re.fullmatch(r"cancelled_step(\d+).safetensors", kept)[1])
    assert seen[0] <= steps <= seen[0] + 5  # those that ended while the request was on its way
    load_embedding(server.base_directory / "models/embeddings" / kept)
    told = f"Cancelled. What was learned in {steps} steps is kept in {kept}"
    assert any(told in text for node, text in result.texts if node == "10")


def test_a_word_that_starts_from_its_own_file_learns_on_at_each_run(server, sd15_checkpoint):
    """As the help page says: the file that the training starts from is another one each time."""
    server.queue(word_graph(sd15_checkpoint, name="grown")).require_success()
    start = {"initial_embedding": "grown.safetensors"}
    more = word_graph(sd15_checkpoint, options=start, name="grown", overwrite=True)
    found = [embeddings(server)["grown.safetensors"]]
    for _ in range(2):
        assert "10" in server.queue(more).require_success().executed
        found.append(embeddings(server)["grown.safetensors"])
    assert len(set(found)) == 3


def test_a_learned_word_starts_the_next_run_and_palp(server, sd15_checkpoint):
    """From a foreign file: one more textual inversion, and PALP on top of it, with every option in use."""
    folder = server.base_directory / "models/embeddings"
    save_file({"<cat-toy>": torch.randn(3, 768) * 0.02}, folder / "cat-toy.safetensors")
    nodes = {
        "3": {"class_type": "LoadImage", "inputs": {"image": "cat2.png"}},
        "4": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 451, "height": 300}},
        "5": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 240, "height": 256}},
    }
    links = {"images.image1": ["3", 0], "masks.mask0": ["4", 0], "masks.mask1": ["5", 0]}
    widgets = {"kind": "style", "captions": "{} a\n{} b", "hold_norm": False, "regularization": 0.1}
    options = {"batch_size": 2, "precision": "bf16", "gradient_checkpointing": True}
    options |= {"initial_embedding": "cat-toy.safetensors"}
    run = word_graph(sd15_checkpoint, links, nodes, options, name="second", learning_rate=1e-4, **widgets)
    server.queue(run).require_success()
    steps = (server.base_directory / "output/palp/second_00001/metrics.jsonl").read_text().splitlines()
    assert all(json.loads(step)["losses"]["regularization"] >= 0 for step in steps) and len(steps) > 1
    first, second = (load_file(folder / f"{name}.safetensors") for name in ("cat-toy", "second"))
    assert 0 < (second["emb_params"] - first["<cat-toy>"]).abs().max() < 1e-3

    frozen = {"embedding_learning_rate": 0.0, "initial_embedding": "second.safetensors"}

    def refined(number: int) -> torch.Tensor:
        server.queue(personalize_graph(sd15_checkpoint, options=frozen, file_name="pivotal")).require_success()
        name = f"pivotal_{number:05}"
        return load_file(server.base_directory / f"models/loras/{name}.safetensors")[
            f"bundle_emb.{name}.string_to_param.*"
        ]

    torch.testing.assert_close(refined(1).float(), second["emb_params"], rtol=1e-3, atol=1e-5)
    again = {"emb_params": second["emb_params"] / 2}
    save_file(again, folder / "second.safetensors")  # a word that was trained anew: nothing in the graph has changed
    torch.testing.assert_close(refined(2).float(), again["emb_params"], rtol=1e-3, atol=1e-5)
