"""The one way in which a run is assembled, for any task: `train` and `evaluate`."""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

import squeezetime_jax
from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.run import RunCheckpoints, complete_steps
from squeezetime_jax.checkpoint.store import CHECKPOINTS
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data.batches import Sample, endless_batches, local_rows, to_devices
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import scoring
from squeezetime_jax.files import write_whole
from squeezetime_jax.training import config, devices
from squeezetime_jax.training import recipe as recipes
from squeezetime_jax.training.experiment import (
    PUBLISHED,
    Experiment,
    Published,
    as_lines,
    differences,
    to_json,
)
from squeezetime_jax.training.loop import Timetable, fit
from squeezetime_jax.training.report import (
    Clock,
    MetricsFile,
    Reporter,
    Reporters,
    TensorBoard,
    console,
    draw_curves,
    duration,
    environment,
)
from squeezetime_jax.training.step import (
    Trainer,
    TrainState,
    averaged,
    items_of,
    state_of,
)
from squeezetime_jax.training.task import Batch, Task, TrainingSet, find_task

CONFIG = "config.json"
ENVIRONMENT = "environment.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """The end of a run.

    Attributes:
      state: after the last step.
      best: directory of the checkpoint with the best evaluation, if there was one.
    """

    state: TrainState
    best: Path | None


def train(
    experiment: Experiment | ConfigDict,
    workdir: str | os.PathLike[str],
    reporter: Reporter | None = None,
) -> Result:
    """Train an experiment, or continue with it.

    Args:
      experiment: the run, or its fields as `training.config.read` returns them.
      workdir: its directory, the same on all hosts: configuration, checkpoints, metrics, curves.
      reporter: where to report, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: a file is missing or invalid; `workdir` has another experiment; the batch does not
        fit the devices; the loss is not finite; the disk is full; SIGTERM or Ctrl-C stopped it.
    """
    folder = Path(workdir)
    _check_is_folder(folder)
    _check_init(experiment.init, folder)
    return run(open_task(experiment, folder), reporter)


def run(task: Task, reporter: Reporter | None = None) -> Result:
    """As `train`, for a task that is open; its folder is the run's directory."""
    clock = Clock()
    experiment: Experiment = task.experiment
    workdir = task.folder
    use_compilation_cache(experiment.run.compilation_cache)
    mesh = devices.data_mesh()
    check_batch(task, mesh)
    _agree_on_config(experiment)
    data = task.training_set()
    test = task.test_set() if experiment.evaluation.every_epochs else None
    _agree_on_data(data, "the training data")
    if test is not None:
        _agree_on_data(test, "the test data")
        scoring.check_first(test, skip_unreadable=experiment.evaluation.skip_unreadable)
    hosts.check_shared(workdir, "--workdir")
    claim(workdir, experiment)
    trainer = Trainer(task, mesh, steps_per_epoch(data, experiment))
    store = RunCheckpoints(
        workdir, task.meta(data.labels), keep=experiment.run.keep, best_by=task.metric
    )
    with contextlib.closing(store):
        # Where a run starts: 1. its own newest checkpoint; 2. the weights of `init`; 3. scratch.
        found = store.restore(items_of(trainer.abstract_state()))
        if found:
            start, items, progress = found
            state = state_of(items)
        else:
            start, state, progress = 0, trainer.new_state(), {}
            _agree_on_weights(state.params, experiment.init or "the first weights")
        timetable = _timetable(experiment, trainer.steps_per_epoch, evaluates=test is not None)
        evaluates_again = start > 0 and timetable.evaluates(start) and not store.scores(start)
        evaluates_again = hosts.gather(evaluates_again)[0]
        reporter = _reporters(experiment, workdir, start, timetable, evaluates_again, reporter)
        clock.add(progress.get("seconds"))

        def evaluate_state(step: int, state: TrainState) -> None:
            assert test is not None
            with clock("evaluation"):
                scored = scoring.score(
                    test,
                    task.network.merge(*averaged(state)),
                    mesh,
                    workers=experiment.data.workers,
                    skip_unreadable=experiment.evaluation.skip_unreadable,
                )
            reporter.evaluation(step, scored.scores.numbers())
            with clock("saving"):
                store.add_scores(step, scored.scores.numbers())

        with contextlib.closing(reporter):
            reporter.say(_beginning(experiment, workdir, start, timetable, mesh))
            if evaluates_again:
                evaluate_state(start, state)
            if start < timetable.total_steps:
                with training_batches(data, task, mesh, start) as batches:
                    reporter.say("compiling the training step; later runs of this config reuse it")
                    before = clock.seconds["compiling"]
                    with clock("compiling"):
                        step = trainer.compile_step()
                        hosts.meet("compiled")
                    reporter.say(f"compiled in {duration(clock.seconds['compiling'] - before)}")
                    state = fit(
                        state,
                        start_step=start,
                        step=step,
                        batches=batches,
                        key=trainer.key(),
                        timetable=timetable,
                        evaluate=evaluate_state,
                        checkpoints=store,
                        reporter=reporter,
                        clock=clock,
                        progress=progress,
                        workdir=workdir,
                    )
            if hosts.is_main():
                draw_curves(workdir, trainer.steps_per_epoch, task.metric)
            best_step = store.best_step()
            best = store.folder / str(best_step) if best_step is not None else None
            reporter.say(clock.summary(experiment.data.workers))
            last = f"last checkpoint: {store.describe_last()}"
            reporter.say(last + (f"; best: {best}" if best else ""))
            return Result(state, best)


