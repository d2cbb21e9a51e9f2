"""What a run reports: progress, metrics file, TensorBoard, curves, and where the time went."""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from squeezetime_jax.data.workers import is_terminal
from squeezetime_jax.files import write_whole
from squeezetime_jax.machine import available_cpus

METRICS = "metrics.jsonl"
CURVES = "curves.png"
_TITLES = {"top1": "top-1 accuracy"}
_FEW_POINTS = 10


class Reporter:
    """Receives what a run reports, and ignores it; subclasses print or write it."""

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Means over the steps since the last call, up to and including `step`."""

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """The scores of an evaluation after `step` steps."""

    def say(self, text: str) -> None:
        """A sentence for the user."""

    def close(self) -> None:
        """The run has ended or failed."""


class Reporters(Reporter):
    """Passes everything on to several reporters."""

    def __init__(self, reporters: Sequence[Reporter]):
        self._reporters = reporters

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.training(step, values)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.evaluation(step, values)

    def say(self, text: str) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.say(text)

    def close(self) -> None:
        """Pass on."""
        for reporter in self._reporters:
            reporter.close()


class MetricsFile(Reporter):
    """`metrics.jsonl`: a line per report, `{"step", "kind": "train" | "eval", ...}`.

    Lines that a killed run wrote after its last checkpoint are dropped; the resumed run writes the
    same again.

    Args:
      workdir: the run's directory.
      start_step: step of the checkpoint that the run continues from.
      evaluates_again: whether the evaluation after `start_step` is still to be finished.
    """

    def __init__(self, workdir: Path, start_step: int = 0, *, evaluates_again: bool = False):
        path = workdir / METRICS
        kept = [
            line
            for line in read_metrics(workdir)
            if line["step"] < start_step
            or (line["step"] == start_step and not (evaluates_again and line["kind"] == "eval"))
        ]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line."""
        self._write({"step": step, "kind": "train", **values})

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line."""
        self._write({"step": step, "kind": "eval", **values})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without a last one that was cut short."""
    try:
        text = (workdir / METRICS).read_text()
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


