"""Python scripts in processes of their own, which need not import torch anew: a server that has it forks them.

Starting ComfyUI or `palp` is little work beside importing other people's packages, and tests start them many times.
Only those packages are there before; a script imports its own modules, ComfyUI's or ours, itself.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

FORKED = Path(__file__).with_name("forked.py")
#: What takes ComfyUI and `palp` longest to import; what is not installed is passed over.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.testing",
    "torchvision",
    "torchsde",
    "scipy.stats",
    "scipy.signal",
    "scipy.optimize",
    "scipy.integrate",
    "kornia",
    "spandrel",
    "av",
    "comfy_kitchen",
    "transformers",
    "transformers.modeling_utils",
    "aiohttp.web",
    "sqlalchemy.orm",
    "alembic.command",
    "alembic.config",
    "pydantic",
    "peft",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)


class Forked:
    """A process, with those of `subprocess.Popen`'s methods that tests use."""

    def __init__(self, process: multiprocessing.Process) -> None:
        self._process = process
        self._lock = threading.Lock()  # only one thread may read how it ended

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        with self._lock:
            return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return status


def run_script(
    script: Path, arguments: Sequence[object], folder: Path, environment: Mapping[str, str], output: Path
) -> Forked | subprocess.Popen:
    """Run `python script arguments` in a folder. What it prints is added to the file `output`.

    Where nothing can be forked, as on Windows, or $PALP_PLAIN_START is set, Python is started as a user starts it.
    """
    if "forkserver" in multiprocessing.get_all_start_methods() and not os.environ.get("PALP_PLAIN_START"):
        return _fork(script, arguments, folder, environment, output)
    with output.open("ab") as log:
        command = [sys.executable, str(script), *map(str, arguments)]
        heed = _heed_ctrl_c if os.name == "posix" else None
        return subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, preexec_fn=heed
        )


def _heed_ctrl_c() -> None:
    """Undo what a shell gives its background jobs: they, and all that they start, do not hear SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _fork(
    script: Path, arguments: Sequence[object], folder: Path, environment: Mapping[str, str], output: Path
) -> Forked:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with _environment(environment):  # packages read some of it as they are imported
        forkserver.ensure_running()
    job = {"script": str(script), "arguments": [*map(str, arguments)], "folder": str(folder)}
    job |= {"environment": dict(environment), "output": str(output)}
    # By its path: in the process there is no folder of ours where Python looks for modules.
    called = {"target": runpy.run_path, "args": (str(FORKED),), "kwargs": {"init_globals": {"JOB": job}}}
    process = context.Process(**called, name=script.name, daemon=True)
    process.start()
    return Forked(process)


@contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