def evaluate(
    fields: ConfigDict,
    checkpoint: str,
    *,
    complete: Callable[[ConfigDict], None] = lambda fields: None,
    batch_size: int | None = None,
    skip_unreadable: bool = False,
    as_json: bool = False,
    scores: Path | None = None,
    save: Path | None = None,
) -> None:
    """Score a checkpoint on the test data of a config, and print the scores.

    Args:
      fields: as `training.config.read` returns them; changed where the checkpoint says otherwise.
      checkpoint: a file or directory that the task can load.
      complete: sets fields that follow from the checkpoint's network, once `fields.model` is it.
      batch_size: records scored at once, on all devices; None: as the config says.
      skip_unreadable: leave out records that cannot be read, whatever the config says.
      as_json: print one JSON object instead of a table.
      scores: file to write the answer to every record to.
      save: file to draw a picture to.

    Raises:
      UserError: a file is missing or invalid, or does not fit.
    """
    use_compilation_cache()
    model = find_task(fields.task).load(checkpoint, fields)
    # Not needed here, and some configs leave them to the training data.
    fields.epochs, fields.batch_size = fields.epochs or 1, fields.batch_size or 1
    complete(fields)
    fields.evaluation.skip_unreadable = skip_unreadable or fields.evaluation.skip_unreadable
    task = find_task(fields.task)(config.parse(fields), run_folder(checkpoint))
    test = task.test_set(checkpoint)
    if test is None:
        raise UserError("config: data.test is empty; give --config.data.test=... or --videos")
    if batch_size is not None and test.batch_size is not None:
        test.batch_size = batch_size
    experiment = task.experiment
    more = f"batch size = {test.batch_size}", f"--skip-unreadable = {skip_unreadable}"
    _agree_on_config(experiment, *more)
    _agree_on_data(test, "the test data")
    _agree_on_weights(nnx.state(model, nnx.Param), checkpoint)
    incomplete: scoring.UnreadableRecords | None = None
    with progress_bar("evaluating", len(test)) as progress:
        try:
            scored = scoring.score(
                test,
                model,
                devices.data_mesh(),
                workers=experiment.data.workers,
                skip_unreadable=experiment.evaluation.skip_unreadable,
                progress=progress,
            )
        except scoring.UnreadableRecords as error:
            if error.scored is None:
                raise
            incomplete, scored = error, error.scored
    if hosts.is_main():
        summary = {"checkpoint": checkpoint, **scored.scores.to_json()}
        comparison = ""
        if incomplete:  # what was scored is kept in the files; it is not the accuracy
            summary = {}
        elif getattr(experiment.published, task.published):
            summary["published"] = experiment.published.to_json()
            comparison = _comparison(experiment.published, task, scored, summary)
        scoring.report(
            scored,
            summary,
            comparison=comparison,
            as_json=as_json,
            scores=scores,
            save=save,
        )
    if incomplete:
        raise incomplete


