"""A node pack for the tests' server: the host builds its text encoders and Stable Diffusion's VAE small.

They are most of the work on a CPU. All other sizes, and how a checkpoint file is taken apart, stay the host's own.
"""

import comfy.clip_model
from comfy.ldm.models import autoencoder

FULL_TEXT = 768  # the least width of Stable Diffusion's text encoders; the demo world's is narrower
TEXT_LAYERS = 2  # the last but one is read
FULL_VAE, SMALL_VAE = 128, 32  # channels of the first level

NODE_CLASS_MAPPINGS = {}

_init_encoder = comfy.clip_model.CLIPEncoder.__init__
_init_vae = autoencoder.AutoencoderKL.__init__


def _init_small_encoder(self, num_layers, embed_dim, heads, hidden, *options):
    if embed_dim >= FULL_TEXT:
        num_layers, hidden = TEXT_LAYERS, embed_dim
    _init_encoder(self, num_layers, embed_dim, heads, hidden, *options)


def _init_small_vae(self, **options):
    for name in ("ddconfig", "decoder_ddconfig"):
        if options.get(name, {}).get("ch") == FULL_VAE:
            options[name] = {**options[name], "ch": SMALL_VAE}
    _init_vae(self, **options)


comfy.clip_model.CLIPEncoder.__init__ = _init_small_encoder
autoencoder.AutoencoderKL.__init__ = _init_small_vae
