"""T-LoRA: less of the LoRA at high noise (arXiv 2507.05964; github.com/ControlGenAI/T-LoRA).

At a share t of the schedule, 1 where it is noise alone, the first r(t) of r components work, in training and when
pictures are drawn:

    r(t) = floor((1 - t) * (r - r_min)) + r_min
    W(t) = W + P diag(l) M(t) Q - P0 diag(l0) M(t) Q0        M(t) = diag(1 for the first r(t), else 0)

Q (r, in), l (r,) and P (out, r) are trained. They begin, as Q0, l0 and P0, with the last r singular components of a
random matrix whose numbers deviate by 1 / r, so that no component repeats another and the model is the base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

from palp_core.methods.personalization_learner import PersonalizationLearner
from palp_core.models.backbone import Backbone
from palp_core.models.lora import ADAPTER
from palp_core.training.optimizers import Optimizer

from .training import Rival, Sample


@dataclass(frozen=True)
class TLora(Rival):
    """Trains by the photo's loss alone."""

    #: Share of the components that work at any noise; the authors' 32 of 64.
    least: float = 0.5

    def loss(self, sample: Sample) -> Tensor:
        return sample.error(sample.personalized(sample.photo), sample.x0)

    @contextmanager
    def prepared(self, learner: PersonalizationLearner) -> Iterator[None]:
        now = _Now(learner.backbone, learner.config.rank, self.least)
        random = torch.Generator().manual_seed(learner.config.seed)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(learner.backbone, "denoise", now.denoise))
            scales = [_attach(stack, parts, now, random) for parts in learner.lora.layers.values()]
            groups = [_settings(group) for group in learner.optimizer.optimizer.param_groups]
            groups[0]["params"] = [*groups[0]["params"], *scales]
            learner.optimizer = Optimizer(groups, learner.backbone, learner.config)
            yield


def _settings(group: dict) -> dict:
    return {name: group[name] for name in ("params", "lr", "weight_decay")}


class _Now:
    """Which components work for the samples that are being denoised."""

    def __init__(self, backbone: Backbone, rank: int, least: float):
        self.levels, self.usual = backbone.levels, backbone.denoise
        self.rank, self.least = rank, max(1, round(least * rank))
        self.mask: Tensor | None = None  # (B, 1, r)

    def denoise(self, x: Tensor, sigma: Tensor, conds) -> Tensor:
        """Stand in the place of the backbone's."""
        self.mask = components(self.levels.nearest(sigma) / len(self.levels), self.rank, self.least)[:, None].to(x)
        return self.usual(x, sigma, conds)


def components(share: Tensor, rank: int, least: int) -> Tensor:
    """Tell which components work at a share of the schedule, (B,) in 0..1; (B, rank) of 1 and 0."""
    count = ((1 - share) * (rank - least)).floor() + least
    return (torch.arange(rank, device=share.device) < count[:, None]).float()


def _attach(stack: ExitStack, parts: list[nn.Module], now: _Now, random: torch.Generator) -> nn.Parameter:
    """Make T-LoRA of the adapters of one projection; its parts share Q and l. Returns l, (1, r)."""
    down = parts[0].lora_A[ADAPTER]
    rows = [len(part.lora_B[ADAPTER].weight) for part in parts]
    q, scale, p = (tensor.to(down.weight) for tensor in last_components(down.weight.shape, sum(rows), random))
    down.weight.data, trained = q.clone(), nn.Parameter(scale.clone())
    stack.callback(down.register_forward_hook(lambda _m, _i, out: out * trained * now.mask).remove)
    for part, some in zip(parts, p.split(rows), strict=True):
        part.lora_B[ADAPTER].weight.data = some.clone()
        stack.callback(part.register_forward_hook(_without_start(q, scale, some, now)).remove)
    return trained


def _without_start(q: Tensor, scale: Tensor, p: Tensor, now: _Now):
    def hook(layer: nn.Module, given: tuple, output: Tensor) -> Tensor:
        if layer.disable_adapters:
            return output
        return output - (given[0] @ q.T * scale * now.mask @ p.T).to(output)

    return hook


def last_components(shape: tuple[int, int], out: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw Q0 (r, in), l0 (1, r) and P0 (out, r). shape: of Q0."""
    rank, into = shape
    left, values, right = torch.linalg.svd(torch.randn(into, out, generator=random) / rank, full_matrices=False)
    return left[:, -rank:].T.contiguous(), values[None, -rank:], right[-rank:].T.contiguous()
