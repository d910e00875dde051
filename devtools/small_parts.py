"""A node pack for the tests' server: the host builds its text encoders and Stable Diffusion's VAE small.

They are most of the work on a CPU. All other sizes, and how a checkpoint file is taken apart, stay the host's own. With
such a random model our pack looks for the subject in few draws of noise, and draws pictures of the training in few
steps, as in all tests: there is nothing to be seen.
"""

import runpy
import sys
from pathlib import Path

import comfy.clip_model
from comfy.ldm.models import autoencoder

FULL_TEXT = 768  # the least width of Stable Diffusion's text encoders; the demo world's is narrower
TEXT_LAYERS = 2  # the last but one is read
FULL_VAE, SMALL_VAE = 128, 32  # channels of the first level

FEW = runpy.run_path(str(Path(__file__).resolve().with_name("few.py")))["FEW"]

NODE_CLASS_MAPPINGS = {}

_usual = {}
_init_encoder = comfy.clip_model.CLIPEncoder.__init__
_init_vae = autoencoder.AutoencoderKL.__init__


def _init_small_encoder(self, num_layers, embed_dim, heads, hidden, *options):
    is_random = embed_dim >= FULL_TEXT
    if is_random:
        num_layers, hidden = TEXT_LAYERS, embed_dim
    _take_few(is_random)
    _init_encoder(self, num_layers, embed_dim, heads, hidden, *options)


def _take_few(is_random):
    """Or as many as users, as the model of this encoder asks for: when one is built, all packs are there."""
    for (ending, constant), few in FEW.items():  # our pack's name is its path
        for module in [module for name, module in sys.modules.items() if name.endswith(f".{ending}")]:
            usual = _usual.setdefault((module, constant), getattr(module, constant))
            setattr(module, constant, few if is_random else usual)


def _init_small_vae(self, **options):
    for name in ("ddconfig", "decoder_ddconfig"):
        if options.get(name, {}).get("ch") == FULL_VAE:
            options[name] = {**options[name], "ch": SMALL_VAE}
    _init_vae(self, **options)


comfy.clip_model.CLIPEncoder.__init__ = _init_small_encoder
autoencoder.AutoencoderKL.__init__ = _init_small_vae
