"""The archive that the Registry hands to users, as `comfy node publish` makes it: `python -m devtools.archive`.

It holds what git tracks, without what `.comfyignore` names.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from .comfy_server import REPO

LIMIT = 45_000_000  # bytes; the two embedded models alone are 35 MB, which no compression makes smaller


def _git_files(*options: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=REPO, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name}


def tracked_files() -> list[str]:
    """List what git tracks and the working tree has, by paths from the repository's root."""
    return sorted(name for name in _git_files() if (REPO / name).is_file())


def shipped_files() -> list[str]:
    """List what of it users get; the patterns of `.comfyignore` are those of a `.gitignore`, and git reads them."""
    left_out = _git_files("--cached", "--ignored", "--exclude-from=.comfyignore")
    return [name for name in tracked_files() if name not in left_out]


def write_archive(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in shipped_files():
            archive.write(REPO / name, name)
    return path


def unpack(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def main() -> None:
    path = write_archive(Path(sys.argv[1] if sys.argv[1:] else REPO / "dist/node.zip"))
    print(f"{path}: {len(shipped_files())} files, {path.stat().st_size / 1e6:.1f} MB of {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
