"""Collects into `.gpu/` what a machine with a GPU and without a network lacks: `python -m devtools.gpu_bundle`.

Such a machine has torch, transformers and their like for Python 3.12 (PRESENT). Wheels of the rest go to `.gpu/wheels`.
The part of ComfyUI that works inside a test's process goes to `.gpu/ComfyUI.tar.xz`. In the place of large packages
that are only imported, `.gpu/stand_ins` has empty modules. `devtools/on_gpu.sh` uses all of it.
"""

from __future__ import annotations

import ast
import email
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .comfy_server import REPO, SKIP_REASON, find_comfyui

BUNDLE = REPO / ".gpu"
LIMIT = 35_000_000  # bytes; with the repository it stays below 64 MB

#: What such a machine has, of the packages that ours ask for.
PRESENT = frozenset(
    """accelerate aiohttp anyio attrs einops filelock httpx huggingface-hub jinja2 markupsafe matplotlib numpy packaging
    peft pillow psutil pyyaml regex requests safetensors scipy sentencepiece setuptools tokenizers torch torchaudio
    torchvision tqdm transformers typing-extensions yarl zipp""".split()
)
#: Large packages of which the host imports names and nothing runs here: the package and its module.
STAND_INS = {"av": "av", "kornia": "kornia", "spandrel": "spandrel"}
#: What the host's server and its shader node alone ask for; neither runs here.
LEFT_OUT = frozenset(
    """comfy-angle comfyui-embedded-docs comfyui-frontend-package comfyui-workflow-templates pyopengl""".split()
)
#: What the pack's own code and tests import beside; the rest of it is there, or ComfyUI's.
OWN = ("diffusers", "tyro", "websocket-client")
#: Its wheel for CUDA is of 58 MB; without it the host computes the same with torch.
PLAIN_PYTHON = frozenset(["comfy-kitchen"])

PYTHON = "3.12"
GLIBC = ("_2_39", "_2_35", "_2_34", "_2_28", "_2_27", "_2_24", "_2_17", "2014", "2010", "1")
MARKERS = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.3", "extra": ""}
MARKERS |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
MARKERS |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}

#: Of the host: all of its code in these folders, and of the vocabularies those of the families that are tested.
FOLDERS = "alembic_db api_server app comfy comfy_api comfy_config comfy_execution comfy_extras middleware utils".split()
ROOT_FILES = ("*.py", "alembic.ini", "requirements.txt", "LICENSE")
VOCABULARIES = ("sd1_tokenizer", "t5_tokenizer", "qwen25_tokenizer")
LARGE = 100_000  # bytes; data below it is settings

STAND_IN = '''"""Stands for a large package that was left out: it can be imported, and its classes do nothing."""


class Missing(type):
    """A class whose attributes are such classes again."""

    def __getattr__(cls, name):
        return __getattr__(name)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing(name, (), {})
'''


def main() -> None:
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit(SKIP_REASON)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    files = host_files(comfyui)
    pack_host(comfyui, files, BUNDLE / "ComfyUI.tar.xz")
    write_stand_ins([path for path in files if path.suffix == ".py"], BUNDLE / "stand_ins")
    collect_wheels(required_by_host(comfyui) + [Requirement(name) for name in OWN], BUNDLE / "wheels")
    check_size(BUNDLE)


def host_files(comfyui: Path) -> list[Path]:
    """Name the files of the host that are carried along."""
    found = [path for pattern in ROOT_FILES for path in sorted(comfyui.glob(pattern))]
    for folder in FOLDERS:
        found += [path for path in sorted((comfyui / folder).rglob("*")) if path.is_file() and _is_needed(path)]
    return found


def _is_needed(path: Path) -> bool:
    if "__pycache__" in path.parts:
        return False
    return path.suffix == ".py" or path.stat().st_size < LARGE or path.parent.name in VOCABULARIES


def pack_host(comfyui: Path, files: Iterable[Path], archive: Path) -> None:
    """Write the files under ComfyUI/, as small as it goes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as packed:
        for path in files:
            packed.add(path, Path("ComfyUI") / path.relative_to(comfyui))


def write_stand_ins(sources: Iterable[Path], folder: Path) -> None:
    """Write a module for each that the sources import of STAND_INS, with the modules within it."""
    names = {
        name for source in sources for name in imported_modules(source) if name.split(".")[0] in STAND_INS.values()
    }
    for name in sorted(names):
        place = folder
        for part in name.split("."):
            place = place / part
            place.mkdir(parents=True, exist_ok=True)
            (place / "__init__.py").write_text(STAND_IN, encoding="utf-8")


def imported_modules(source: Path) -> set[str]:
    """Name the modules that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def required_by_host(comfyui: Path) -> list[Requirement]:
    """Read what the host requires, with its pins."""
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def missing(requirements: Iterable[Requirement], carried: Iterable[str] = ()) -> dict[str, Requirement]:
    """Name those requirements that are neither there, nor stood in for, nor carried already."""
    provided = PRESENT | LEFT_OUT | STAND_INS.keys() | set(carried)
    needed = {
        canonicalize_name(one.name): one for one in requirements if one.marker is None or one.marker.evaluate(MARKERS)
    }
    return {name: one for name, one in needed.items() if name not in provided}


def collect_wheels(requirements: Iterable[Requirement], folder: Path) -> None:
    """Download wheels of what is missing, then of what those need in turn."""
    carried: set[str] = set()
    needed = missing(requirements)
    while needed:
        for plain in (False, True):
            download([str(one) for name, one in needed.items() if (name in PLAIN_PYTHON) == plain], folder, plain)
        carried |= needed.keys()
        needed = missing((one for wheel in folder.glob("*.whl") for one in required_by_wheel(wheel)), carried)


def download(requirements: list[str], folder: Path, plain: bool) -> None:
    """Let pip choose the wheels. plain: those without compiled code."""
    if not requirements:
        return
    platforms = ["any"] if plain else [f"manylinux{glibc}_x86_64" for glibc in GLIBC]
    kind = ["--implementation=py", "--abi=none"] if plain else ["--implementation=cp"]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", f"--dest={folder}", *kind]
    options += [f"--platform={platform}" for platform in platforms]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "download", *options, *requirements], check=True)


def required_by_wheel(wheel: Path) -> list[Requirement]:
    """Read from a wheel what it requires."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def check_size(bundle: Path, limit: int = LIMIT) -> None:
    """Print the size of each part, and end the program where they are too large together."""
    sizes = {path: path.stat().st_size for path in sorted(bundle.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        if path.suffix in (".whl", ".xz"):
            print(f"{size / 1e6:8.2f} MB  {path.relative_to(bundle)}")
    total = sum(sizes.values())
    print(f"{total / 1e6:8.2f} MB  in all, {limit / 1e6:.0f} MB at most")
    if total > limit:
        raise SystemExit(
            f"{bundle.name}/ holds {total / 1e6:.1f} MB, which is more than {limit / 1e6:.0f} MB. Give the largest "
            "package a stand-in (STAND_INS), or leave out a vocabulary (VOCABULARIES)."
        )


if __name__ == "__main__":
    main()
