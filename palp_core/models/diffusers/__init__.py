"""Pipelines of the diffusers library as a backbone, for use without ComfyUI."""

from .backbone import DiffusersBackbone
from .loading import load_pipeline

__all__ = ["DiffusersBackbone", "load_pipeline"]
