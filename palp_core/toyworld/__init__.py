"""A small procedural world with an embedded diffusion model, on which every claim of this project is measured.

`scenes` says what can be in a picture, `drawing` draws it, `model` is what the embedded model is made of, `training`
trains it, and `world` has it loaded, with its judges.
"""

from pathlib import Path

#: The embedded model in diffusers' layout.
MODEL_FOLDER = Path(__file__).with_name("model")
