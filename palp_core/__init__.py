"""PALP: prompt-aligned personalization of diffusion models (arXiv 2401.06105), without ComfyUI.

backbone = DiffusersBackbone(load_pipeline("path/to/model"))      # both from palp_core.models.diffusers
method = Personalization(backbone, [Subject(images, "cat")], "a sketch of [V] in Paris", PersonalizationConfig())
run = Training(method)
for step in run.steps():
    ...
path = save_run(run, "loras", "my_cat")
"""

from .errors import DivergedError, PalpError
from .files.embedding_file import Embedding, load_embedding
from .files.lora_file import LoraFile, load_lora_file
from .methods.alignment import AlignmentConfig
from .methods.concept import Concept
from .methods.personalization import Personalization, PersonalizationConfig
from .methods.result import save_run, save_word
from .methods.scores import Delta, Nfsd, Palp, Sds
from .methods.subjects import Subject
from .methods.textual_inversion import TextualInversion, TextualInversionConfig
from .training.loop import Step, Training
from .version import __version__

__all__ = [
    "AlignmentConfig",
    "Concept",
    "Delta",
    "DivergedError",
    "Embedding",
    "LoraFile",
    "Nfsd",
    "Palp",
    "PalpError",
    "Personalization",
    "PersonalizationConfig",
    "Sds",
    "Step",
    "Subject",
    "TextualInversion",
    "TextualInversionConfig",
    "Training",
    "__version__",
    "load_embedding",
    "load_lora_file",
    "save_run",
    "save_word",
]
