"""Pipelines of the diffusers library as a backbone, for use without ComfyUI."""
