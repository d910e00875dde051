"""ComfyUI-PALP: your subject in the picture you have in mind. The nodes are in nodes/, the algorithms in palp_core/."""

from re import findall

WEB_DIRECTORY = "./web"  # holds docs/<node id>.md, the help pages

OLDEST = (0, 12, 3)  # of the hosts that the nodes run on


def _check_version() -> None:
    """Raise RuntimeError on a host that lacks what the nodes are made of. The host shows the sentence as it starts."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:  # not inside a host: tools look at this file, too
        return
    if tuple(map(int, findall(r"\d+", found)[:3])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise RuntimeError(f"ComfyUI-PALP needs ComfyUI {needed} or newer, and this is {found}. Update ComfyUI.")


_check_version()


async def comfy_entrypoint():
    """What the host calls; nothing of the host's nodes or of torch is imported before."""
    from .nodes import PalpExtension

    return PalpExtension()
