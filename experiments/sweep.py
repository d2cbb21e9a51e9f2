"""Doing the runs of a sweep, each once.

A run is trained by `launch.py` and then evaluated by `squeezetime eval`; its result is one JSON
file, written whole. What has a result is never run again, and what was interrupted goes on where it
stopped, since the training command itself does. Two sweeps that share a folder share their runs.
"""

import contextlib
import datetime
import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import launch
from runs import Run, ordered

import squeezetime_jax
from squeezetime_jax.bench.command import machine
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole
from squeezetime_jax.training import report

REPOSITORY = Path(__file__).resolve().parents[1]
# How a command ends that was asked to: by itself, or by the signal.
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)


def print_plan(runs: Sequence[Run], workdir: Path, place: str) -> None:
    """Print every command, what it is estimated to cost, and what is done already."""
    hours = gigabytes = 0.0
    every = ordered(runs)
    todo = [run for run in every if not run.is_done(workdir)]
    for number, run in enumerate(todo, 1):
        hours, gigabytes = hours + run.hours(), gigabytes + run.gigabytes()
        cost = f"{run.hours():.2g} device-hours, {run.gigabytes():.2g} GB"
        print(f"# {number}/{len(todo)} {run.name}: {cost}", flush=True)
        if not run.weights:
            _launch(run, workdir, place, dry_run=True)
        if run.evaluated:
            print(shlex.join(run.eval_command(workdir)))
    print(
        f"# together about {hours:.3g} device-hours (an estimate from multiply-adds),"
        f" {gigabytes:.3g} GB of checkpoints; {len(every) - len(todo)} runs are done"
    )


def do_all(runs: Sequence[Run], workdir: Path, place: str) -> list[str]:
    """Do what is not done yet.

    Returns:
      A line for each run that failed or has not ended.

    Raises:
      SystemExit: the sweep was asked to stop.
    """
    troubles = []
    todo = [run for run in ordered(runs) if not run.is_done(workdir)]
    total = len(todo)
    for wait in (False, True):  # what another sweep is at comes last, and is done by then
        later: list[Run] = []
        for run in todo:
            try:
                if any(each in later for each in run.before()):
                    raise BlockingIOError
                with alone(run.result_file(workdir), wait=wait):
                    print(f"== {run.name} ({total} runs in all)", flush=True)
                    trouble = _do(run, workdir, place)
            except BlockingIOError:
                later.append(run)
                continue
            if trouble:
                print(f"{run.name}: {trouble}", file=sys.stderr)
                troubles.append(f"{run.name}: {trouble}")
        todo = later
    return troubles


def _do(run: Run, workdir: Path, place: str) -> str:
    """Train and evaluate; in a word what went wrong, if anything did."""
    if run.is_done(workdir):  # another sweep was faster
        return ""
    missing = [each.name for each in run.before() if not each.is_done(workdir)]
    if missing:
        return f"not run, for {missing[-1]} is not done"
    begin = time.monotonic()
    status = 0 if run.weights else _launch(run, workdir, place)
    if status:
        return _failed(run, workdir, "training", status)
    if not run.weights and not report.is_finished(run.folder(workdir)):
        return "started, and has not ended; the same command goes on when it has"
    scores: dict[str, Any] = {}
    if run.evaluated:
        done = subprocess.run(run.eval_command(workdir), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return _failed(run, workdir, "evaluation", done.returncode)
        scores = json.loads(done.stdout.splitlines()[-1])
    _write(run, workdir, {"scores": scores, "seconds": round(time.monotonic() - begin, 1)})
    return ""


@contextlib.contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other sweeps off a path.

    Args:
      path: what is worked at.
      wait: for another sweep that is at it.

    Raises:
      BlockingIOError: another sweep is at it, and it was not to be waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _launch(run: Run, workdir: Path, place: str, *, dry_run: bool = False) -> int:
    words = shlex.split(place) + (["--dry-run"] if dry_run else [])
    arguments = launch.parser().parse_args(words)
    return launch.start(arguments, run.train_arguments(workdir))


def _failed(run: Run, workdir: Path, stage: str, status: int) -> str:
    """Note a failure; a run that was stopped has not failed, and ends the sweep."""
    if status in _STOPPED:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(status if status > 0 else 128 - status)
    what = f"{stage} ended with status {status}"
    _write(run, workdir, {"failed": what})
    return what


def _write(run: Run, workdir: Path, found: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    made = {"run": run.name, "when": now, "machine": machine(), "version": version()}
    write_whole(run.result_file(workdir), json.dumps({**found, **made}, indent=1) + "\n")


def version() -> str:
    """The package's version, and the commit where this is a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return f"{squeezetime_jax.__version__} ({done.stdout.strip()})"
    return squeezetime_jax.__version__


def check_place(place: str) -> None:
    """Refuse a place that the launcher does not know.

    Raises:
      UserError: in a line.
    """
    words = shlex.split(place)
    known = ("local", "processes", "slurm", "tpu", "xpk")
    if not words or words[0] not in known:
        raise UserError(f"--devices {place!r}: wanted one of {', '.join(known)} and its options")
