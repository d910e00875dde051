"""The same cells in this process, on a Ray cluster of three machines, and on one that loses a worker and a machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palp_core.errors import SettingError
from palp_core.sweep import cluster as on_machines

ray = pytest.importorskip("ray")  # has no wheels for every Python
from ray.cluster_utils import Cluster  # noqa: E402

#: Each worker keeps the state of a training after each step.
EAGER = ("--state-seconds", 0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three machines with room for one worker each, none of which has to wait for all other programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # names of sockets have to be short
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
        yield from machines()


def machines():
    machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(**machine)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def begun(out: Path) -> dict[str, list[dict]]:
    """Training -> who began to work on it, and the step from which a training was begun."""
    logs = {file.parent.name: file.read_text().splitlines() for file in out.glob("cells/*/work.jsonl")}
    entries = {name: list(map(json.loads, lines)) for name, lines in logs.items()}
    return {name: [e for e in found if e.keys() & {"run", "from_step"}] for name, found in entries.items()}


def starts(out: Path) -> dict[str, list[int]]:
    """Training -> the steps from which it was begun; of the base model, that takes none, 0."""
    return {name: [e.get("from_step", 0) for e in found if "from_step" in e] for name, found in begun(out).items()}


def processes(out: Path) -> list[int]:
    """Those that worked on cells, one for each time that one was begun."""
    return [entry["process"] for found in begun(out).values() for entry in found if "process" in entry]


def held_with_a_state(out: Path) -> int:
    """Hold a worker in the middle of a training that it can go on from; returns its process."""
    while True:
        time.sleep(0.01)
        for state in out.glob("cells/*/*/state.safetensors"):
            cell = state.parents[1]
            process = next(entry["process"] for entry in begun(out)[cell.name] if "process" in entry)
            os.kill(process, signal.SIGSTOP)  # it may have come to the end since
            if state.exists() and not list(cell.glob("*.safetensors")):
                return process
            os.kill(process, signal.SIGCONT)


def kill_a_worker_and_a_machine(cluster: Cluster, out: Path) -> None:
    """Once some cells are done, kill the process of one that has a state, and later take a machine away."""
    while len(list(out.glob("cells/*/rows_*.json"))) < 4:
        time.sleep(0.01)
    os.kill(held_with_a_state(out), signal.SIGKILL)
    while len(list(out.glob("cells/*/rows_*.json"))) < 12:
        time.sleep(0.02)
    own = ray.get_runtime_context().get_node_id()
    other = next(node for node in cluster.worker_nodes if node.node_id != own)
    cluster.remove_node(other, allow_graceful=False)


def table(out: Path) -> str:
    return (out / "table.csv").read_text()


def test_what_is_asked_of_a_cluster_and_not_there_is_told(cluster, sweep, jobs, tmp_path, monkeypatch):
    def told(*arguments: object) -> str:
        return str(sweep(jobs, tmp_path / "out", *arguments))

    assert told("--ray", cluster.address, "--num-cpus", 2).startswith("palp: no machine of the Ray cluster has 2 CPU")
    assert "has 0.5 CPU and 1 GPU for" in told("--ray", cluster.address, "--num-cpus", 0.5, "--num-gpus", 1)
    assert "num_cpus is 0.0; it must be above 0" in told("--ray", cluster.address, "--num-cpus", 0)
    assert told("--ray", "127.0.0.1:1").startswith("palp: no Ray cluster answers at --ray 127.0.0.1:1: ")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert told("--ray", "auto") == 'palp: --ray needs Ray, which is not installed: pip install "palp[cluster]".'
    assert not begun(tmp_path / "out")


def test_where_nothing_answers_it_is_told_inside_an_event_loop_too():
    async def notebook() -> None:
        on_machines._connected("127.0.0.1:1")

    # In a thread of its own: in this one the loop of other tests' browser may be running.
    with ThreadPoolExecutor(1) as pool, pytest.raises(SettingError, match=r"127\.0\.0\.1:1: .*Connect call failed"):
        pool.submit(asyncio.run, notebook()).result()


def test_a_signal_ends_the_command_as_without_a_cluster(cluster, sweep, jobs, tmp_path, monkeypatch):
    actors = on_machines._actors

    def signaled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)  # Ray is connected by now, and would end the program
        return actors(*arguments)

    monkeypatch.setattr(on_machines, "_actors", signaled)
    assert sweep(jobs, tmp_path / "out", "--ray", cluster.address) == 143
    assert len(table(tmp_path / "out").splitlines()) == 1


def test_the_table_is_the_same_and_nothing_is_computed_twice_but_what_a_kill_costs(cluster, sweep, jobs, tmp_path):
    here, there, killed = (tmp_path / name for name in ("here", "there", "killed"))
    assert sweep(jobs, here) is None
    assert len(table(here).splitlines()) == 1 + 24
    on_cluster = ("--ray", cluster.address, *EAGER)
    assert sweep(jobs, there, *on_cluster) is None
    assert table(there) == table(here)
    assert len(processes(there)) == 24 and 1 < len(set(processes(there))) <= 3

    ending = threading.Thread(target=kill_a_worker_and_a_machine, args=(cluster, killed), daemon=True)
    ending.start()
    assert sweep(jobs, f"file://{killed}", *on_cluster) is None  # each worker has its own folder
    ending.join(timeout=60)
    assert not ending.is_alive() and table(killed) == table(here)
    assert 24 < len(processes(killed)) <= 24 + 2
    assert any(steps[-1] > 0 for steps in starts(killed).values() if steps)
