"""What a training step costs on one of ComfyUI's own networks, beside a step of ComfyUI's own Train LoRA node.

All in one process, on the same random weights, in turns. On a CPU the network is a narrow one of the same blocks; on
CUDA it has full size. Train LoRA puts adapters on all layers, PALP on the attention alone; the text encoder's word is
PALP's alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch

from devtools.comfy_server import find_comfyui
from devtools.host_models import import_host, import_pack
from devtools.random_models import pictures
from devtools.sized_models import sized_model, sized_parts
from palp_core.models.families import FAMILIES

from .setup import setting, steps_to_time, synchronize

PROMPT = "a sketch of [V] in Paris"
RANK = 32
GIGABYTE = 1e9
#: Of Train LoRA; the rest as the node has it.
NODE_WIDGETS = {
    "grad_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "rank": RANK,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 0,
    "quantized_backward": False,
    "algorithm": "LoRA",
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}
#: Trainings of a LoRA without a word, on attention alone, and on all layers, as Train LoRA's is.
ALONE = {"LoRA alone": {}, "LoRA alone, all layers": {"targets": "attention+ff+proj"}}


@dataclass(frozen=True)
class Cost:
    """Holds what a step takes: seconds, and gigabytes at its peak, weights included; 0 on a CPU, which tells none."""

    seconds: float
    gigabytes: float = 0.0


class HostSteps:
    """Takes steps of training on the host's model of a family, of random weights; to be made after `import_host`."""

    def __init__(self, family: str, device: str, resolution: int, batch_size: int, steps: int):
        self.family, self.device = family, torch.device(device)
        self.resolution, self.batch_size, self.steps = resolution, batch_size, steps
        self.model, self.clip, self.vae = sized_parts(family, device)
        # Train LoRA loads the model anew, as a loader would.
        self.model.cached_patcher_init = (_loaded_again, (family, device))

    def kinds(self) -> dict[str, Callable[[], Cost]]:
        """Name what can be measured."""
        found: dict[str, Callable[[], Cost]] = {}
        alone = ALONE if FAMILIES[self.family].subject_words == "learned" else []
        for name in [*self.alignments(), *alone]:
            for suffix, checkpointing in (("", False), (" checkpointed", True)):
                found[name + suffix] = lambda name=name, c=checkpointing: self.ours(name, c)
        for suffix, checkpointing in (("", False), (" checkpointed", True)):
            found[f"Train LoRA{suffix}"] = lambda c=checkpointing: self.train_lora(c)
        return found

    def alignments(self) -> dict[str, object]:
        """Name the scores that the family's guidance admits."""
        from palp_pack.palp_core import AlignmentConfig
        from palp_pack.palp_core.methods.scores import Delta, Palp

        each = AlignmentConfig(score=Delta(interval=1, null_prior=0))
        found = {"plain": AlignmentConfig(weight=0), "delta": AlignmentConfig(), "delta in each step": each}
        if FAMILIES[self.family].guidance == "classifier-free":
            found["palp"] = AlignmentConfig(score=Palp())
        return found

    def ours(self, name: str, checkpointing: bool) -> Cost:
        """Measure steps of PALP, after one that warms up."""
        from palp_pack.nodes.host.backbone import ComfyBackbone
        from palp_pack.palp_core import Personalization, PersonalizationConfig, Subject
        from palp_pack.palp_core.training.loop import Training

        own = {"embedding_learning_rate": 0.0, **ALONE[name]} if name in ALONE else {}
        alignment = self.alignments()["plain" if own else name]
        count = steps_to_time(alignment, self.steps)
        config = PersonalizationConfig(
            steps=count + 1,
            batch_size=self.batch_size,
            resolution=self.resolution,
            rank=RANK,
            alignment=alignment,
            gradient_checkpointing=checkpointing,
            **own,
        )
        photo = pictures((self.resolution, self.resolution))
        backbone = ComfyBackbone(self.model, self.clip, self.vae)
        steps = Training(Personalization(backbone, [Subject(photo, "cat")], PROMPT, config)).steps()
        try:
            next(steps)
            with Peak(self.device) as peak:
                start = time.perf_counter()
                for _ in range(count):
                    next(steps)
                synchronize(self.device)
                taken = time.perf_counter() - start
        finally:
            steps.close()
        return Cost(taken / count, peak.gigabytes)

    def train_lora(self, checkpointing: bool) -> Cost:
        """Measure steps of the host's node, from one update of its optimizer to the next."""
        import comfy.model_management
        from comfy_extras.nodes_train import TrainLoraNode

        latents = self.vae.encode(pictures((self.resolution, self.resolution))[0][None])
        latents = latents.repeat(self.batch_size, *[1] * (latents.ndim - 1))
        positive = self.clip.encode_from_tokens_scheduled(self.clip.tokenize("a photo of ohwx cat"))
        precision = "bf16" if self.device.type == "cuda" else "fp32"
        widgets = {**NODE_WIDGETS, "gradient_checkpointing": checkpointing, "steps": 1 + self.steps}
        widgets |= {"training_dtype": precision, "lora_dtype": precision, "batch_size": self.batch_size}
        inputs = {name: [value] for name, value in widgets.items()}
        comfy.model_management.unload_all_models()  # it trains a copy that it loads
        with torch.inference_mode(), Peak(self.device) as peak, updates(self.device) as times:
            TrainLoraNode.execute(model=[self.model], latents=[{"samples": latents}], positive=[positive], **inputs)
        return Cost((times[-1] - times[0]) / self.steps, peak.gigabytes)


