"""What a contributor runs, each in its own environment: `nox -s tests`, `nox -s lint`, `nox -s demo`."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_venv = "yes"

REPO = Path(__file__).resolve().parent
#: torchaudio has to be built for the same torch and CUDA; this set runs ComfyUI 0.33.
HOST_TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]

#: Each with its own ComfyUI; whole files, because what is costly to make is made once for a file. They keep their
#: order, which ends with quick ones; xdist's own would end with files of few tests, which are the longest.
TWO_WORKERS = ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"]

#: Percent of the branches and lines of `palp_core` and `nodes` that the whole suite has to reach on a host.
LEAST_COVERAGE = 95

#: Where Python keeps what it compiles: nobody's ComfyUI gets files from the tests. Were nothing kept, which
#: $PYTHONDONTWRITEBYTECODE asks for, each server and each command that a test starts would compile all that it imports.
BYTECODE = REPO / ".nox" / "bytecode"

COMFYUI = "https://github.com/comfyanonymous/ComfyUI"
CLONE = REPO / ".nox" / "ComfyUI"
#: Seconds that the network may take to answer, and to bring ComfyUI or Chromium.
ANSWER, DOWNLOAD = 15, 240


def attempt(session: nox.Session, *command: str, seconds: int) -> str | None:
    """What a command printed; if it fails or takes too long, None, and one line that says so."""
    unasked = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # no network is no reason to wait for a password
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        return subprocess.run(command, env=unasked, **pipes, text=True, timeout=seconds, check=True).stdout
    except subprocess.CalledProcessError as error:
        reason = next((line for line in error.stderr.splitlines() if re.search("fatal|error", line, re.I)), error)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error
    session.warn(f"{Path(command[0]).name} {' '.join(command[1:4])}: {reason}")
    return None


def find_comfyui(session: nox.Session) -> Path | None:
    """Where the tests find it (devtools/comfy_server.py). A $COMFYUI_PATH without ComfyUI in it is an error."""
    named = os.environ.get("COMFYUI_PATH")
    around = [REPO.parents[1]] if REPO.parent.name == "custom_nodes" else []
    paths = [Path(named)] if named else [Path("~/comfy/ComfyUI"), *around]
    for path in paths:
        if (path.expanduser() / "main.py").is_file():
            return path.expanduser().resolve()
    if named:
        session.error(f"COMFYUI_PATH is {named}, where no main.py is. Name the folder that ComfyUI was cloned into.")
    return None


def clone_comfyui(session: nox.Session) -> Path | None:
    """The newest release, cloned once and used again the next time; None where no network answers."""
    if CLONE.is_dir():
        return CLONE
    answer = attempt(session, "git", "ls-remote", "--tags", "--refs", "--sort=-v:refname", COMFYUI, seconds=ANSWER)
    releases = re.findall(r"refs/tags/(v[0-9.]+)$", answer or "", re.MULTILINE)
    if not releases:
        return None
    partial = CLONE.with_name("ComfyUI.partial")  # what an interrupted clone leaves is not taken for a whole one
    shutil.rmtree(partial, ignore_errors=True)
    clone = ("git", "clone", "--depth=1", f"--branch={releases[0]}", COMFYUI, str(partial))
    if attempt(session, *clone, seconds=DOWNLOAD) is None:
        return None
    return partial.rename(CLONE)


def install_chromium(session: nox.Session) -> None:
    """playwright's own, if the tests find none."""
    python = str(Path(session.bin) / "python")
    found = attempt(session, python, "-c", "from devtools import frontend; print(frontend.find_chromium())", seconds=60)
    if found and found.strip() == "None":
        session.log("Chromium is not found: installing playwright's.")
        attempt(session, python, "-m", "playwright", "install", "--no-shell", "chromium", seconds=DOWNLOAD)


def report_coverage(session: nox.Session, whole: bool) -> None:
    """One line for all processes. Too little is an error only of a whole run, where the host tests ran, too."""
    session.run("coverage", "combine", "--quiet")
    total = session.run("coverage", "report", "--format=total", silent=True).split()[-1]
    print(f"branch coverage of palp_core and nodes: {total} %")
    if whole and float(total) < LEAST_COVERAGE:
        session.error(f"{LEAST_COVERAGE} % is the least. `coverage report --skip-covered --show-missing` shows where.")


def keep_bytecode(session: nox.Session) -> None:
    """For all that a session starts; that of earlier tests' folders, which never come again, goes."""
    of_tests = Path(tempfile.gettempdir()).resolve()
    shutil.rmtree(BYTECODE.joinpath(*of_tests.parts[1:]), ignore_errors=True)
    session.env.update({"PYTHONPYCACHEPREFIX": str(BYTECODE), "PYTHONDONTWRITEBYTECODE": ""})


def install_tests(session: nox.Session) -> Path | None:
    """Install what the tests need, and say on which ComfyUI they run."""
    host = find_comfyui(session) or clone_comfyui(session)
    if host:
        session.log(f"ComfyUI: {host}")
        requirements = [*HOST_TORCH, "-r", str(host / "requirements.txt")]
        session.env["COMFYUI_PATH"] = str(host)
    else:
        session.warn("No ComfyUI at $COMFYUI_PATH, ~/comfy/ComfyUI or around this folder: host tests will be skipped.")
        requirements = []
    # Python compiles what it imports; compiling all that is installed takes a minute.
    session.install("--no-compile", *requirements, "-e", ".[test]")
    if host:
        install_chromium(session)
    keep_bytecode(session)
    return host


@nox.session
def tests(session: nox.Session) -> None:
    """pytest on the ComfyUI found, else on the newest one, which it clones. Arguments after `--` go to pytest."""
    install_tests(session)
    session.run("pytest", *TWO_WORKERS, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests, and what they reach of the code; slower than `tests`. Arguments after `--` go to pytest."""
    host = install_tests(session)
    session.run("coverage", "erase")
    # All processes that inherit it are measured; coverage.py's own `run -m` would put this folder before ComfyUI's.
    measured = {"COVERAGE_PROCESS_START": str(REPO / "pyproject.toml")}
    session.run("pytest", *TWO_WORKERS, *session.posargs, env=measured)
    report_coverage(session, whole=host is not None and not session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, of the version that pre-commit uses, and the rules of who may import whom."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["lint"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def demo(session: nox.Session) -> None:
    """PALP beside plain training on the embedded model, without ComfyUI; its pictures go to demo_output/."""
    session.install("-e", ".[headless]")
    session.run("palp", "demo", "--out", "demo_output", *session.posargs)
