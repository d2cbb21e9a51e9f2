"""A run from beginning to end: assemble, resume, train, report."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from squeezetime_jax.checkpoint.run import RunCheckpoints
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole
from squeezetime_jax.training import config, devices
from squeezetime_jax.training.loop import Timetable, fit
from squeezetime_jax.training.network import Network
from squeezetime_jax.training.plan import Plan
from squeezetime_jax.training.recipe import learning_rate_schedule, optimizer
from squeezetime_jax.training.report import (
    Clock,
    Everyone,
    MetricsFile,
    Report,
    Silence,
    TensorBoard,
    console,
    draw_curves,
    environment,
)
from squeezetime_jax.training.step import TrainState, averaged, init_state, train_step
from squeezetime_jax.training.task import Batch, Task

CONFIG = "config.json"
ENVIRONMENT = "environment.json"

EvaluateModel = Callable[[Any], dict[str, float]]


@runtime_checkable
class TrainingData(Protocol):
    """The training data as batches on the devices."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass."""

    @property
    def labels(self) -> list[str] | None:
        """Class names in the order of the labels, if known."""

    def batches(self, start_step: int) -> AbstractContextManager[Iterator[Batch]]:
        """The batches from the `start_step`-th on, without end."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes:
      state: after the last step.
      best: directory of the checkpoint with the best evaluation, if there was one.
    """

    state: TrainState
    best: Path | None


class Trainer:
    """The compiled step of an experiment on a mesh, and the states it works on.

    Args:
      experiment: the run.
      task: what is trained.
      mesh: the devices.
      steps_per_epoch: batches in one pass.
    """

    def __init__(self, experiment: Plan, task: Task, mesh: Mesh, steps_per_epoch: int):
        self.experiment, self.task, self.mesh = experiment, task, mesh
        recipe = experiment.optimizer
        schedule = learning_rate_schedule(
            recipe,
            batch_size=experiment.batch_size,
            epochs=experiment.epochs,
            steps_per_epoch=steps_per_epoch,
        )
        self._optimizer = optimizer(recipe, schedule, task.trains)
        self._step = functools.partial(
            train_step,
            task=task,
            optimizer=self._optimizer,
            schedule=schedule,
            recipe=recipe,
        )

    def new_state(self) -> TrainState:
        """The state before the first step."""
        state = init_state(*self.task.init(), self._optimizer, self.experiment.optimizer)
        return devices.put_everywhere(state, self.mesh)

    def key(self) -> PRNGKeyArray:
        """The run's key, on every device."""
        return jax.jit(jax.random.key, out_shardings=devices.replicated(self.mesh))(
            self.experiment.seed
        )

    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings."""
        everywhere = devices.replicated(self.mesh)
        shapes = jax.eval_shape(
            functools.partial(
                init_state, optimizer=self._optimizer, recipe=self.experiment.optimizer
            ),
            *self.task.network.abstract(),
        )
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
        )

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as shapes with shardings."""
        split = devices.split_batch(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)
            for name, x in self.task.abstract_batch().items()
        }

    def compile_step(self) -> jax.stages.Compiled:
        """The step, compiled once and ahead of time.

        The program takes these shapes, types and shardings and no others: called with any other, it
        raises an error that names the argument, where a jitted function would silently compile
        again.
        """
        everywhere = devices.replicated(self.mesh)
        jitted = jax.jit(
            self._step,
            in_shardings=(everywhere, devices.split_batch(self.mesh), everywhere),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )
        return jitted.lower(self.abstract_state(), self.abstract_batch(), self.key()).compile()


def train(
    experiment: Plan,
    workdir: Path,
    task: Task,
    data: TrainingData,
    evaluate: EvaluateModel | None = None,
    report: Report | None = None,
) -> Result:
    """Train an experiment, or go on with it.

    Args:
      experiment: the run.
      workdir: its directory, the same on all hosts: configuration, checkpoints, metrics, curves.
      task: what is trained.
      data: what it is trained on.
      evaluate: scores of a model on the test data; the task's `score` names the best.
      report: whom to tell, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: `workdir` belongs to another experiment; the batch does not fit the devices; the
        loss is no number any more; the disk is full; the run was asked to stop.
    """
    use_compilation_cache(experiment.run.compilation_cache)
    mesh = devices.data_mesh()
    devices.check_batch_on(mesh, experiment.batch_size)
    claim(workdir, experiment)
    trainer = Trainer(experiment, task, mesh, data.steps_per_epoch)
    store = RunCheckpoints(
        workdir, task.meta(data.labels), keep=experiment.run.keep, best_by=task.score
    )
    try:
        # Where a run starts: 1. its own newest checkpoint; 2. the weights of `init`; 3. scratch.
        found = store.restore(_items(trainer.abstract_state(), bool(experiment.optimizer.ema)))
        if found:
            start, items, progress = found
            state = _state(items)
        else:
            start, state, progress = 0, trainer.new_state(), {}
        timetable = _timetable(experiment, data.steps_per_epoch)
        listener = _reports(experiment, workdir, start, timetable.total_steps, report)
        clock = Clock(progress.get("seconds"))
        try:
            listener.say(_beginning(experiment, workdir, start, timetable, mesh))
            if start < timetable.total_steps:
                with data.batches(start) as batches:
                    state = fit(
                        state,
                        start_step=start,
                        step=trainer.compile_step(),
                        batches=batches,
                        key=trainer.key(),
                        timetable=timetable,
                        evaluate=_evaluation(task.network, evaluate),
                        checkpoints=_Saver(store, clock),
                        report=listener,
                        clock=clock,
                        progress=progress,
                        workdir=workdir,
                    )
            if devices.is_main():
                draw_curves(workdir, data.steps_per_epoch, task.score)
            return _end(state, store, listener, clock)
        finally:
            listener.close()
    finally:
        store.close()


