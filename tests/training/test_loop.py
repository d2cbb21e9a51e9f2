"""The timetable, on a step that is a sum."""

import dataclasses
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.checkpoint.run import RunCheckpoints
from squeezetime_jax.training.loop import (
    NonFiniteLoss,
    Preempted,
    Timetable,
    Window,
    fit,
)
from squeezetime_jax.training.report import Clock, Reporter
from squeezetime_jax.training.step import TrainState


@dataclasses.dataclass
class Listener(Reporter):
    """Keeps what it receives."""

    received: list[tuple] = dataclasses.field(default_factory=list)

    def training(self, step: int, values: Any) -> None:
        self.received.append(("train", step, dict(values)))

    def evaluation(self, step: int, values: Any) -> None:
        self.received.append(("eval", step, dict(values)))


class Saves(RunCheckpoints):
    """Remembers what it is given, and writes nothing."""

    def __init__(self) -> None:
        self.saved: list[tuple] = []

    def save(self, step: int, items: Any, progress: Any) -> None:
        self.saved.append((step, float(items["params"]), dict(progress)))

    def wait(self) -> None:
        """Nothing is under way."""

    def describe_last(self) -> str:
        return "none"


def _state() -> TrainState:
    zero = jnp.zeros(())
    return TrainState(jnp.zeros((), jnp.int32), zero, {}, {}, {})


@jax.jit
def _add(state: TrainState, batch: Any, key: Any) -> tuple[TrainState, dict]:
    total = state.params + batch["x"]
    metrics = {"loss": total, "top1": batch["x"], "learning_rate": 0.1, "grad_norm": batch["x"]}
    return dataclasses.replace(state, params=total), metrics


def _fit(
    numbers: Any, timetable: Timetable, start_step: int = 0, step: Any = _add, **changes: Any
) -> tuple[TrainState, Listener, Saves]:
    listener, saves = Listener(), Saves()

    def evaluate(step: int, state: TrainState) -> None:
        assert saves.saved[-1][0] == step  # what an evaluation meets cannot lose the step
        listener.evaluation(step, {"top1": float(state.params)})

    arguments: dict[str, Any] = {
        "start_step": start_step,
        "step": step,
        "batches": ({"x": jax.device_put(np.float32(n))} for n in numbers),
        "key": jax.random.key(0),
        "timetable": timetable,
        "evaluate": evaluate,
        "checkpoints": saves,
        "reporter": listener,
        "clock": Clock(),
        "progress": {},
        "workdir": Path(),
    }
    state = fit(_state(), **{**arguments, **changes})
    return state, listener, saves


def test_reports_evaluations_and_checkpoints_come_on_time() -> None:
    timetable = Timetable(total_steps=7, log_every=3, evaluate_every=4, save_every=2)
    state, listener, saves = _fit(itertools.repeat(1), timetable)
    assert float(state.params) == 7
    train = [(step, values["loss"]) for kind, step, values in listener.received if kind == "train"]
    assert train == [(3, 2), (6, 5), (7, 7)]  # means over 1..3, 4..6 and 7
    scores = [(step, values["top1"]) for kind, step, values in listener.received if kind == "eval"]
    assert scores == [(4, 4), (7, 7)]
    assert [(step, total) for step, total, _ in saves.saved] == [(2, 2), (4, 4), (6, 6), (7, 7)]


def test_a_resumed_window_reports_the_same_means() -> None:
    timetable = Timetable(total_steps=6, log_every=4, save_every=3)
    _, whole, saves = _fit(range(6), timetable)
    step, total, progress = saves.saved[0]
    assert step == 3
    resumed = dataclasses.replace(_state(), params=jnp.asarray(total))
    listener = Listener()
    fit(
        resumed,
        start_step=step,
        step=_add,
        batches=({"x": jax.device_put(np.float32(n))} for n in range(3, 6)),
        key=jax.random.key(0),
        timetable=timetable,
        evaluate=lambda step, state: None,
        checkpoints=Saves(),
        reporter=listener,
        clock=Clock(),
        progress=progress,
        workdir=Path(),
    )
    assert listener.received == whole.received


def test_a_loss_that_is_no_number_stops_with_step_and_hint() -> None:
    numbers = [1, 1, np.nan, 1, 1, 1]
    timetable = Timetable(total_steps=6, log_every=1, save_every=3)
    listener, saves = Listener(), Saves()
    told = r"loss is nan at step 3 \(learning rate 0.1\); last good checkpoint: none; .*lower optim"
    with pytest.raises(NonFiniteLoss, match=told):
        _fit(numbers, timetable, checkpoints=saves, reporter=listener)
    assert saves.saved == []  # not even at step 3, where one was due
    assert [step for _, step, _ in listener.received] == [1, 2]


def test_a_stop_request_saves_the_step_at_hand() -> None:
    def numbers() -> Any:
        for step in itertools.count(1):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield 1

    saves = Saves()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match=r"stopped by SIGTERM; step 5 of 9 is saved"):
        _fit(numbers(), Timetable(total_steps=9), checkpoints=saves)
    assert [(step, total) for step, total, _ in saves.saved] == [(5, 5)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_request_at_the_last_step_is_no_interruption() -> None:
    def numbers() -> Any:
        for step in itertools.count(1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield 1

    _, _, saves = _fit(numbers(), Timetable(total_steps=3))
    assert [step for step, *_ in saves.saved] == [3]


def test_a_host_array_among_the_batches_is_refused() -> None:
    with pytest.raises(Exception, match=r"[Dd]isallowed host-to-device transfer"):
        _fit([], Timetable(total_steps=1), batches=iter([{"x": np.float32(1)}]))


def test_the_step_before_is_read_after_the_next_is_dispatched() -> None:
    order = []

    def step(state: TrainState, batch: Any, key: Any) -> Any:
        order.append(("dispatch", len(order)))
        return _add(state, batch, key)

    class Reads(Listener):
        def training(self, step: int, values: Any) -> None:
            order.append(("read", step))

    _fit(itertools.repeat(1), Timetable(total_steps=3, log_every=1), step=step, reporter=Reads())
    names = [name for name, _ in order]
    assert names == ["dispatch", "dispatch", "read", "dispatch", "read", "read"]


def test_a_trace_of_the_chosen_steps_is_written(tmp_path: Path) -> None:
    _fit(itertools.repeat(1), Timetable(total_steps=4, profile=(2, 3)), workdir=tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_an_empty_window_starts_from_nothing() -> None:
    window = Window({})
    window.add({"loss": 1.0})
    window.add({"loss": 3.0})
    assert window.progress() == {"sums": {"loss": 4.0}, "steps": 2}
    assert window.means() == {"loss": 2.0}
    assert window.progress() == {"sums": {}, "steps": 0}
