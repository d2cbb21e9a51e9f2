"""Does the runs of a sweep, each once.

A run is trained and then evaluated by `launch.py`, at the same place; its result is one JSON file,
written whole. What has a result is not run again, and what was interrupted resumes, because the
training command does. Two sweeps on one folder share its runs, and a job that waits or runs on a
cluster is not submitted again.
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
        args = _launcher(run, folder, place, "--dry-run")
        launch.start(args, _commands(run, folder), _output(run, folder))
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
    args = _launcher(run, folder, place)
    begin = time.monotonic()
    if args.where in launch.QUEUES:
        scores = _scores(run, folder)
        if scores is None:
            return _submit(run, folder, args)
        cost = {}  # the job knows
    else:
        run.evaluation_file(folder).unlink(missing_ok=True)
        if not run.weights and (status := launch.start(args, [run.train_arguments(folder)])):
            return _failed(run, folder, "training", status)
        if run.training.evaluated:
            words, output = run.eval_arguments(folder), run.evaluation_file(folder)
            if status := launch.start(args, [words], output):
                return _failed(run, folder, "evaluation", status)
        scores = _scores(run, folder)
        if scores is None:
            _write(run, folder, {"failed": "the evaluation printed no scores"})
            return "the evaluation printed no scores"
        cost = {"seconds": round(time.monotonic() - begin, 1)}
    _write(run, folder, {"scores": scores, **cost})
    return ""


def _commands(run: Run, folder: Path) -> list[list[str]]:
    """The training, if any, and the evaluation, if any."""
    words = [] if run.weights else [run.train_arguments(folder)]
    return [*words, run.eval_arguments(folder)] if run.training.evaluated else words


def _output(run: Run, folder: Path) -> Path | None:
    return run.evaluation_file(folder) if run.training.evaluated else None


def _scores(run: Run, folder: Path) -> dict[str, Any] | None:
    """The scores of a run that has ended; None before."""
    if not run.weights and not report.is_finished(folder / run.name):
        return None
    if not run.training.evaluated:
        return {}
    try:
        return json.loads(run.evaluation_file(folder).read_text().splitlines()[-1])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _submit(run: Run, folder: Path, args: argparse.Namespace) -> str:
    """Submit training and evaluation as one job, unless one waits or runs already."""
    if jobs := launch.queued_jobs(args):
        print(f"{run.name}: in the queue as {jobs}", flush=True)
    else:
        output = _output(run, folder)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.unlink(missing_ok=True)
        if status := launch.start(args, _commands(run, folder), output):
            return _failed(run, folder, "submission", status)
    return "submitted, and has not ended; run the same command again when it has"


def _launcher(run: Run, folder: Path, place: str, *options: str) -> argparse.Namespace:
    """The launcher's arguments for a run; a queue has its jobs under a name of their own."""
    args = launch.parser().parse_args([*shlex.split(place), *options])
    unique = hashlib.sha256(str((folder / run.name).absolute()).encode()).hexdigest()[:8]
    if args.where == "slurm":
        words = [args.name, re.sub(r"[^\w.=-]+", "-", run.name), unique]
        args.name = "-".join(filter(None, words))
    if args.where == "xpk":  # names on Kubernetes are short
        args.name = f"{args.name}-{unique}"
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
