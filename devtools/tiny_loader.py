"""A node pack for the tests' server: a loader of tiny random transformers, of which no file could tell the sizes."""

import importlib.util
import sys
from pathlib import Path

DEVTOOLS = Path(__file__).resolve().parent


def _host_transformers():
    """Our module beside this file; the repository's root must stay off the path, or it would hide ComfyUI's nodes."""
    if "devtools" not in sys.modules:
        spec = importlib.util.spec_from_file_location("devtools", DEVTOOLS / "__init__.py")
        sys.modules["devtools"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["devtools"])
    return importlib.import_module("devtools.host_transformers")


class TinyTransformerLoader:
    """Gives MODEL, CLIP and VAE of a family."""

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name for it
        return {"required": {"family": ("STRING", {"default": "z_image"})}}

    def load(self, family: str) -> tuple:
        tiny = _host_transformers()
        return tiny.tiny_model(family), tiny.tiny_clip(family), tiny.TinyVae(family)


NODE_CLASS_MAPPINGS = {"TinyTransformerLoader": TinyTransformerLoader}
