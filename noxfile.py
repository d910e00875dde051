"""What a contributor runs, each in its own environment: `nox -s tests`, `nox -s lint`, `nox -s demo`."""

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_venv = "yes"

REPO = Path(__file__).resolve().parent
#: torchaudio has to be built for the same torch and CUDA; this set runs ComfyUI 0.33.
HOST_TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]

#: Each with its own ComfyUI; whole files, because what is costly to make is made once for a file.
TWO_WORKERS = ["--numprocesses=2", "--dist=loadfile"]


def find_comfyui(session: nox.Session) -> Path | None:
    """Where the tests find it (tests/host/comfy_server.py). A $COMFYUI_PATH without ComfyUI in it is an error."""
    named = os.environ.get("COMFYUI_PATH")
    around = [REPO.parents[1]] if REPO.parent.name == "custom_nodes" else []
    paths = [Path(named)] if named else [Path("~/comfy/ComfyUI"), *around]
    for path in paths:
        if (path.expanduser() / "main.py").is_file():
            return path.expanduser().resolve()
    if named:
        session.error(f"COMFYUI_PATH is {named}, where no main.py is. Name the folder that ComfyUI was cloned into.")
    return None


@nox.session
def tests(session: nox.Session) -> None:
    """pytest, with ComfyUI's requirements where ComfyUI is found. Arguments after `--` go to pytest."""
    host = find_comfyui(session)
    if host:
        session.log(f"ComfyUI: {host}")
        requirements = [*HOST_TORCH, "-r", str(host / "requirements.txt")]
        session.env["COMFYUI_PATH"] = str(host)
    else:
        session.warn("No ComfyUI at $COMFYUI_PATH, ~/comfy/ComfyUI or around this folder: host tests will be skipped.")
        requirements = []
    session.install(*requirements, "-e", ".[test]")
    session.run("pytest", *TWO_WORKERS, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, of the version that pre-commit uses."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def demo(session: nox.Session) -> None:
    """PALP beside plain training on the embedded model, without ComfyUI; its pictures go to demo_output/."""
    session.install("-e", ".[headless]")
    session.run("palp", "demo", "--out", "demo_output", *session.posargs)
