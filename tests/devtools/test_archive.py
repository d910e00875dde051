"""What the Registry gets: the files that users need and no others, code that its scan accepts, and its own fields."""

from __future__ import annotations

import ast
import re

import pytest
from PIL import Image

from devtools.archive import LIMIT, REPO, shipped_files, write_archive

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOM = {
    "__init__.py",
    "nodes",
    "palp_core",
    "web",
    "docs",
    "locales",
    "example_workflows",
    "subgraphs",
    "requirements.txt",
    "pyproject.toml",
}
TEXTS = {"README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"}
RAW = "https://raw.githubusercontent.com/palp/ComfyUI-PALP/main/"
#: What runs text as code, or reads code out of data.
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen"}
MODULES = {"subprocess", "pickle", "marshal", "shelve", "dill", "cloudpickle", "pip", "ctypes", "socket", "requests"}


def project() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def test_users_get_what_runs_and_what_they_read_and_nothing_else():
    assert {name.partition("/")[0] for name in shipped_files()} == ROOM | TEXTS


def test_the_archive_is_within_its_limit(tmp_path):
    assert write_archive(tmp_path / "node.zip").stat().st_size < LIMIT


def called(tree: ast.AST) -> set[str]:
    """Names of what is called; of a method that has the name of a built-in, as `model.eval()`, nothing."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    of_os = {one.attr for one in calls if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "os"}
    return of_os | {one.id for one in calls if isinstance(one, ast.Name)}


def imported(tree: ast.AST) -> set[str]:
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


def test_no_shipped_code_runs_texts_or_starts_programs():
    for name in (name for name in shipped_files() if name.endswith(".py")):
        tree = ast.parse((REPO / name).read_text(encoding="utf-8"))
        assert not called(tree) & CALLS and not imported(tree) & MODULES, name


def test_the_registry_reads_every_field():
    """As its command line does, which takes a field that is not so for empty, with a warning alone."""
    about, comfy = project()["project"], project()["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", about["name"]) and "comfy" not in about["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    systems = {"Operating System :: OS Independent"}
    cards = {f"Environment :: GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")}
    told = {line for line in about["classifiers"] if line.startswith(("Operating", "Environment"))}
    assert told & systems and told <= systems | cards
    assert (
        comfy["PublisherId"]
        and comfy["DisplayName"]
        and RAW.endswith(f"{about['urls']['Repository'].removeprefix('https://github.com')}/main/")
    )


@pytest.mark.parametrize(("field", "shape"), [("Icon", (1, 1)), ("Banner", (21, 9))])
def test_the_registry_finds_our_pictures_in_the_shape_that_it_asks_for(field, shape):
    path = project()["tool"]["comfy"][field].removeprefix(RAW)
    assert path in shipped_files() and (REPO / path).stat().st_size < 150_000
    with Image.open(REPO / path) as image:
        width, height = image.size
    assert width * shape[1] == height * shape[0] and (field != "Icon" or width <= 400)
