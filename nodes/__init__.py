"""The pack's nodes. Their ids are part of users' workflows and never change."""

from comfy_api.latest import ComfyExtension, io

from .attention import AttentionHeatmap, RecordAttention
from .demo_world import PalpDemoWorld
from .load_lora import LoadPalpLora
from .options import PalpOptions
from .personalize import PalpPersonalize
from .photos import PalpPhotos
from .pick_and_draw import PickAndDrawGuidance
from .report import PalpReport
from .subject import PalpSubject
from .textual_inversion import TextualInversionTrain


class PalpExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            PalpPersonalize,
            PalpOptions,
            PalpPhotos,
            PalpSubject,
            LoadPalpLora,
            PalpDemoWorld,
            TextualInversionTrain,
            PickAndDrawGuidance,
            RecordAttention,
            AttentionHeatmap,
            PalpReport,
        ]
