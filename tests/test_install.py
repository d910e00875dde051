"""`palp` as others install it: a wheel that runs away from the repository, and leaves the host's packages alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devtools.archive import REPO, tracked_files
from devtools.comfy_server import SKIP_REASON, find_comfyui
from devtools.random_files import random_lora_file

BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
#: In one process, because most of its time goes to imports.
USES = """
import sys
import palp_core
from palp_core.cli.main import main
from palp_core.toyworld.world import load_world
for model in ("unet", "transformer"):
    load_world("cpu", model)
sys.argv[1:1] = ["info"]
main()
print(palp_core.__file__)
"""


def run(*command: object, folder: Path, **environment: str) -> str:
    """What a command prints that works in a folder out of the repository."""
    environment = {**os.environ, "PYTHONPATH": "", **environment}
    ended = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, built of what git tracks by the build's own hook and installed by pip, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / name, source / name)
    run(sys.executable, "-c", BUILD, folder=source)
    (wheel,) = (source / "dist").glob("palp-*.whl")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target", target)
    run(*pip, wheel, folder=source)
    return target


def test_the_wheel_has_the_command_and_all_that_it_reads(installed, tmp_path):
    palp = [path for path in (installed / "bin").iterdir() if path.stem == "palp"]
    away = {"folder": tmp_path, "PYTHONPATH": str(installed)}
    assert "learn-word" in run(*palp, "--help", **away)
    *about, where = run(sys.executable, "-c", USES, random_lora_file(tmp_path), **away).splitlines()
    assert "a sketch of [V] in Paris" in "".join(about) and Path(where).is_relative_to(installed)


def test_the_wheel_has_every_file_of_the_package(installed):
    missing = [name for name in tracked_files() if name.startswith("palp_core/") and not (installed / name).is_file()]
    assert not missing


def test_the_wheel_has_one_package_and_no_folder_that_hides_the_hosts_own(installed):
    folders = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert folders == {"palp_core", "bin"}


# --- beside the host's own requirements ---


def read(path: Path) -> list[Requirement]:
    """The requirements of a file of pip's, without its options and comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def asked(name: str) -> list[Requirement]:
    """What an installed package asks for on this machine; nothing of one that is not there."""
    try:
        found = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return []
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def brought(first: list[Requirement], known: set[str]) -> list[Requirement]:
    """All that requirements ask for, through packages that are not known to the host."""
    waiting, seen, all_of_them = list(first), set(known), []
    while waiting:
        one = waiting.pop()
        all_of_them.append(one)
        if (name := canonicalize_name(one.name)) not in seen:
            seen.add(name)
            waiting += asked(name)
    return all_of_them


@pytest.mark.host
def test_installing_changes_no_version_that_the_host_asks_for():
    """No index is asked: packages say themselves what they need, in the versions that are installed here.

    What the host pins has to fit, and what it leaves open has to fit as it is installed.
    """
    if (comfyui := find_comfyui()) is None:
        pytest.skip(SKIP_REASON)
    hosts = {canonicalize_name(one.name): one for one in read(comfyui / "requirements.txt")}
    ours = read(REPO / "requirements.txt")
    assert not {canonicalize_name(one.name) for one in ours} & set(hosts)
    needed = [one for one in brought(ours, set(hosts)) if canonicalize_name(one.name) in hosts]
    assert needed
    for one in needed:
        pinned = [s.version for s in hosts[canonicalize_name(one.name)].specifier if s.operator == "=="]
        (found, *_) = pinned or [version(one.name)]
        assert one.specifier.contains(found, prereleases=True), f"{one} beside {found}"
