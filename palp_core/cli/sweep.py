"""`palp sweep`: many subjects, prompts, methods and seeds, each trained, drawn and measured; here or on a cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGTERM

import tyro
from tqdm import tqdm

from ..errors import SettingError
from ..methods.recording import SECONDS_BETWEEN_STATES
from .output import show
from .session import ENDED_BY_SIGTERM, stopped_by_signals


@dataclass(frozen=True)
class Sweep:
    """Train, draw and measure every cell of subjects x prompts x methods x seeds, as a file in YAML lists them.

    What is there already is not computed again, so that the same command goes on. A cell that fails is told, and the
    rest goes on. Nothing is downloaded.
    """

    #: Reads what is to be computed from this file in YAML; docs/sweep.md says what it holds.
    jobs: tyro.conf.Positional[Path | None] = None
    #: Takes the comparison of the PALP paper in place of a file, on --model and the subjects in --photos. The file that
    #: it makes is jobs.yaml in --out.
    paper: bool = False
    #: Trains this model, a diffusers folder or a .safetensors checkpoint, in the paper's comparison.
    model: Path | None = None
    #: Finds each subject's photos in a folder of this one, in the paper's comparison; class_words.csv in it, or
    #: DreamBench's own prompts_and_classes.txt, says what each is.
    photos: Path | None = None
    #: Measures with CLIP from this folder in the paper's comparison.
    clip: Path | None = None
    #: Measures with DINOv2 from this folder in the paper's comparison.
    dino: Path | None = None
    #: Writes the table and a folder for each cell into this folder, or to this address, such as s3://bucket/sweep.
    out: str = "sweep"
    #: Puts values in the place of those in the file: settings.steps=100 pictures.count=2.
    set: tuple[str, ...] = ()
    #: Computes on a Ray cluster: auto for the one that this machine belongs to, local for one of this machine alone, or
    #: HOST:PORT. All its machines must see the model, the photos and --out under the same paths or address.
    ray: str | None = None
    #: Gives each worker on the cluster so many CPUs.
    num_cpus: float = 1.0
    #: Gives each worker on the cluster so many GPUs, or a fraction of one; none is one where the cluster has any.
    num_gpus: float | None = None
    #: Starts so many workers on the cluster; none is as many as it has room for.
    workers: int | None = None
    #: Keeps a training's state after so many seconds, from which it goes on when it was ended.
    state_seconds: float = SECONDS_BETWEEN_STATES
    #: Keeps the state of each finished training, from which more prompts or pictures are drawn without training anew.
    keep_states: bool = False
    #: Lists the cells and whether they are there, and computes none.
    dry_run: bool = False
    #: Computes there: cuda, cpu or mps; none takes CUDA if there is one.
    device: str | None = None
    #: Prints the rows as JSON in place of the table.
    json: bool = False

    def run(self) -> None:
        from ..sweep.place import opened

        jobs = self._jobs()
        with opened(self.out) as place:
            self._run(jobs, place)

    def _run(self, jobs: Path | None, place) -> None:
        from ..sweep import run
        from ..sweep.jobs import read_jobs
        from ..sweep.place import is_address
        from ..sweep.table import rows_of, summary

        plan = read_jobs(self._papers(place.path) if self.paper else jobs, self.set)
        sweep = run.Sweep.of(plan, place)
        if self.dry_run:
            for cell in sweep.cells:
                print(f"{'there' if cell.key in sweep.there else 'missing'}  {cell.training}  {cell.title}")
            return
        asked = self._compute(sweep)
        folder = "A_COPY_OF_IT" if is_address(place.out) else self.out
        where = f"table.csv in {place.out} has the rows. `palp evaluate {folder}` makes a page of the pictures."
        rows = {"rows": rows_of(sweep.cells, sweep.there), "failed": sweep.failed}
        show(f"{summary(sweep.cells, sweep.there)}\n{where}", rows, self.json)
        _end(sweep, asked)

    def _jobs(self) -> Path | None:
        """The file of jobs; None for the paper's comparison. Raises SettingError where neither or both are given."""
        given = [name for name in ("model", "photos", "clip", "dino") if getattr(self, name) is not None]
        if self.paper and (self.jobs or not {"model", "photos"} <= {*given}):
            raise SettingError("--paper takes --model and --photos, and no file of jobs.")
        if not self.paper and self.jobs is None:
            raise SettingError("name a file of jobs, or give --paper.")
        if not self.paper and given:
            raise SettingError(f"--{given[0]} goes with --paper; a file of jobs says it itself, and --set changes it.")
        return self.jobs

    def _papers(self, out: Path) -> Path:
        """Write the paper's comparison as a file of jobs; returns the file."""
        from ..sweep.paper import paper_jobs
        from ..sweep.sections import write_yaml

        return write_yaml(paper_jobs(self.model, self.photos, self.clip, self.dino), out / "jobs.yaml")

    def _compute(self, sweep) -> list[int]:
        """Compute what is missing; returns the signals by which that was stopped."""
        missing, there = sweep.missing, len(sweep.cells) - len(sweep.missing)
        if there:
            print(f"palp: {there} of {len(sweep.cells)} cells are there and are taken.", file=sys.stderr)
        with stopped_by_signals() as asked, tqdm(total=len(missing), unit="cell", smoothing=0) as bar:
            sweep.run(self._executor(sweep, lambda: bool(asked), bar), bar)
        return asked

    def _executor(self, sweep, stop, bar: tqdm):
        from ..sweep.cluster import Cluster, on_ray
        from ..sweep.engine import in_process
        from ..sweep.work import CellWorker, Work

        def note(text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            if time.monotonic() - bar.last_print_t > bar.mininterval:
                bar.refresh()

        if self.state_seconds < 0:
            raise SettingError(f"state_seconds is {self.state_seconds}; it must be 0 or more.")
        work = Work(sweep.plan, sweep.place.out, self.device, self.state_seconds, self.keep_states)
        if self.ray is None:
            return in_process(partial(CellWorker, work, stop, note))
        cluster = Cluster(self.ray, self.num_cpus, self.num_gpus, self.workers)
        return on_ray(partial(CellWorker, work), cluster, stop)


def _end(sweep, asked: list[int]) -> None:
    """Say what is missing, and exit so that a script knows."""
    if sweep.failed:
        titles = {cell.key: cell.title for cell in sweep.cells}
        for key, message in sweep.failed.items():
            print(f"palp: failed: {titles[key]}: {message}", file=sys.stderr)
    if sweep.stopped:
        print("palp: stopped. What was computed is kept; the same command goes on from there.", file=sys.stderr)
        sys.exit(ENDED_BY_SIGTERM if SIGTERM in asked else 130)
    if sweep.failed:
        sys.exit(f"palp: {len(sweep.failed)} of {len(sweep.cells)} cells failed; the same command tries them again.")
