"""ComfyUI-PALP: your subject in the picture you have in mind. The nodes are in nodes/, the algorithms in palp_core/."""

WEB_DIRECTORY = "./web"  # holds docs/<node id>.md, the help pages


async def comfy_entrypoint():
    """What the host calls; nothing of the host or of torch is imported before."""
    from .nodes import PalpExtension

    return PalpExtension()
