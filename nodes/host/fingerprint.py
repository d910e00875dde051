"""What tells one of the host's models from another: some of its weights, and all that is patched onto them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from ...palp_core.models.backbone import some_weights

#: A weight that checkpoints of Stable Diffusion 1.x do not hold, as nobody reads what it makes. The host leaves in it
#: what the memory held before, which is another thing each time.
UNSET = "text_projection.weight"


def fingerprint(patcher) -> Iterator[str | Tensor]:
    """Yield texts and small tensors of a ModelPatcher, the same whenever the same weights are patched alike."""
    yield some_weights(_unpatched(patcher))
    for key in sorted(patcher.patches, key=str):
        yield str(key)
        yield from _parts(patcher.patches[key])


def _unpatched(patcher) -> Iterator[Tensor]:
    """All parameters as they were loaded: while a model is in use, patches are in the weights, also those of a copy."""
    for name, parameter in patcher.model.named_parameters():
        if name.endswith(UNSET):
            continue
        saved = patcher.backup.get(name)
        yield parameter if saved is None else saved.weight


def _parts(patch: object) -> Iterator[str | Tensor]:
    """Numbers, names and tensors inside a patch, which differ from host to host in what holds them."""
    if isinstance(patch, Tensor):
        yield patch.detach().flatten()[:64].to("cpu").float()
    elif isinstance(patch, Mapping):
        for name in sorted(patch, key=str):
            yield str(name)
            yield from _parts(patch[name])
    elif isinstance(patch, (list, tuple)):
        for part in patch:
            yield from _parts(part)
    elif hasattr(patch, "weights"):  # a weight adapter: LoRA and its like
        yield type(patch).__name__
        yield from _parts(patch.weights)
    elif isinstance(patch, (str, int, float, bool)):
        yield repr(patch)
