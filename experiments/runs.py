"""Training runs of a sweep: what each is, where it lies, and doing it once.

A run is trained by `launch.py` and then evaluated by `squeezetime eval`; its result is one JSON
file, written whole. What has a result is never run again, and what was interrupted goes on where it
stopped, since the training command itself does. Two sweeps that share a folder share their runs.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import launch

import squeezetime_jax
from squeezetime_jax.deploy.benchmark_command import machine
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.counts import Counts, count
from squeezetime_jax.training import config, report

REPOSITORY = Path(__file__).resolve().parents[1]

# Forward multiply-adds a second while training: a GPU at a third of the 903 clips a second that the
# paper reports for inference on a V100, and two processor cores as measured with configs/ablation.
GPU_RATE = 300 * 5.48e9
CORES_RATE = 5.5e9
# Clips of one pass over the training data, by config; of any other its `data.motion` says it.
TRAINING_CLIPS = {
    "imagenet1k": 1_281_167,
    "k400": 240_000,
    "k600": 390_000,
    "hmdb51": 3_570,
    "ava21": 184_000,
    "thumos14": 7_842 * 32,
}
_CHECKPOINTS = 3  # two newest and the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run and its evaluation.

    Attributes:
      config: as `--config` takes it.
      fields: fields of the config that differ, and name the run.
      where: further fields, that say where data lie and do not name the run.
      seed: of everything drawn.
      start: what it starts from: a file, or a run that is done before. None: as the config says.
      views: "CLIPSxCROPS" of the evaluation; empty: the config's.
      evaluated: whether it is evaluated; a run that only others start from is not.
      weights: a checkpoint that is evaluated instead of training one.
    """

    config: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    start: "Run | str | None" = None
    views: str = ""
    evaluated: bool = True
    weights: str = ""

    @property
    def name(self) -> str:
        """A path: config, what differs from it, seed."""
        parts = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.fields.items())]
        differs = ",".join(parts).replace("/", "_") or "as_it_is"
        base = self.config.replace(":", "-")
        last = f"weights-{Path(self.weights).stem}" if self.weights else f"seed{self.seed}"
        return f"{base}/{differs}/{last}"

    def folder(self, workdir: Path) -> Path:
        """Where the run lies."""
        return workdir / self.name

    def result_file(self, workdir: Path) -> Path:
        """Where its result lies, beside its folder."""
        folder = self.folder(workdir)
        return folder.with_name(f"{folder.name}.json")

    def result(self, workdir: Path) -> dict[str, Any] | None:
        """What became of it: `scores`, or `failed`; None before it was run."""
        try:
            return json.loads(self.result_file(workdir).read_text())
        except FileNotFoundError:
            return None

    def before(self) -> list["Run"]:
        """The runs that have to be done first, in order."""
        if self.weights or not isinstance(self.start, Run):
            return []
        return [*self.start.before(), self.start]

    def config_arguments(self) -> list[str]:
        """The config and its fields, as `train` and `eval` both take them."""
        fields = {"seed": self.seed, **self.where, **self.fields}
        return [
            f"--config={self.config}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def train_arguments(self, workdir: Path) -> list[str]:
        """What `squeezetime train` takes."""
        words = [*self.config_arguments(), f"--workdir={self.folder(workdir)}"]
        if self.start is None:
            return words
        start = self.start.folder(workdir) if isinstance(self.start, Run) else self.start
        return [*words, f"--from={start}"]

    def eval_command(self, workdir: Path) -> list[str]:
        """The command that measures the trained network."""
        checkpoint = self.weights or str(self.folder(workdir))
        words = [*self.config_arguments(), f"--checkpoint={checkpoint}", "--json"]
        views = [f"--views={self.views}"] if self.views else []
        return [sys.executable, "-m", "squeezetime_jax.eval", *words, *views]

    def experiment(self) -> Any:
        """The config with its fields."""
        return _read(tuple(self.config_arguments()))

    def network(self) -> SqueezeTimeConfig:
        """The network that is trained."""
        fields = self.experiment().model.to_dict()
        return SqueezeTimeConfig(**{**fields, "bn_group_size": fields["bn_group_size"] or None})

    def counts(self) -> Counts:
        """What one clip of it costs."""
        return _count(self.network(), _side(self.experiment()))

    def hours(self) -> float:
        """Device-hours, estimated from multiply-adds: a GPU's, or for embedded data two cores'."""
        fields = self.experiment()
        base = self.config.partition(":")[0]
        known = base in TRAINING_CLIPS and not self.config.endswith(":demo")
        clips = TRAINING_CLIPS[base] if known else _embedded_clips(fields)
        work = fields.epochs * clips * self.counts().multiply_adds
        return 0.0 if self.weights else work / (GPU_RATE if known else CORES_RATE) / 3600

    def gigabytes(self) -> float:
        """Disk that its checkpoints take: weights and momentum, four bytes each."""
        counts = self.counts()
        numbers = 0 if self.weights else counts.backbone + counts.head
        return _CHECKPOINTS * 2 * 4 * numbers / 1e9


# Counting traces a network, reading runs a config file: a plan asks for the same again and again.
_count = functools.lru_cache(maxsize=None)(lambda network, side: count(network, side, side))
_read = functools.lru_cache(maxsize=None)(config.read)


def _side(fields: Any) -> int:
    return fields.window.crop_side if "window" in fields else fields.data.crop_size


def _embedded_clips(fields: Any) -> int:
    if "window" in fields:  # of untrimmed videos: how many clips they make is not known before
        return 0
    return next(fields.data[name].num_train for name in ("motion", "people") if name in fields.data)


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The runs with all that come before them, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        for each in (*run.before(), run):
            found.setdefault(each.name, each)
    return list(found.values())


def print_plan(runs: Sequence[Run], workdir: Path, place: str) -> None:
    """Print every command, what it is estimated to cost, and what is done already."""
    hours = gigabytes = 0.0
    every = ordered(runs)
    todo = [run for run in every if not _is_done(run, workdir)]
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
    todo = ordered(runs)
    for number, run in enumerate(todo, 1):
        if _is_done(run, workdir):
            continue
        print(f"== run {number} of {len(todo)}: {run.name}", flush=True)
        trouble = _do(run, workdir, place)
        if trouble:
            print(f"{run.name}: {trouble}", file=sys.stderr)
            troubles.append(f"{run.name}: {trouble}")
    return troubles


def _is_done(run: Run, workdir: Path) -> bool:
    return "scores" in (run.result(workdir) or {})


def _do(run: Run, workdir: Path, place: str) -> str:
    """Train and evaluate; in a word what went wrong, if anything did."""
    with _alone(run.result_file(workdir)):
        if _is_done(run, workdir):  # another sweep was faster
            return ""
        missing = [each.name for each in run.before() if not _is_done(each, workdir)]
        if missing:
            return f"not run, for {missing[-1]} is not done"
        begin = time.monotonic()
        status = 0 if run.weights else _launch(run, workdir, place)
        if status:
            return _failed(run, workdir, f"training ended with status {status}")
        if not run.weights and not report.is_finished(run.folder(workdir)):
            return "started, and has not ended; the same command goes on when it has"
        scores: dict[str, Any] = {}
        if run.evaluated:
            done = subprocess.run(run.eval_command(workdir), stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return _failed(run, workdir, f"evaluation ended with status {done.returncode}")
            scores = json.loads(done.stdout.splitlines()[-1])
        _write(run, workdir, {"scores": scores, "seconds": round(time.monotonic() - begin, 1)})
        return ""


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait while another sweep is at the same run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another sweep is at it: waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _launch(run: Run, workdir: Path, place: str, *, dry_run: bool = False) -> int:
    words = shlex.split(place) + (["--dry-run"] if dry_run else [])
    arguments = launch.parser().parse_args(words)
    return launch.start(arguments, run.train_arguments(workdir))


def _failed(run: Run, workdir: Path, what: str) -> str:
    """Note a failure; a run that was stopped has not failed, and ends the sweep."""
    status = int(what.rpartition(" ")[2])
    if status in (130, 143, -2, -15):
        raise SystemExit(abs(status) if status > 0 else 128 - status)
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
