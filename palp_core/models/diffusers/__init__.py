"""Pipelines of the diffusers library as a backbone, for use without ComfyUI."""

from ..quantizers import broken_packages_hidden

with broken_packages_hidden():
    from .backbone import DiffusersBackbone
    from .loading import load_pipeline

__all__ = ["DiffusersBackbone", "load_pipeline"]
