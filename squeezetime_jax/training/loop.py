"""The loop of a run: dispatch a step, read the metrics of the one before, save, evaluate."""

import contextlib
import dataclasses
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray

from squeezetime_jax.checkpoint.run import RunCheckpoints
from squeezetime_jax.errors import UserError
from squeezetime_jax.training.report import Clock, Reporter
from squeezetime_jax.training.step import TrainState, items_of
from squeezetime_jax.training.task import Batch, Metrics

Step = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, Metrics]]
Evaluate = Callable[[int, TrainState], None]


class NonFiniteLoss(UserError):
    """The loss or the norm of the gradient is not finite."""


class Preempted(UserError):
    """The run was asked to stop, and has saved its last step.

    Attributes:
      signal: the signal that asked.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timetable:
    """What happens after which step. All in steps; `0` is never.

    Attributes:
      total_steps: steps of the whole run.
      log_every: steps from one report to the next.
      evaluate_every: steps from one evaluation to the next; also after the last step.
      save_every: steps from one checkpoint to the next; also before each evaluation and at the end.
      profile: first and last step of a profiler trace.
    """

    total_steps: int
    log_every: int = 10
    evaluate_every: int = 0
    save_every: int = 0
    profile: tuple[int, int] = (0, 0)

    def logs(self, step: int) -> bool:
        """Whether a report is due after `step` steps."""
        return self._due(step, self.log_every) or step == self.total_steps

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps."""
        return bool(self.evaluate_every) and (
            self._due(step, self.evaluate_every) or step == self.total_steps
        )

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return self._due(step, self.save_every) or self.evaluates(step) or step == self.total_steps

    @staticmethod
    def _due(step: int, every: int) -> bool:
        return every > 0 and step % every == 0


class _StopNow(Exception):
    """A signal arrived where nothing is lost by stopping at once."""


class StopRequest:
    """Whether the run is to stop: SIGTERM (from a scheduler), or Ctrl-C; a second Ctrl-C leaves.

    Attributes:
      signal: the signal that arrived; on several hosts possibly at another one.
    """

    def __enter__(self) -> "StopRequest":
        self.signal = int(signal.SIGTERM)
        self._arrived = self._is_saved = False
        # JAX's distributed service, where it runs, has a handler, and all hosts agree on a step.
        self._agrees = jax.distributed.is_initialized()
        numbers = [signal.SIGINT] if self._agrees else [signal.SIGINT, signal.SIGTERM]
        if threading.current_thread() is not threading.main_thread():
            numbers = []  # only the main thread may have handlers
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._arrived, self.signal = True, number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print(
                "stopping after this step, which is saved; Ctrl-C again leaves at once",
                file=sys.stderr,
                flush=True,
            )
        if self._agrees:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler tells the other hosts
        elif self._is_saved:
            raise _StopNow

    def after(self, step: int) -> bool:
        """Whether every host is to stop after this step."""
        if self._agrees:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._arrived

    @contextlib.contextmanager
    def while_saved(self) -> Iterator[None]:
        """In this context a signal stops at once, because the step is saved; on one host only.

        Raises:
          _StopNow: a signal has arrived.
        """
        self._is_saved = True
        try:
            if self._arrived and not self._agrees:
                raise _StopNow
            yield
        finally:
            self._is_saved = False


