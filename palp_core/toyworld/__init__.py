"""A small procedural world with an embedded diffusion model, on which every claim of this project is measured.

`scenes` says what can be in a picture, `drawing` draws it, and `world` has the model loaded, with its judges. What
trains the model is in `devtools.toyworld`.
"""

from pathlib import Path
from typing import Literal

#: The embedded model in diffusers' layout.
MODEL_FOLDER = Path(__file__).with_name("model")
LATENT_CHANNELS = 8
LATENT_SIZE = 16  # of a 64x64 picture
#: The embedded UNet, which predicts v, or the transformer, which predicts a flow.
DemoModel = Literal["unet", "transformer"]