def _comparison(
    published: Published, task: Task, scored: scoring.Scored, summary: Mapping[str, Any]
) -> str:
    """A line that compares a score with the published one."""
    figures = [
        f"{PUBLISHED[name]} {100 * value:.2f} %"
        for name, value in published.to_json().items()
        if name in PUBLISHED
    ]
    gap = 100 * (scored.scores.numbers()[task.metric] - getattr(published, task.published))
    line = f"{published.source}: {'   '.join(figures)}; here {gap:+.2f} points"
    if published.views and published.views != summary.get("views", published.views):
        line += f" (published with views {published.views})"
    return line


def open_task(experiment: Experiment | ConfigDict, folder: Path) -> Task:
    """The task of an experiment.

    Args:
      experiment: the run, or its fields, which are completed from the training data.
      folder: the run's directory.

    Raises:
      UserError: a field is invalid, or the data that others follow from cannot be opened.
    """
    if isinstance(experiment, ConfigDict):
        find_task(experiment.task).fill_in(experiment, folder)
        experiment = config.parse(experiment)
    return find_task(experiment.task)(experiment, folder)


def _agree_on_config(experiment: Experiment, *more: str) -> None:
    versions = [f"squeezetime_jax {squeezetime_jax.__version__}", f"jax {jax.__version__}"]
    lines = [*versions, *as_lines(experiment).splitlines(), *more]
    hosts.agree("config", lines, "start the same command everywhere")


def _agree_on_data(data: TrainingSet | scoring.TestSet, what: str) -> None:
    if jax.process_count() > 1:
        facts = [f"{len(data)} records", f"records with digest {hosts.digest(data.contents())}"]
        hosts.agree(what, facts, "copy the lists and folders again, or share them")


def _agree_on_weights(weights: Any, source: str) -> None:
    if jax.process_count() > 1:
        facts = [f"weights with digest {hosts.digest(weights)}"]
        hosts.agree(source, facts, "copy the file again, or share it")


def check_batch(task: Task, mesh: Mesh) -> None:
    """Refuse a batch that batch norm, the accumulation or the devices cannot cut evenly.

    Raises:
      UserError: with the field to change, or the nearest batch sizes.
    """
    size, parts = task.experiment.batch_size, task.experiment.optimizer.accumulation
    recipes.check_batch(task.experiment.optimizer, size, task.bn_group_size)
    devices.check_batch_on(mesh, size, group_size=task.bn_group_size, parts=parts)


def steps_per_epoch(data: TrainingSet, experiment: Experiment) -> int:
    """Batches in one pass over the training data."""
    return max(len(data) // experiment.batch_size, 1)


@contextlib.contextmanager
def training_batches(
    data: TrainingSet, task: Task, mesh: Mesh, start_step: int = 0
) -> Iterator[Iterator[Batch]]:
    """The training batches on the devices, from the `start_step`-th on, without end."""
    experiment, shapes = task.experiment, task.abstract_batch().values()
    split = devices.split_batch(mesh)
    local = endless_batches(
        functools.partial(_draw, data),
        len(data),
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        sample_bytes=sum(x.size * x.dtype.itemsize for x in shapes) // experiment.batch_size,
        rows=local_rows(split, experiment.batch_size),
        workers=experiment.data.workers,
        start_step=start_step,
    )
    with contextlib.closing(local), to_devices(local, split) as batches:
        yield batches


def _draw(data: TrainingSet, rng: np.random.Generator, record: int) -> Sample:
    return data.read(record, rng)


def _timetable(experiment: Experiment, steps_per_epoch: int, *, evaluates: bool) -> Timetable:
    """Epochs to steps."""

    def steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch)) if epochs else 0

    return Timetable(
        total_steps=experiment.epochs * steps_per_epoch,
        log_every=experiment.run.log_steps,
        evaluate_every=steps(experiment.evaluation.every_epochs) if evaluates else 0,
        save_every=steps(experiment.run.save_epochs),
        profile=experiment.run.profile,
    )


