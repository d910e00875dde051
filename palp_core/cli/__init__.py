"""The command `palp`: prompt-aligned personalization without ComfyUI."""
