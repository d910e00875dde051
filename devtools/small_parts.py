"""A node pack for the tests' server: the host builds its text encoders and Stable Diffusion's VAE small.

They are most of the work on a CPU. All other sizes, and how a checkpoint file is taken apart, stay the host's own. With
such a model our pack looks for the subject in fewer draws of noise, as in all tests: a random model sees it nowhere.
"""

import sys

import comfy.clip_model
from comfy.ldm.models import autoencoder

FULL_TEXT = 768  # the least width of Stable Diffusion's text encoders; the demo world's is narrower
TEXT_LAYERS = 2  # the last but one is read
FULL_VAE, SMALL_VAE = 128, 32  # channels of the first level

SUBJECT_REGION = ".palp_core.methods.subject_region"  # of our pack, whose name holds its path
FEW_DRAWS = 2

NODE_CLASS_MAPPINGS = {}

_usual_draws = {}
_init_encoder = comfy.clip_model.CLIPEncoder.__init__
_init_vae = autoencoder.AutoencoderKL.__init__


def _init_small_encoder(self, num_layers, embed_dim, heads, hidden, *options):
    is_random = embed_dim >= FULL_TEXT
    if is_random:
        num_layers, hidden = TEXT_LAYERS, embed_dim
    _look_for_subjects(is_random)
    _init_encoder(self, num_layers, embed_dim, heads, hidden, *options)


def _look_for_subjects(is_random):
    """As the model of this encoder asks for: when one is built, all packs are there, in whatever order."""
    for module in [module for name, module in sys.modules.items() if name.endswith(SUBJECT_REGION)]:
        _usual_draws.setdefault(module, module.DRAWS)
        module.DRAWS = FEW_DRAWS if is_random else _usual_draws[module]


def _init_small_vae(self, **options):
    for name in ("ddconfig", "decoder_ddconfig"):
        if options.get(name, {}).get("ch") == FULL_VAE:
            options[name] = {**options[name], "ch": SMALL_VAE}
    _init_vae(self, **options)


comfy.clip_model.CLIPEncoder.__init__ = _init_small_encoder
autoencoder.AutoencoderKL.__init__ = _init_small_vae
