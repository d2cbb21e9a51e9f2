"""Does the runs of a sweep, each once.

A run is trained by `launch.py` and then evaluated by `squeezetime eval`; its result is one JSON
file, written whole. What has a result is not run again, and what was interrupted resumes, because
the training command does. Two sweeps on one folder share its runs.
"""

import argparse
import contextlib
import datetime
import fcntl
import hashlib
import json
import re
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
# Exit statuses of a command that was stopped: its own, or the signal's.
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)


def print_plan(runs: Sequence[Run], folder: Path, place: str) -> None:
    """Print every command that is left, its estimated cost, and how many runs are done."""
    hours = gigabytes = 0.0
    every = ordered(runs)
    todo = [run for run in every if not run.is_done(folder)]
    for number, run in enumerate(todo, 1):
        hours, gigabytes = hours + run.hours(), gigabytes + run.gigabytes()
        cost = f"{_amount(run.hours())} device-hours, {_amount(run.gigabytes())} GB"
        print(f"# {number}/{len(todo)} {run.name}: {cost}", flush=True)
        if not run.weights:
            launch.start(_launcher(run, folder, place, "--dry-run"), run.train_arguments(folder))
        if run.training.evaluated:
            print(shlex.join(run.eval_command(folder)))
    print(
        f"# together about {_amount(hours)} device-hours (an estimate from multiply-adds),"
        f" {_amount(gigabytes)} GB of checkpoints; {len(every) - len(todo)} of {len(every)} runs"
        " are done"
    )


def _amount(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def do_all(runs: Sequence[Run], folder: Path, place: str) -> list[str]:
    """Do the runs that are not done yet.

    Returns:
      A line for each run that failed or has not ended.

    Raises:
      SystemExit: the sweep was stopped.
    """
    problems = []
    todo = [run for run in ordered(runs) if not run.is_done(folder)]
    total = len(todo)
    for wait in (False, True):  # runs of another sweep come last, when they may be done
        later: list[Run] = []
        for run in todo:
            try:
                if any(each in later for each in run.before()):
                    raise BlockingIOError
                with locked(run.result_file(folder), wait=wait):
                    print(f"== {run.name} ({total} runs in all)", flush=True)
                    problem = _do(run, folder, place)
            except BlockingIOError:
                later.append(run)
                continue
            if problem:
                print(f"{run.name}: {problem}", file=sys.stderr)
                problems.append(f"{run.name}: {problem}")
        todo = later
    return problems


def _do(run: Run, folder: Path, place: str) -> str:
    """Train and evaluate a run; returns what went wrong, or empty."""
    if run.is_done(folder):  # by another sweep
        return ""
    missing = [each.name for each in run.before() if not each.is_done(folder)]
    if missing:
        return f"not run, because {missing[-1]} is not done"
    begin = time.monotonic()
    if not run.weights:
        status = _train(run, folder, _launcher(run, folder, place))
        if status:
            return _failed(run, folder, "training", status)
        if not report.is_finished(folder / run.name):
            return "submitted, and has not ended; run the same command again when it has"
    scores: dict[str, Any] = {}
    if run.training.evaluated:
        done = subprocess.run(run.eval_command(folder), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            return _failed(run, folder, "evaluation", done.returncode)
        scores = json.loads(done.stdout.splitlines()[-1])
    _write(run, folder, {"scores": scores, "seconds": round(time.monotonic() - begin, 1)})
    return ""


def _train(run: Run, folder: Path, args: argparse.Namespace) -> int:
    """Start the training; a job that ended, waits or runs is not submitted again."""
    if args.where in launch.QUEUES and report.is_finished(folder / run.name):
        return 0
    if args.where == "slurm" and (jobs := launch.queued_jobs(args.name)):
        print(f"{run.name}: SLURM has it as {jobs}", flush=True)
        return 0
    return launch.start(args, run.train_arguments(folder))


def _launcher(run: Run, folder: Path, place: str, *options: str) -> argparse.Namespace:
    """The launcher's arguments for a run; on SLURM its jobs have a name that no other run has."""
    args = launch.parser().parse_args([*shlex.split(place), *options])
    if args.where == "slurm":
        unique = hashlib.sha256(str((folder / run.name).absolute()).encode()).hexdigest()[:8]
        words = [args.name, re.sub(r"[^\w.=-]+", "-", run.name), unique]
        args.name = "-".join(filter(None, words))
    return args


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other sweeps off a path.

    Args:
      path: what is worked on.
      wait: for another sweep that holds it.

    Raises:
      BlockingIOError: another sweep holds it, and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _failed(run: Run, folder: Path, stage: str, status: int) -> str:
    """Write a failure down; a run that was stopped has not failed, and ends the sweep."""
    if status in _STOPPED:
        print("stopped; the same command resumes from here", file=sys.stderr)
        raise SystemExit(status if status > 0 else 128 - status)
    problem = f"{stage} ended with status {status}"
    _write(run, folder, {"failed": problem})
    return problem


def _write(run: Run, folder: Path, found: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    made = {"run": run.name, "when": now, "machine": machine(), "version": _version()}
    write_whole(run.result_file(folder), json.dumps({**found, **made}, indent=1) + "\n")


def _version() -> str:
    """The package's version, and the commit where this is a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return f"{squeezetime_jax.__version__} ({done.stdout.strip()})"
    return squeezetime_jax.__version__


def check_place(place: str) -> None:
    """Check the first word of a place; the launcher checks its options.

    Raises:
      UserError: the launcher does not know it.
    """
    words = shlex.split(place)
    if not words or words[0] not in launch.PLACES:
        known = ", ".join(launch.PLACES)
        raise UserError(f"--devices: expected {known} and its options, got {place!r}")
