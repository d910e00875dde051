"""How the toy world's flow-matching transformer is trained: how it begins, its noise levels, and its optimizer.

Convention: x_t = (1 - s)*x0 + s*eps for s in 0..1, and the velocity is eps - x0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn

from palp_core.toyworld import LATENT_CHANNELS, LATENT_SIZE
from palp_core.toyworld.transformer import KIND, empty_transformer

from .plan import Stage

#: What the branches of a block count at first.
FIRST_GATE = 0.25
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)

SHIFT = 2.0  # of the noise levels
#: Share of the noise levels that are spread evenly, so that the highest and the lowest are not left out.
EVEN = 0.125
EDGE = 1e-4  # of the levels before the shift, which are not 0 and not 1

MUON_MOMENTUM = 0.95
#: Size of Muon's updates, beside AdamW's.
MUON_SIZE = 2.0
#: Steps for an update of Muon's, whose costs do not depend on the batch: with a small one they are a third of a step's.
MUON_EVERY = 2
ADAM_BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.01
#: The odd polynomials of degree 5 that, one after the other, bring all of 0.02 to 1 to within a tenth of 1.
POLAR_EXPRESS = ((7.711, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.594, 0.4107))


@dataclass(frozen=True)
class TransformerPlan:
    """Holds the numbers of the training, which goes on at one rate until a cooldown is asked for."""

    seed: int = 0
    #: How many are drawn, once.
    pictures: int = 24_000
    #: How many of them, the last, only tell how good it is.
    held_out: int = 192
    batch: int = 16
    #: AdamW's; Muon's is in proportion.
    learning_rate: float = 1.5e-3
    #: Steps in which the learning rate rises.
    warmup: int = 100
    ema_decay: float = 0.998
    #: Captions and weights of the error; its length is not planned.
    stage: Stage = Stage(steps=0, learning_rate=0.0, warmup=0, cooldown=0.0, looks=(0.6, 0.7, 0.6))


def new_transformer() -> ZImageTransformer2DModel:
    """Make the transformer with random weights; it says that all velocities are 0."""
    transformer = empty_transformer()
    for block in (*transformer.noise_refiner, *transformer.layers):
        _, attention_gate, _, feed_forward_gate = _zeroed(block.adaLN_modulation[0]).bias.data.chunk(4)
        attention_gate.fill_(FIRST_GATE)
        feed_forward_gate.fill_(FIRST_GATE)
    _zeroed(transformer.all_final_layer[KIND].linear)
    _zeroed(transformer.all_final_layer[KIND].adaLN_modulation[1])
    return transformer


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def spread_levels(count: int, rng: torch.Generator) -> Tensor:
    """Draw s, (count,) in 0..1: one from each of as many equal parts of a logit-normal distribution, then shifted."""
    spread = ((torch.arange(count) + torch.rand((), generator=rng)) / count).clamp(EDGE, 1 - EDGE)
    even = torch.rand(count, generator=rng) < EVEN
    return shifted(torch.where(even, spread, torch.special.ndtri(spread).sigmoid()), SHIFT)


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Move noise levels, in 0..1, towards 1 (arXiv 2403.03206, eq. 23)."""
    return shift * levels / (1 + (shift - 1) * levels)


class MuonAdamW(torch.optim.Optimizer):
    """Muon (arXiv 2502.16982) for the matrices of attention and feed-forward layers, AdamW for all else.

    torch's own Muon computes in bfloat16, which takes ten times as long on processors that lack it.
    """

    def __init__(self, transformer: nn.Module):
        linears = [(name, m) for name, m in transformer.named_modules() if isinstance(m, nn.Linear)]
        matrices = [m.weight for name, m in linears if ".attention." in name or ".feed_forward." in name]
        left_out = {id(p) for p in matrices}
        others = [p for name, p in transformer.named_parameters() if id(p) not in left_out and "pad_token" not in name]
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters once, along their gradients."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            update(group["params"], group["lr"])

    def _muon(self, matrices: list[nn.Parameter], rate: float) -> None:
        """Move matrices by their gradients' means with all singular values near 1, every other step twice as far."""
        for matrix in matrices:
            self._state(matrix, "mean").lerp_(matrix.grad, 1 - MUON_MOMENTUM)
        if self._count(matrices[0]) % MUON_EVERY:
            return
        rate *= MUON_SIZE * MUON_EVERY
        shapes = sorted({matrix.shape for matrix in matrices})
        for alike in ([matrix for matrix in matrices if matrix.shape == shape] for shape in shapes):
            updates = [matrix.grad.lerp(self._state(matrix, "mean"), MUON_MOMENTUM) for matrix in alike]
            for matrix, update in zip(alike, orthogonal(torch.stack(updates)), strict=True):
                size = 0.2 * max(matrix.shape) ** 0.5  # as large as AdamW's
                matrix.mul_(1 - rate * WEIGHT_DECAY).add_(update, alpha=-rate * size)

    def _adamw(self, parameters: list[nn.Parameter], rate: float) -> None:
        """Move parameters as AdamW does (arXiv 1711.05101, algorithm 2)."""
        first, second = ADAM_BETAS
        for p in parameters:
            mean = self._state(p, "mean").lerp_(p.grad, 1 - first)
            square = self._state(p, "square").lerp_(p.grad.square(), 1 - second)
            count = self._count(p)
            deviation = (square / (1 - second**count)).sqrt_().add_(1e-8)
            p.mul_(1 - rate * WEIGHT_DECAY).addcdiv_(mean, deviation, value=-rate / (1 - first**count))

    def _count(self, p: nn.Parameter) -> int:
        """Count the steps that a parameter has been through, this one included."""
        return int(self.state[p].setdefault("step", torch.zeros(())).add_(1))

    def _state(self, p: nn.Parameter, name: str) -> Tensor:
        """Return what is kept for a parameter, of its shape and 0 at first."""
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p)
        return self.state[p][name]


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices, (N, rows, columns), near 1 (arXiv 2505.16932, sec. 3)."""
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
