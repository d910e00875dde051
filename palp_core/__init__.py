"""PALP: prompt-aligned personalization of diffusion models (arXiv 2401.06105), without ComfyUI.

backbone = DiffusersBackbone(load_pipeline("path/to/model"))      # from palp_core.diffusers_backbone
run = Personalization(backbone, [Subject(images, "cat")], "a sketch of [V] in Paris", PersonalizationConfig())
for step in run.steps():
    ...
path = save_run(run, "loras", "my_cat")
"""

from .alignment import AlignmentConfig
from .lora_file import LoraFile, load_lora_file, save_run
from .personalization import NonFiniteLossError, Personalization, PersonalizationConfig, Subject, TrainingStep
from .version import __version__

__all__ = [
    "AlignmentConfig",
    "LoraFile",
    "NonFiniteLossError",
    "Personalization",
    "PersonalizationConfig",
    "Subject",
    "TrainingStep",
    "__version__",
    "load_lora_file",
    "save_run",
]
