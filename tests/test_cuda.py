"""On a GPU: mixed precision trains, the model goes back to where it was, and the result is near the CPU's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from devtools.random_models import pictures, tiny_pipeline
from palp_core import (
    Concept,
    Personalization,
    PersonalizationConfig,
    Subject,
    TextualInversion,
    TextualInversionConfig,
)
from palp_core.methods.layered_words.learner import LayeredWord
from palp_core.methods.layered_words.neti import NetiConfig
from palp_core.methods.layered_words.p_plus import PPlusConfig
from palp_core.methods.memory import MemoryConfig, fit_memory
from palp_core.methods.pick_and_draw.guidance import PickAndDraw, PickAndDrawConfig
from palp_core.models.attention import prompted
from palp_core.models.diffusers.backbone import DiffusersBackbone
from palp_core.training.loop import Training

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no NVIDIA GPU that this torch can use."),
]

CONFIG = PersonalizationConfig(steps=5, resolution=64, rank=4, learning_rate=1e-3, embedding_learning_rate=1e-3)


def learned(family: str, folder, device: str, precision: str) -> torch.Tensor:
    backbone = DiffusersBackbone(tiny_pipeline(family, folder), device, precision)
    run = Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", CONFIG))
    list(run.steps())
    assert backbone.denoiser.device.type == backbone.pipeline.text_encoder.device.type == "cpu"
    return torch.cat([run.result.lora[k].flatten() for k in sorted(run.result.lora) if "lora_up" in k])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 0.99), ("bf16", 0.9)])
def test_training_on_the_gpu_learns_what_the_cpu_learns(tmp_path, family, precision, nearness):
    cpu, gpu = (learned(family, tmp_path, device, p) for device, p in (("cpu", "fp32"), ("cuda", precision)))
    assert torch.nn.functional.cosine_similarity(cpu, gpu, dim=0) > nearness


@pytest.mark.parametrize("config", [PPlusConfig(batch_size=2), NetiConfig(gradient_accumulation=1)])
def test_words_of_layers_learn_on_the_gpu_what_they_learn_on_the_cpu(tmp_path, config):
    def learned(device: str, precision: str) -> torch.Tensor:
        backbone = DiffusersBackbone(tiny_pipeline("sdxl", tmp_path), device, precision)
        few = replace(config, steps=5, resolution=64, learning_rate=1e-3)
        run = Training(LayeredWord(backbone, Concept(pictures((64, 64)), "c"), few))
        drawn = [run.learner.draw("a sketch of [V]", "[V]", 2.0, 0, 2) for _ in run.steps()]
        assert all(picture.isfinite().all() for picture in drawn)
        return torch.cat([tensor.flatten() for _, tensor in sorted(run.result.tensors.items())])

    cpu, fp32, bf16 = (learned(*where) for where in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")))
    assert torch.nn.functional.cosine_similarity(cpu, fp32, dim=0) > 0.999
    assert torch.nn.functional.cosine_similarity(cpu, bf16, dim=0) > 0.99


def test_a_card_tells_what_is_free_whatever_this_process_holds(tmp_path):
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cuda")
    held = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    free, total = backbone.free_memory(), torch.cuda.get_device_properties(0).total_memory / 1e9
    del held
    assert 1 < free <= total and backbone.free_memory() == pytest.approx(free, rel=0.05)
    method = Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", CONFIG)
    fit_memory(method, MemoryConfig("8"), free)
    assert method.config == CONFIG and method.memory_note.endswith("GB of the card's memory.")


def test_moments_of_eight_bits_go_on_bit_by_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    backbone = DiffusersBackbone(tiny_pipeline("sd1", tmp_path), "cuda")
    config = replace(CONFIG, optimizer="adamw8bit", rank=64)  # matrices large enough to be kept in 8 bits

    def run() -> Training:
        return Training(Personalization(backbone, [Subject(pictures((64, 64)), "cat")], "a sketch of [V]", config))

    whole, first, second = run(), run(), run()
    list(whole.steps())
    for step in first.steps():
        if step.index == 2:
            state = {name: tensor.cpu() for name, tensor in first.learner.state().items()}
            break
    list(second.steps(state))
    nearness = [torch.allclose(whole.result.lora[k], second.result.lora[k], atol=1e-5) for k in whole.result.lora]
    assert all(nearness) and any(tensor.dtype == torch.uint8 for n, tensor in state.items() if n.endswith("state1"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_word_is_learned_with_a_pipeline_that_lies_on_the_gpu_already(tmp_path, precision):
    pipeline = tiny_pipeline("sdxl", tmp_path).to("cuda")
    config = TextualInversionConfig(steps=2, resolution=64, vectors=2)
    backbone = DiffusersBackbone(pipeline, "cuda", precision)
    concept = Concept(pictures((64, 64)), "c")  # the tokenizer spells: one letter is one token
    run = Training(TextualInversion(backbone, concept, config))
    list(run.steps())
    assert run.result.steps == 2 and all(rows.shape[0] == 2 for rows in run.result.vectors.values())


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 0.99), ("bf16", 0.8), ("fp16", 0.8)])
def test_guidance_on_the_gpu_moves_latents_as_on_the_cpu(tmp_path, family, precision, nearness):
    x = 3 * torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    moves = []
    for device, chosen in (("cpu", "fp32"), ("cuda", precision)):
        backbone = DiffusersBackbone(tiny_pipeline(family, tmp_path).to(device), device, chosen)
        sampled, reference, template = (
            prompted(backbone, text, text[-3:])
            for text in ("a sketch of a cat", "a photo of a cat", "a sketch of a dog")
        )
        latents = backbone.encode_image(pictures((64, 64))[0])
        guidance = PickAndDraw(sampled, reference, template, latents, backbone.levels, PickAndDrawConfig(draw_weight=1))
        at = x.to(device)
        moves.append((guidance(at, at.new_full((2,), 3.0)) - at).cpu().flatten())
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > nearness
