"""Cells on a Ray cluster: each worker is an actor that loads the model once, and Ray starts a lost one again.

Ray does what a scheduler does: it places the actors by the resources that each takes, starts one anew when its process
or its machine is gone, and hands it the cell that it had, which goes on from its last saved state. A machine that is
gone can take several tries to notice, so that Ray's are not counted; a cell that ends its process is (work.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, getsignal, signal
from threading import current_thread, main_thread
from typing import Any

from ..errors import SettingError
from .engine import C, Done, Executor, MakeWorker, Stopped, attempt, never

#: What Ray gives as the address of a cluster.
HOST_AND_PORT = re.compile(r"(?P<host>[^/]+):(?P<port>\d+)")
SECONDS_TO_ANSWER = 10


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and what each worker takes of it."""

    #: "auto" for the cluster that this machine belongs to, "local" for one on this machine alone, else HOST:PORT.
    address: str
    num_cpus: float = 1.0
    #: A fraction lets workers share a GPU; None is one where the cluster has any.
    num_gpus: float | None = None
    #: None is as many as the cluster has room for.
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.num_cpus <= 0:
            raise SettingError(
                f"num_cpus is {self.num_cpus}; it must be above 0: how many workers a machine has room for."
            )


class _Actor:
    """A worker on the cluster. It loads the model with its first cell, so that a failing load is that cell's error."""

    def __init__(self, make_worker: MakeWorker):
        self._make_worker, self._worker = make_worker, None

    def compute(self, key: str, cell: object) -> Done:
        return attempt(self._loaded, key, cell)

    def _loaded(self, cell: object) -> list[dict]:
        if self._worker is None:
            self._worker = self._make_worker()
        return self._worker(cell)


def on_ray(make_worker: MakeWorker[C], cluster: Cluster, stop: Callable[[], bool] = never) -> Executor[C]:
    """Compute on a cluster, until `stop` says so, which raises Stopped.

    Raises SettingError where Ray is not installed, nothing answers at the address, or no machine has room for a worker.
    """

    def execute(missing: Mapping[str, C]) -> Iterator[Done]:
        if not missing:
            return
        ray = _connected(cluster.address)
        try:
            yield from _shared_out(ray, missing, _actors(ray, make_worker, cluster, len(missing)), stop)
        finally:
            ray.shutdown()

    return execute


def _connected(address: str) -> Any:
    """Ray's module, connected to the cluster."""
    try:
        import ray
    except ImportError as error:
        raise SettingError('--ray needs Ray, which is not installed: pip install "palp[cluster]".') from error
    try:
        if named := HOST_AND_PORT.fullmatch(address):
            with ThreadPoolExecutor(1) as pool:  # in this thread an event loop may be running, as in a notebook
                pool.submit(asyncio.run, _reach(named["host"], int(named["port"]))).result()
        with _kept_handlers():
            ray.init(address=address, ignore_reinit_error=True)
    except (OSError, ValueError, RuntimeError, asyncio.TimeoutError) as error:  # ConnectionError is an OSError
        raise SettingError(f"no Ray cluster answers at --ray {address}: {error or 'it takes too long.'}") from error
    return ray


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Inside, Ray may take the signals by which a program is ended, whose handlers are back in the end."""
    handlers = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        if current_thread() is main_thread():  # no other one may
            for number, handler in handlers.items():
                signal(number, handler)


async def _reach(host: str, port: int) -> None:
    """Raise OSError or TimeoutError where nothing answers, of which Ray itself says nothing for minutes."""
    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), SECONDS_TO_ANSWER)
    writer.close()


def _actors(ray: Any, make_worker: MakeWorker, cluster: Cluster, cells: int) -> list:
    """As many as there is room for, or are asked for, and no more than there are cells."""
    takes = {"CPU": cluster.num_cpus, "GPU": _gpus(ray, cluster)}
    count = min(cluster.workers or _room(ray, takes), cells)
    kind = ray.remote(
        num_cpus=takes["CPU"],
        num_gpus=takes["GPU"],
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy="SPREAD",
    )(_Actor)
    return [kind.remote(make_worker) for _ in range(count)]


def _gpus(ray: Any, cluster: Cluster) -> float:
    if cluster.num_gpus is not None:
        return cluster.num_gpus
    return 1.0 if ray.cluster_resources().get("GPU") else 0.0


def _room(ray: Any, takes: Mapping[str, float]) -> int:
    """Count the workers for which the machines have room. Raises SettingError where there is none."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {name: amount for name, amount in takes.items() if amount}
    of_each = [min(int(has.get(name, 0) / amount) for name, amount in needed.items()) for has in machines]
    if not sum(of_each):
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in needed.items())
        raise SettingError(f"no machine of the Ray cluster has {wanted} for a worker. Lower --num-cpus or --num-gpus.")
    return sum(of_each)


def _shared_out(ray: Any, missing: Mapping[str, C], idle: list, stop: Callable[[], bool]) -> Iterator[Done]:
    """Hand each idle worker the next cell.

    A worker for whom there is none goes at once: one that was lost may wait for its room to be started again.
    """
    waiting, running = iter(missing.items()), {}
    while idle or running:
        while idle:
            actor = idle.pop()
            if (item := next(waiting, None)) is None:
                ray.kill(actor)
            else:
                running[actor.compute.remote(*item)] = item[0], actor
        ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0) if running else ([], [])
        if stop():
            raise Stopped
        for one in ready:
            key, actor = running.pop(one)
            yield _outcome(ray, key, one)
            idle.append(actor)


def _outcome(ray: Any, key: str, ready: Any) -> Done:
    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        return Done(key, None, f"its worker is lost: {error}")
