"""The pack's nodes. Their ids are part of users' workflows and never change."""

from comfy_api.latest import ComfyExtension, io

from .demo_world import PalpDemoWorld
from .load_lora import LoadPalpLora
from .personalize import PalpPersonalize
from .subject import PalpSubject


class PalpExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [PalpPersonalize, PalpSubject, LoadPalpLora, PalpDemoWorld]