class TensorBoard(Reporter):
    """Event files, written without TensorFlow."""

    def __init__(self, workdir: Path, start_step: int = 0):
        from tensorboardX import SummaryWriter

        # TensorBoard hides what a killed run wrote after its last checkpoint.
        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars under `train/`."""
        self._add("train", step, values)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars under `eval/`."""
        self._add("eval", step, values)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def _add(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()


class Lines(Reporter):
    """Plain lines, for a log file or a pipe."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int):
        self._total = total_steps
        self._rate = _Rate(start_step, total_steps, batch_size)

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line."""
        print(f"step {step}/{self._total}  {_numbers(values)}  {self._rate(step)}", flush=True)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line."""
        print(f"step {step}/{self._total}  evaluation: {_numbers(values)}", flush=True)

    def say(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)


class Bar(Reporter):
    """A progress bar, for a terminal."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int):
        from rich import progress

        self._rate = _Rate(start_step, total_steps, batch_size)
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),  # the first step takes long: it is compiled before
            progress.TextColumn("{task.fields[numbers]}"),
        )
        self._task = self._progress.add_task(
            "training", total=total_steps, completed=start_step, numbers=""
        )
        self._progress.start()

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar."""
        shown = {k: v for k, v in values.items() if k not in ("learning_rate", "grad_norm")}
        numbers = f"{_numbers(shown)}  {self._rate(step)}"
        self._progress.update(self._task, completed=step, numbers=numbers)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line above the bar."""
        self.say(f"step {step}: {_numbers(values)}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def console(start_step: int, total_steps: int, batch_size: int) -> Reporter:
    """The bar on a terminal, lines elsewhere."""
    reporter = Bar if is_terminal(sys.stdout) else Lines
    return reporter(start_step, total_steps, batch_size)


class _Rate:
    """Clips a second since the last call, and the time left at the mean rate so far."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int):
        self._first, self._total, self._batch = start_step, total_steps, batch_size
        self._last_step, self._begin = start_step, 0.0
        self._last_time = self._begin

    def __call__(self, step: int) -> str:
        now = time.monotonic()
        if not self._begin:  # most of the time before the first report is compilation
            self._first, self._begin = step, now
            self._last_step, self._last_time = step, now
            return ""
        rate = (step - self._last_step) * self._batch / max(now - self._last_time, 1e-9)
        left = (self._total - step) * (now - self._begin) / max(step - self._first, 1)
        self._last_step, self._last_time = step, now
        return f"{rate:.1f} clips/s  {duration(left)} left"


def duration(seconds: float | int) -> str:
    """Seconds as text: 42 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _numbers(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {_number(name, value)}" for name, value in values.items())


def _is_share(name: str) -> bool:
    return name.startswith(("top", "mean_class", "map"))


def _number(name: str, value: float) -> str:
    if _is_share(name):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


class Clock:
    """The wall-clock time of a run by part, since the clock was made and in the runs continued."""

    PARTS = ("compiling", "data wait", "step", "evaluation", "saving")
    REST = "starting and other"

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._here = dict.fromkeys(self.PARTS, 0.0)
        self._before = dict.fromkeys((*self.PARTS, self.REST), 0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, and the rest."""
        rest = time.monotonic() - self._begin - sum(self._here.values())
        here = {**self._here, self.REST: max(rest, 0.0)}
        return {part: self._before[part] + seconds for part, seconds in here.items()}

    def add(self, seconds: Mapping[str, float] | None) -> None:
        """Count the time of the run that is continued, as `seconds` was then."""
        for part, value in (seconds or {}).items():
            self._before[part] = self._before.get(part, 0.0) + value

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time of the body towards a part."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._here[part] += time.monotonic() - begin

    def summary(self, workers: int = 0) -> str:
        """One line: the share of each part, and what would make the run faster.

        Args:
          workers: decoding processes of the run; 0: threads.
        """
        seconds = self.seconds
        total = sum(seconds.values()) or 1.0
        shares = {part: value / total for part, value in seconds.items()}
        split = ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares.items())
        return f"time {duration(total)}: {split}; {_advice(shares, workers)}"


def _advice(shares: Mapping[str, float], workers: int) -> str:
    cpus = available_cpus()
    if shares["data wait"] > 0.1:
        if workers < cpus:
            more = f"--config.data.workers={cpus} (now {workers or '0: threads'})"
        else:
            more = "more processors"
        return f"the devices wait for data: try {more}, or train on shards (`squeezetime prepare`)"
    if shares[Clock.REST] + shares["compiling"] > 0.5:
        return "most of it is spent once, at the start: a longer run costs little more"
    if shares["evaluation"] + shares["saving"] > 0.25:
        return (
            "evaluate and save less often to go faster (evaluation.every_epochs, run.save_epochs)"
        )
    return "the devices are busy: a faster or a further device would help"


def environment() -> dict[str, Any]:
    """Versions, machine and devices, for a run's `environment.json`."""
    packages = ["squeezetime-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"]
    packages += ["numpy", "av", "opencv-python-headless"]
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "processes": jax.process_count(),
        "devices": {"count": len(devices), "kind": devices[0].device_kind},
        "cores": available_cpus(),
        "flags": {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_"))},
    }


def is_finished(workdir: Path) -> bool:
    """Whether the run in `workdir` has ended; its curves are drawn last."""
    return (workdir / CURVES).exists()


def draw_curves(workdir: Path, steps_per_epoch: int, score: str = "top1") -> Path | None:
    """Draw loss, score and learning rate over the epochs into `curves.png`.

    Returns:
      The picture's path, or None where there is nothing to draw.
    """
    lines = read_metrics(workdir)
    train = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    if not train:
        return None
    from squeezetime_jax.evaluation.pictures import new_figure, save_figure  # slow to import

    figure = new_figure(12.0, 3.5)
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels, ("loss", score, "learning_rate"), strict=True):
        percent = _is_share(name)
        for lines, marker, label in ((train, "", "training"), (evaluations, "o", "evaluation")):
            points = [
                (line["step"] / steps_per_epoch, line[name] * (100 if percent else 1))
                for line in lines
                if name in line
            ]
            if points:
                if len(points) < _FEW_POINTS:  # which make no line that is seen
                    marker = marker or "."
                axes.plot(*zip(*points, strict=True), f"{marker}-", label=label)
        if any(name in line for line in evaluations):
            axes.legend()
        if percent:
            axes.set(ylim=(0, 103), ylabel="%")
        axes.set(xlabel="epoch", title=_TITLES.get(name, name.replace("_", " ")))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    return save_figure(figure, workdir / CURVES)
