"""Time and memory of a training step, of a guided sampling step and of a step of textual inversion."""
