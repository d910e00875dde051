"""What a training is said to take, and what is lowered until it fits a card."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import Concept, Personalization, PersonalizationConfig, Subject, TextualInversion, TextualInversionConfig
from palp_core.methods.memory import MemoryConfig, advice, estimate, fit_memory, lower, workload
from palp_core.methods.result import describe, personalization_identity
from palp_core.methods.summary import summary
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.models.lora import attached_lora
from palp_core.training.demand import Demand, demand
from palp_core.training.loop import Training

BATCH = 6
PLENTY = 1000.0  # GB
CARD = torch.device("cuda")  # whose memory is told by the tests


@pytest.fixture
def backbone(tmp_path) -> DiffusersBackbone:
    return DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cpu")


def training(backbone: DiffusersBackbone, **settings) -> Personalization:
    config = PersonalizationConfig(**{"steps": 1, "batch_size": BATCH, "rank": 2, "resolution": 64, **settings})
    return Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config)


def needed(method: Personalization | TextualInversion, **changed) -> float:
    """Return what it takes with its settings, but for those that are changed; GB."""
    found = demand(method.backbone, replace(workload(method), **changed))
    return found.weights + found.step


def test_no_more_is_lowered_than_has_to_be(backbone):
    method = training(backbone)
    assert lower(method, needed(method), bf16=True) == []
    assert method.config == training(backbone).config
    assert lower(method, needed(method, gradient_checkpointing=True), bf16=True) == ["gradient_checkpointing on"]
    assert method.config == replace(training(backbone).config, gradient_checkpointing=True)


def test_the_largest_batch_that_fits_is_taken_and_trained(backbone):
    method = training(backbone)
    room = needed(method, gradient_checkpointing=True, batch_size=4)
    assert lower(method, room, bf16=True) == ["gradient_checkpointing on", "batch_size 4"]
    assert needed(method) <= room and method.backbone.compute_dtype == torch.float32
    run = Training(method)
    list(run.steps())
    assert describe(method, run.result, "cat").info.settings["batch_size"] == 4


def test_bf16_comes_last_and_only_where_the_device_computes_in_it(backbone):
    method = training(backbone)
    assert lower(method, 0.0, bf16=False) == ["gradient_checkpointing on", "batch_size 1"]
    assert backbone.compute_dtype == torch.float32
    assert lower(method, 0.0, bf16=True) == ["precision bf16"]
    assert backbone.compute_dtype == torch.bfloat16
    assert [step.losses for step in Training(method).steps()]


def test_a_lowered_training_is_the_same_as_one_that_was_set_so(backbone):
    method = training(backbone)
    lower(method, needed(method, gradient_checkpointing=True, batch_size=2), bf16=False)
    asked = training(backbone, batch_size=2)
    assert personalization_identity(method) == personalization_identity(asked)
    assert personalization_identity(method) != personalization_identity(training(backbone))


def test_a_number_lowers_and_says_so(backbone):
    method = training(backbone, batch_size=64, resolution=2048, rank=256)
    backbone.device = CARD
    fit_memory(method, MemoryConfig("8"), None)
    said = method.memory_note
    assert method.config.gradient_checkpointing and needed(method) < MemoryConfig("8").room, said
    assert "Chosen for 8 GB: gradient_checkpointing on" in said and "That is more" not in said
    assert summary(method).endswith(said)


def test_auto_lowers_nothing_and_says_what_would_fit(backbone):
    method = training(backbone)
    before, backbone.device = method.config, CARD
    fit_memory(method, MemoryConfig(), PLENTY)
    assert method.memory_note == estimate(method)
    fit_memory(method, MemoryConfig(), needed(method, gradient_checkpointing=True, batch_size=2))
    assert method.memory_note.endswith("that there are. Set gradient_checkpointing on, batch_size 2.")
    assert method.config == before


def test_where_nothing_fits_the_last_resorts_are_named(backbone):
    method = training(backbone, gradient_checkpointing=True, batch_size=1, resolution=1024)
    backbone.device = CARD
    assert advice(method, 0.0) == (
        "That is more than the 0.0 GB that there are. Set resolution 512. Or take a smaller model."
    )
    backbone.offloading = False  # as where it is offered
    assert "Set resolution 512, offloading on." in advice(method, 0.0)


def test_a_card_that_is_smaller_than_the_number_is_told(backbone):
    method = training(backbone)
    backbone.device = CARD
    fit_memory(method, MemoryConfig("24"), 0.1)
    assert "That is more than the 0.1 GB" in method.memory_note


def test_on_a_cpu_it_is_ram_and_nothing_is_lowered(backbone):
    method = training(backbone, batch_size=64, resolution=2048)
    before = method.config
    fit_memory(method, MemoryConfig("8"), backbone.free_memory())
    assert method.config == before
    assert method.memory_note == f"Takes about {needed(method):.1f} GB of RAM."


def test_a_word_alone_takes_the_text_encoders_and_no_lora(backbone):
    config = TextualInversionConfig(steps=1, batch_size=BATCH, resolution=64)
    word = TextualInversion(backbone, Concept(pictures((64, 64)), "c"), config)
    backbone.device = CARD
    encoders = sum(p.nbytes for encoder in backbone.text_encoders() for p in encoder.parameters()) / 1e9
    assert needed(word) - needed(word, learns_words=False) == pytest.approx(encoders)
    assert needed(word, rank=32) > needed(word)
    assert lower(word, needed(word, gradient_checkpointing=True, batch_size=1), bf16=False)[-1] == "batch_size 1"


def test_more_layers_take_more_and_are_another_training(backbone):
    few, more = training(backbone), training(backbone, targets="attention+ff+proj", rank=8)
    with attached_lora(backbone, 8, 0, "attention+ff+proj") as lora:
        count = sum(p.numel() for p in lora.parameters())
    adapters = replace(workload(more), batch_size=0)
    trained_bytes = demand(backbone, adapters).step - demand(backbone, replace(adapters, rank=0)).step
    assert trained_bytes * 1e9 == pytest.approx(16 * count)  # float32, its gradient and two moments
    assert needed(more, rank=0) > needed(few, rank=0)
    assert personalization_identity(few) != personalization_identity(training(backbone, targets="attention+ff"))


def test_copies_of_weights_in_another_format_count_as_autograd_keeps_them(backbone):
    backbone.compute_in_bf16()
    weights = [p.requires_grad_(False) for p in backbone.denoiser.parameters() if p.ndim > 1]
    shapes = {shape for p in weights for shape in (p.shape, p.T.shape if p.ndim == 2 else p.shape)}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and tensor.shape in shapes:
            kept[tensor.data_ptr()] = tensor
        return tensor

    x, prompt = torch.randn(1, 4, 8, 8, requires_grad=True), backbone.encode_prompt("a cat", {}).detach()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backbone.denoise(x, torch.ones(1), [prompt])
    alone = replace(workload(training(backbone)), batch_size=0, dtype=torch.float32)
    copies = demand(backbone, replace(alone, dtype=torch.bfloat16)).step - demand(backbone, alone).step
    assert copies == pytest.approx(sum(tensor.nbytes for tensor in kept.values()) / 1e9, rel=0.15)
    checkpointed = replace(alone, dtype=torch.bfloat16, gradient_checkpointing=True)
    assert demand(backbone, checkpointed).step < demand(backbone, alone).step + copies / 2


def test_offloaded_weights_count_as_far_as_they_lie_on_the_card():
    found = Demand(weights=12.0, step=2.0)
    assert found.on_device(offloading=False, room=9.0) == 14
    assert found.on_device(offloading=True, room=9.0) == pytest.approx(8)
    assert found.on_device(offloading=True, room=None) == 14


def test_offloading_is_said_with_what_stays_in_ram(backbone):
    method = training(backbone)
    backbone.device, backbone.offloading = CARD, True
    assert "of weights in RAM" in estimate(method, 0.0) and "RAM" not in estimate(method, PLENTY)