class _Saver:
    """The loop's door to the run's checkpoints."""

    def __init__(self, store: RunCheckpoints, clock: Clock):
        self._store, self._clock = store, clock

    def save(
        self,
        state: TrainState,
        step: int,
        progress: Mapping[str, Any],
        scores: Mapping[str, float] | None = None,
    ) -> None:
        items = _items(state, bool(state.ema))
        self._store.save(step, items, {**progress, "seconds": self._clock.seconds}, scores)

    def wait(self) -> None:
        self._store.wait()

    def describe_last(self) -> str:
        return self._store.describe_last()


def _items(state: TrainState, has_ema: bool) -> dict[str, Any]:
    """The state as a checkpoint's items; what `load` takes is what was evaluated."""
    params, batch_stats = averaged(state)
    training: dict[str, Any] = {"step": state.step, "opt_state": state.opt_state}
    if has_ema:
        training["raw"] = {"params": state.params, "batch_stats": state.batch_stats}
    return {"params": params, "batch_stats": batch_stats, "training": training}


def _state(items: dict[str, Any]) -> TrainState:
    training = items["training"]
    used = {name: items[name] for name in ("params", "batch_stats")}
    raw = training.get("raw")
    now = raw or used
    return TrainState(
        step=training["step"], opt_state=training["opt_state"], ema=used if raw else {}, **now
    )


def _evaluation(
    network: Network, evaluate: EvaluateModel | None
) -> Callable[[TrainState], dict[str, float]]:
    return lambda state: evaluate(network.merge(*averaged(state))) if evaluate else {}


def _timetable(experiment: Plan, steps_per_epoch: int) -> Timetable:
    """Epochs to steps, once."""

    def steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch)) if epochs else 0

    first, last = experiment.run.profile
    return Timetable(
        total_steps=experiment.epochs * steps_per_epoch,
        log_every=experiment.run.log_steps,
        evaluate_every=steps(experiment.evaluation.every_epochs),
        save_every=steps(experiment.run.save_epochs),
        profile=(first, last),
    )


def _reports(
    experiment: Plan, workdir: Path, start: int, total: int, report: Report | None
) -> Report:
    if not devices.is_main():
        return Silence()
    files: list[Report] = [MetricsFile(workdir, start)]
    if experiment.run.tensorboard:
        files.append(TensorBoard(workdir, start))
    return Everyone([report or console(start, total, experiment.batch_size), *files])


def _beginning(
    experiment: Plan, workdir: Path, start: int, timetable: Timetable, mesh: Mesh
) -> str:
    kind = mesh.devices.flat[0].device_kind
    where = f"{mesh.size} device{'s' if mesh.size > 1 else ''} ({kind})"
    total = timetable.total_steps
    if start >= total:
        return (
            f"{workdir} has all its {total} steps already: nothing is left to train; for more,"
            " start another run with --from"
        )
    if start:
        return f"going on from step {start} of {total} in {workdir}, on {where}"
    source = f"the weights of {experiment.init}" if experiment.init else "scratch"
    return f"starting from {source}: {total} steps of {experiment.batch_size} clips on {where}"


def _end(state: TrainState, store: RunCheckpoints, listener: Report, clock: Clock) -> Result:
    best_step = store.best_step()
    best = store.folder / str(best_step) if best_step is not None else None
    listener.say(clock.summary())
    listener.say(f"last checkpoint: {store.describe_last()}" + (f"; best: {best}" if best else ""))
    return Result(state, best)


def check_init(experiment: Plan, workdir: Path) -> None:
    """Refuse weights that are not there, before `workdir` is made for them.

    Raises:
      UserError: naming the path.
    """
    begun = (workdir / CONFIG).exists()
    if experiment.init and not begun and not epath.Path(experiment.init).exists():
        raise UserError(
            f"config: init: found no {experiment.init}; wanted the weights to start from: give "
            "--from CKPT, or --config.init= to start from scratch"
        )


def claim(workdir: Path, experiment: Plan) -> None:
    """Make `workdir` this experiment's, or see that it is.

    Raises:
      UserError: it belongs to another one; the message lists the fields that differ.
    """
    mine = config.to_json(experiment)
    path = workdir / CONFIG
    if path.exists():
        try:
            differing = config.differences(mine, json.loads(path.read_text()))
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); choose another --workdir") from error
        if differing:
            raise UserError(
                f"{workdir}: holds a run with another config: {'; '.join(differing)}; choose"
                " another --workdir, or the config that the run was started with"
            )
    if devices.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        _write_json(path, mine)
        _write_json(workdir / ENVIRONMENT, environment())


def folder_of(checkpoint: str) -> Path:
    """The working directory of the run that a checkpoint belongs to; its own folder otherwise."""
    path = Path(checkpoint)
    for folder in (path, *path.parents[:2]):
        if (folder / CONFIG).is_file():
            return folder
    return path.parent


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")
