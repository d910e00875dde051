"""What is carried to a machine without a network: everything that the tests on the host import, and not too much."""

from __future__ import annotations

import importlib
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from devtools import gpu_bundle
from devtools.comfy_server import REPO, SKIP_REASON, find_comfyui

#: Of ours, what runs in one process with the host.
FOLDERS = ("nodes", "devtools", "benchmarks", "tests/nodes")


@pytest.fixture
def comfyui() -> Path:
    path = find_comfyui()
    if path is None:
        pytest.skip(SKIP_REASON)
    return path


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """The stand-ins of a host that imports each in one of the usual ways; forgotten after the test."""
    source = tmp_path / "host.py"
    source.write_text(
        "import av\ndef later():\n    from av.video.reformatter import ColorRange\nfrom kornia import x\n"
    )
    gpu_bundle.write_stand_ins([source], tmp_path / "stand_ins")
    for name in [name for name in sys.modules if name.split(".")[0] in ("av", "kornia")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "stand_ins")
    yield tmp_path / "stand_ins"
    for name in [name for name in sys.modules if name.split(".")[0] in ("av", "kornia")]:
        del sys.modules[name]


def wheel(path: Path, requires: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: one\n{requires}\n")
    return path


def test_too_much_ends_the_program_with_the_size_and_a_remedy(tmp_path, capsys):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(bytes(2_500_000))
    gpu_bundle.check_size(tmp_path, limit=2_500_000)
    with pytest.raises(SystemExit, match=r"holds 2\.5 MB, which is more than 2 MB.*stand-in"):
        gpu_bundle.check_size(tmp_path, limit=2_000_000)
    assert "2.50 MB  wheels/a.whl" in capsys.readouterr().out


def test_stand_ins_import_and_bear_what_the_host_does_with_them(stand_ins):
    reformatter = importlib.import_module("av.video.reformatter")
    assert Path(reformatter.__file__).is_relative_to(stand_ins)
    assert not isinstance(1, importlib.import_module("av").VideoFrame)
    assert reformatter.ColorRange.MPEG is not None  # as the default of an argument
    assert not (stand_ins / "spandrel").exists()


def test_only_what_is_not_there_is_downloaded():
    lines = [
        "torch",
        "av>=16",
        "comfyui-frontend-package==1",
        "comfy-aimdo==0.4.13",
        "SQLAlchemy",
        'old; python_version < "3.10"',
    ]
    found = gpu_bundle.missing(map(Requirement, lines), carried=["sqlalchemy"])
    assert {name: str(one) for name, one in found.items()} == {"comfy-aimdo": "comfy-aimdo==0.4.13"}


def test_a_wheel_says_what_it_needs_in_turn(tmp_path):
    path = wheel(tmp_path / "one-1-py3-none-any.whl", 'Requires-Dist: two>=2\nRequires-Dist: three; extra == "more"')
    assert list(gpu_bundle.missing(gpu_bundle.required_by_wheel(path))) == ["two"]


@pytest.mark.host
def test_all_that_we_import_of_the_host_is_carried(comfyui):
    carried = {path.relative_to(comfyui).as_posix() for path in gpu_bundle.host_files(comfyui)}
    sources = [source for folder in FOLDERS for source in (REPO / folder).rglob("*.py")]
    modules = {name for source in sources for name in gpu_bundle.imported_modules(source)}
    files = {name: [f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"] for name in modules}
    of_host = {name: places for name, places in files.items() if any((comfyui / place).is_file() for place in places)}
    assert {"comfy.sd", "comfy_extras.nodes_train", "folder_paths", "server"} <= of_host.keys()
    assert [name for name, places in of_host.items() if carried.isdisjoint(places)] == []


@pytest.mark.host
@pytest.mark.parametrize("folder", ["sd1_tokenizer", "text_encoders/t5_tokenizer", "text_encoders/qwen25_tokenizer"])
def test_the_vocabularies_of_the_tested_families_are_carried_whole(comfyui, folder):
    there = list((comfyui / "comfy" / folder).iterdir())
    assert there and set(gpu_bundle.host_files(comfyui)).issuperset(there)


@pytest.mark.host
def test_the_host_is_packed_as_the_tests_find_it(comfyui, tmp_path):
    gpu_bundle.pack_host(comfyui, [comfyui / "main.py", comfyui / "comfy/sd.py"], tmp_path / "gpu" / "ComfyUI.tar.xz")
    with tarfile.open(tmp_path / "gpu" / "ComfyUI.tar.xz") as packed:
        assert packed.getnames() == ["ComfyUI/main.py", "ComfyUI/comfy/sd.py"]
