"""ComfyUI's MODEL, CLIP and VAE as the core wants them."""
