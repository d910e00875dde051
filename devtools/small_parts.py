"""A node pack for the tests' server: the host builds text encoders of few layers, and Stable Diffusion's VAE narrow.

They are most of the work on a CPU. All other sizes, and how a checkpoint file is taken apart, stay the host's own.
"""

import comfy.clip_model
from comfy.ldm.models import autoencoder

TEXT_LAYERS = 3  # the last but one is read, and one comes before it
FULL_VAE, SMALL_VAE = 128, 32  # channels of the first level

NODE_CLASS_MAPPINGS = {}

_init_encoder = comfy.clip_model.CLIPEncoder.__init__
_init_vae = autoencoder.AutoencoderKL.__init__


def _init_shallow_encoder(self, num_layers, *sizes):
    _init_encoder(self, min(num_layers, TEXT_LAYERS), *sizes)


def _init_narrow_vae(self, **options):
    for name in ("ddconfig", "decoder_ddconfig"):
        if options.get(name, {}).get("ch") == FULL_VAE:
            options[name] = {**options[name], "ch": SMALL_VAE}
    _init_vae(self, **options)


comfy.clip_model.CLIPEncoder.__init__ = _init_shallow_encoder
autoencoder.AutoencoderKL.__init__ = _init_narrow_vae
