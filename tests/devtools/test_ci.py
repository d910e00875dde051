"""The workflows of the public CI call what is there: nox's sessions, and the oldest host that we support."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_alone_and_names_sessions_that_there_are(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    sessions = {name for step in steps for name in re.findall(r"nox -s (\w+)", step.get("run", ""))}
    there = re.findall(r"@nox\.session\ndef (\w+)", (REPO / "noxfile.py").read_text(encoding="utf-8"))
    assert sessions <= set(there)


def test_the_oldest_host_is_among_those_that_are_tested():
    workflow = yaml.safe_load((REPO / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    hosts = workflow["jobs"]["tests"]["strategy"]["matrix"]["host"]
    (oldest,) = re.findall(r'^requires-comfyui = ">=([\d.]+)"', (REPO / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"v{oldest}" in hosts