class Window:
    """Means of the metrics since the last report; a checkpoint keeps it."""

    def __init__(self, progress: Mapping[str, Any]):
        self.sums: dict[str, float] = dict(progress.get("sums", {}))
        self.steps: int = progress.get("steps", 0)

    def progress(self) -> dict[str, Any]:
        """The argument that makes the same `Window` again."""
        return {"sums": dict(self.sums), "steps": self.steps}

    def add(self, values: Mapping[str, float]) -> None:
        """Count one step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        """The means; the window is empty afterwards."""
        means = {name: total / self.steps for name, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


def fit(
    state: TrainState,
    *,
    start_step: int,
    step: Step,
    batches: Iterator[Batch],
    key: PRNGKeyArray,
    timetable: Timetable,
    evaluate: Evaluate,
    checkpoints: RunCheckpoints,
    reporter: Reporter,
    clock: Clock,
    progress: Mapping[str, Any],
    workdir: Path,
) -> TrainState:
    """Train from `start_step` to the timetable's end.

    Host and devices exchange the batch, the metrics of the step before, and what an evaluation or a
    checkpoint needs; any other transfer raises an error.

    Args:
      state: where to start; its buffers are donated.
      start_step: steps that `state` has behind it.
      step: the compiled step.
      batches: batches on the devices, from the `start_step`-th on.
      key: the run's key, on the devices.
      timetable: what happens when.
      evaluate: scores a state and records the scores, given the number of its steps.
      checkpoints: where to save.
      reporter: where to report.
      clock: counts where the time goes.
      progress: what a checkpoint kept of the loop; empty at the start.
      workdir: where a profiler trace goes.

    Returns:
      The state after the last step.

    Raises:
      NonFiniteLoss: with the step, the last good checkpoint and advice.
      Preempted: after SIGTERM or Ctrl-C, when the checkpoint is on disk.
    """
    window = Window(progress)
    pending: tuple[int, Metrics] | None = None

    def read_pending() -> None:
        nonlocal pending
        if pending is None:
            return
        done, metrics = pending
        pending = None
        values = _in_order(jax.device_get(metrics))
        _check_finite(values, done, checkpoints)
        window.add(values)
        if timetable.logs(done):
            reporter.training(done, window.means())

    def save(done: int) -> None:
        with clock("saving"), jax.transfer_guard("allow"):
            kept = {**window.progress(), "seconds": clock.seconds}
            checkpoints.save(done, items_of(state), kept)

    total = timetable.total_steps
    with (
        StopRequest() as stop,
        jax.transfer_guard("disallow"),
        _Profile(timetable, workdir) as profile,
    ):
        for done in range(start_step + 1, total + 1):
            with clock("data wait"):
                batch = next(batches)
            with clock("step"):
                profile.before(done)
                state, metrics = step(state, batch, key)
                read_pending()
                pending = done, metrics
                profile.after(done, state)
            stops = stop.after(done)
            if not (stops or timetable.saves(done)):
                continue
            with clock("step"):
                read_pending()
            # Saved before it is evaluated: nothing that an evaluation meets may lose a step.
            save(done)
            if stops and (done < total or timetable.evaluates(done)):
                raise _preempted(stop.signal, done, total, checkpoints)
            if timetable.evaluates(done):
                try:
                    with jax.transfer_guard("allow"), stop.while_saved():
                        evaluate(done, state)
                except _StopNow:
                    raise _preempted(stop.signal, done, total, checkpoints) from None
        with clock("saving"), jax.transfer_guard("allow"):
            checkpoints.wait()
    return state


def _preempted(number: int, done: int, total: int, checkpoints: RunCheckpoints) -> Preempted:
    with jax.transfer_guard("allow"):
        checkpoints.wait()
    what = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    return Preempted(
        f"stopped by {what}; step {done} of {total} is saved: {checkpoints.describe_last()}; the"
        " same command continues from there",
        number,
    )


def _in_order(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics in order of interest: the loss, the task's, the optimiser's."""
    ends = ("loss", "learning_rate", "grad_norm")
    between = [name for name in metrics if name not in ends]
    return {name: metrics[name].item() for name in (ends[0], *between, *ends[1:])}


def _check_finite(values: Mapping[str, float], step: int, checkpoints: RunCheckpoints) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            raise NonFiniteLoss(
                f"{name} is {values[name]} at step {step} (learning rate "
                f"{values['learning_rate']:.3g}); last good checkpoint: "
                f"{checkpoints.describe_last()}; in another --workdir, lower"
                " optimizer.learning_rate or lengthen optimizer.warmup_epochs; `squeezetime check`"
                " finds damaged videos"
            )


class _Profile:
    """A profiler trace of the timetable's chosen steps."""

    def __init__(self, timetable: Timetable, workdir: Path):
        self._first, self._last = timetable.profile
        self._folder = workdir / "profile"
        self._is_running = False

    def __enter__(self) -> "_Profile":
        return self

    def before(self, step: int) -> None:
        """Start if it is time."""
        if self._first and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._is_running = True

    def after(self, step: int, state: TrainState) -> None:
        """Stop after the last step, when the devices are done with it."""
        if self._is_running and step >= self._last:
            jax.block_until_ready(state)
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self._is_running:
            jax.profiler.stop_trace()
            self._is_running = False
