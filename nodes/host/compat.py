"""What differs between the versions of ComfyUI that we support: one probe each, with the version that needs it."""

from __future__ import annotations

import inspect

import comfy.model_management

from ...palp_core.errors import ModelError

#: Marks an input as advanced. The keyword `advanced` exists in newer hosts only; all of them read this.
ADVANCED = {"advanced": True}


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out. From about 0.13 the host knows more kinds of it than one."""
    host = comfy.model_management
    return host.is_oom(error) if hasattr(host, "is_oom") else isinstance(error, host.OOM_EXCEPTION)


def out_of_memory(text: str) -> Exception:
    """Make an error for full memory that the host takes for its own kind, so that it unloads its models."""
    return comfy.model_management.OOM_EXCEPTION(text)


def without_dynamic_memory(patcher):
    """Return a plain copy of a model whose weights the host streams in (dynamic VRAM), made from its file.

    Any other model is returned as it is. Raises ModelError where the host or the model's loader cannot do it.
    """
    if not patcher.is_dynamic():
        return patcher
    if "disable_dynamic" not in inspect.signature(patcher.clone).parameters:  # 0.12
        raise ModelError(
            "this ComfyUI computes no gradients with dynamic VRAM. Start it without --fast dynamic_vram, or update."
        )
    if patcher.cached_patcher_init is None:
        raise ModelError(
            "the node that loaded this model does not say how to load it again, which gradients with dynamic VRAM "
            "need. Use ComfyUI's own loader, or start ComfyUI with --disable-dynamic-vram."
        )
    if hasattr(patcher, "get_non_dynamic_delegate"):  # reads the file once for one MODEL, and again for a copy of it
        return patcher.get_non_dynamic_delegate()
    return patcher.clone(disable_dynamic=True)