def _reporters(
    experiment: Experiment,
    workdir: Path,
    start: int,
    timetable: Timetable,
    evaluates_again: bool,
    first: Reporter | None,
) -> Reporter:
    if not hosts.is_main():
        return Reporter()
    first = first or console(start, timetable.total_steps, experiment.batch_size)
    reporters = [first, MetricsFile(workdir, start, evaluates_again=evaluates_again)]
    if experiment.run.tensorboard:
        reporters.append(TensorBoard(workdir, start))
    return Reporters(reporters)


def _beginning(experiment: Any, workdir: Path, start: int, timetable: Timetable, mesh: Mesh) -> str:
    kind = mesh.devices.flat[0].device_kind
    where = f"{mesh.size} device{'s' if mesh.size > 1 else ''} ({kind})"
    total = timetable.total_steps
    if start >= total:
        return (
            f"{workdir} has all its {total} steps already: nothing is left to train; to train"
            " further, give more epochs, or start another run with --from"
        )
    if start:
        return f"continuing from step {start} of {total} in {workdir}, on {where}"
    source = f"the weights of {experiment.init}" if experiment.init else "scratch"
    return f"starting from {source}: {total} steps of {experiment.batch_size} clips on {where}"


def _check_is_folder(workdir: Path) -> None:
    """Refuse a bucket.

    Raises:
      UserError: naming what can be given instead.
    """
    scheme = re.match(r"(\w{2,}):/", str(workdir))
    if scheme:
        raise UserError(
            f"--workdir {scheme[1]}://...: must be a folder, not a bucket, because lines are"
            " appended to its files; mount the bucket (gcsfuse, mount-s3) and give that folder"
        )


def _check_init(init: str, workdir: Path) -> None:
    """Refuse initial weights that do not exist, before `workdir` is made.

    Raises:
      UserError: naming the path.
    """
    has_begun = (workdir / CONFIG).exists()
    if init and not has_begun and not epath.Path(init).exists():
        raise UserError(
            f"config: init: {init} not found; give the weights to start from with --from CKPT, or"
            " --config.init= to start from scratch"
        )


def claim(workdir: Path, experiment: Experiment) -> None:
    """Make `workdir` this experiment's, or check that it is. Without a checkpoint it is anyone's.

    Raises:
      UserError: it has checkpoints of another one; the message lists the fields that differ.
    """
    path = workdir / CONFIG
    if path.exists() and complete_steps(workdir.absolute() / CHECKPOINTS):
        try:
            differing = differences(experiment, json.loads(path.read_text()))
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); choose another --workdir") from error
        if differing:
            raise UserError(
                f"{workdir}: holds a run with another config: {'; '.join(differing)}; choose"
                " another --workdir, or the config that the run was started with"
            )
    if hosts.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        _write_json(path, to_json(experiment))
        _write_json(workdir / ENVIRONMENT, environment())


def run_folder(checkpoint: str) -> Path:
    """The directory of the run that a checkpoint belongs to; otherwise the checkpoint's parent."""
    path = Path(checkpoint)
    for folder in (path, *path.parents[:2]):
        if (folder / CONFIG).is_file():
            return folder
    return path.parent


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=1) + "\n")
