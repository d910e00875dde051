"""PALP: prompt-aligned personalization of diffusion models (arXiv 2401.06105), without ComfyUI.

backbone = DiffusersBackbone(load_pipeline("path/to/model"))      # from palp_core.diffusers_backbone
run = Personalization(backbone, [Subject(images, "cat")], "a sketch of [V] in Paris", PersonalizationConfig())
for step in run.steps():
    ...
path = save_run(run, "loras", "my_cat")
"""

from .files.embedding_file import Embedding, load_embedding
from .files.lora_file import LoraFile, load_lora_file, save_run
from .methods.personalization import Personalization, PersonalizationConfig, Subject, TrainingStep
from .methods.scores import AlignmentConfig
from .methods.textual_inversion import Concept, TextualInversion, TextualInversionConfig, save_word
from .training.objective import NonFiniteLossError
from .version import __version__

__all__ = [
    "AlignmentConfig",
    "Concept",
    "Embedding",
    "LoraFile",
    "NonFiniteLossError",
    "Personalization",
    "PersonalizationConfig",
    "Subject",
    "TextualInversion",
    "TextualInversionConfig",
    "TrainingStep",
    "__version__",
    "load_embedding",
    "load_lora_file",
    "save_run",
    "save_word",
]
