"""What a node has to leave as it found it: the host's models, bit by bit, and what torch and the host go by."""

from __future__ import annotations

import signal

import numpy as np
import torch
from torch import nn

from .parts import Parts

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
#: Attributes of a module's own that trainings set, and have to take away.
ATTRIBUTES = ("forward", "peft_config", "_hf_peft_config_loaded")
PATCHED = ("patches", "object_patches", "wrappers", "callbacks", "injections", "attachments", "additional_models")


def state_of(parts: Parts) -> dict[str, object]:
    """Copy everything by name."""
    return state_of_models(parts) | state_around()


def state_of_models(parts: Parts) -> dict[str, object]:
    """Copy what the models are and hold, by name."""
    modules = {"MODEL": parts.model.model, "CLIP": parts.clip.cond_stage_model}
    if hasattr(parts.vae, "first_stage_model"):
        modules["VAE"] = parts.vae.first_stage_model
    found = {}
    for name, module in modules.items():
        found |= {f"{name} {key}": value for key, value in _module_state(module).items()}
    for name, patcher in (("MODEL", parts.model), ("CLIP", parts.clip.patcher)):
        found |= {f"{name} {key}": repr(getattr(patcher, key, None)) for key in PATCHED}
        found[f"{name} options"] = repr(patcher.model_options)
    found["CLIP tokenizer"] = (parts.clip.tokenizer, parts.clip.layer_idx)
    found["VAE attributes"] = sorted(vars(parts.vae))
    return found


def state_around() -> dict[str, object]:
    """Copy torch's random numbers and settings, and the host's, by name."""
    return _torch_state() | _host_state()


def _module_state(root: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
        found[name] = tensor.detach().clone()
        found[f"{name} flags"] = (type(tensor), tensor.requires_grad, tensor.grad is None, tensor.device)
    for name, module in root.named_modules():
        hooks = tuple(len(getattr(module, kind, ())) for kind in HOOKS)
        own = tuple(module.__dict__.get(key) for key in ATTRIBUTES)
        found[f"{name} module"] = (type(module), module.training, hooks, own)
    return found


def _torch_state() -> dict[str, object]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    flags = {
        "random numbers": torch.get_rng_state(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), cuda.matmul.allow_tf32),
        "attention": (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "threads": torch.get_num_threads(),
    }
    return {f"torch {name}": value for name, value in flags.items()} | {"numpy": repr(np.random.get_state())}


def _host_state() -> dict[str, object]:
    import comfy.model_management
    import comfy.utils

    return {
        "in_training": getattr(comfy.model_management, "in_training", False),
        "progress hook": comfy.utils.PROGRESS_BAR_HOOK,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Name what is not as it was."""
    missing = before.keys() ^ after.keys()
    return sorted(missing) + [key for key in before.keys() & after.keys() if not _same(before[key], after[key])]


def _same(some: object, other: object) -> bool:
    if torch.is_tensor(some):
        return some.dtype == other.dtype and some.shape == other.shape and torch.equal(some, other)
    return some == other