@contextmanager
def updates(device: torch.device) -> Iterator[list[float]]:
    """Note when an AdamW takes its steps."""
    times: list[float] = []
    step = torch.optim.AdamW.step

    def noted(*args, **kwargs):
        result = step(*args, **kwargs)
        synchronize(device)
        times.append(time.perf_counter())
        return result

    with mock.patch.object(torch.optim.AdamW, "step", noted):
        yield times


class Peak:
    """Record the most that tensors occupy on a GPU inside the context."""

    def __init__(self, device: torch.device):
        self.on_gpu, self.gigabytes = device.type == "cuda", 0.0

    def __enter__(self) -> Peak:
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *error) -> None:
        if self.on_gpu:
            self.gigabytes = torch.cuda.max_memory_allocated() / GIGABYTE


def _loaded_again(family: str, device: str, disable_dynamic: bool = True):
    """Make the same weights again, as the host's loaders do."""
    return sized_model(family, device)


def measured(args: argparse.Namespace, family: str) -> dict[str, object]:
    """Measure every kind of step in turns, print the table, and return the figures."""
    import_host(find_comfyui())
    import_pack()
    kinds = HostSteps(family, args.device, args.resolution, args.batch_size, args.steps).kinds()
    costs: dict[str, list[Cost]] = {name: [] for name in kinds}
    for _ in range(args.rounds):
        for name, measure in kinds.items():
            costs[name].append(_attempt(name, measure))
    seconds = {name: statistics.median(c.seconds for c in found) for name, found in costs.items()}
    gigabytes = {name: max(c.gigabytes for c in found) for name, found in costs.items()}
    print(f"ComfyUI's network, {setting(args)}")
    print(f"{'':26}{'seconds':>10}{'ratio':>8}{'peak GB':>10}")
    for name, value in seconds.items():
        print(f"{name:26}{value:10.3f}{value / seconds['plain']:8.2f}{gigabytes[name]:10.2f}")
    return {"setting": setting(args), "seconds": seconds, "gigabytes": gigabytes}


def _attempt(name: str, measure: Callable[[], Cost]) -> Cost:
    """Measure; NaN where the host's node fails."""
    try:
        return measure()
    except (RuntimeError, ValueError) as error:
        if not name.startswith("Train LoRA"):
            raise
        print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
        return Cost(float("nan"), float("nan"))
