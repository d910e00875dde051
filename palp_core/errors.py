"""The errors that a user may see. Each message names what is wrong, its value and the remedy."""

from __future__ import annotations

MOST_QUOTED = 80  # letters
OVERFLOWS = (
    "not finite: the model overflows in half precision. Run it in bf16 or fp32 (ComfyUI: --bf16-unet or --fp32-unet)."
)
OUT_OF_MEMORY = "Out of memory. Switch on gradient_checkpointing, then lower batch_size, then resolution."


def printable(text: str, most: int = 100) -> str:
    """A text of any letters and any length, as an error can show it in its line."""
    text = text if len(text) <= most else f"{text[:most]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def quoted(text: str) -> str:
    """What a user wrote, as an error repeats it: enough of it to know it again."""
    return f"'{printable(text, MOST_QUOTED)}'"


class PalpError(ValueError):
    """What was given cannot be used."""


class SettingError(PalpError):
    """A setting has a value that it cannot have."""


class PromptError(PalpError):
    """A prompt, a word of it or a placeholder cannot be read as it is meant."""


class ImageError(PalpError):
    """A photo or a mask cannot be learned from."""


class ModelError(PalpError):
    """A model is of a kind that is not supported, or its parts do not fit together."""


class FileError(PalpError):
    """A file is damaged, is not what it is taken for, or cannot be written."""


class DivergedError(PalpError):
    """Training diverged in this step, counted from 1. The weights before it are still good, and kept."""

    def __init__(self, step: int):
        super().__init__(
            f"the loss is not finite at step {step}. Lower the learning rate, or the weight of PALP's alignment or of "
            "Textual Inversion's regularization, or choose precision bf16 or fp32."
        )
        self.step = step
