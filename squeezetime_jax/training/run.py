"""The former runner, for tasks that are not converted to `training.runner` yet."""

import contextlib
from pathlib import Path
from typing import Any

from squeezetime_jax.checkpoint.run import RunCheckpoints
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.training import devices, runner
from squeezetime_jax.training.loop import fit
from squeezetime_jax.training.report import Clock, draw_curves
from squeezetime_jax.training.runner import (
    CONFIG,
    Result,
    _beginning,
    _check_init,
    _reporters,
    _timetable,
    claim,
    run_folder,
)
from squeezetime_jax.training.step import averaged, items_of, state_of


def Trainer(experiment: Any, task: Any, mesh: Any, steps_per_epoch: int) -> Any:
    """As it was."""
    task.experiment = experiment
    return runner.Trainer(task, mesh, steps_per_epoch)


check_init = lambda experiment, workdir: _check_init(experiment.init, workdir)  # noqa: E731
folder_of = run_folder
__all__ = ["CONFIG", "Result", "Trainer", "check_init", "folder_of", "train"]


def train(
    experiment: Any, workdir: Path, task: Any, data: Any, evaluate: Any = None, report: Any = None
) -> Result:
    """As it was."""
    use_compilation_cache(experiment.run.compilation_cache)
    mesh = devices.data_mesh()
    devices.check_batch_on(mesh, experiment.batch_size)
    claim(workdir, experiment)
    trainer = Trainer(experiment, task, mesh, data.steps_per_epoch)
    task_score = getattr(task, "score", None) or task.metric
    store = RunCheckpoints(
        workdir, task.meta(data.labels), keep=experiment.run.keep, best_by=task_score
    )
    with contextlib.closing(store):
        found = store.restore(items_of(trainer.abstract_state()))
        if found:
            start, items, progress = found
            state = state_of(items)
        else:
            start, state, progress = 0, trainer.new_state(), {}
        timetable = _timetable(experiment, trainer.steps_per_epoch, evaluates=evaluate is not None)
        reporter = _reporters(experiment, workdir, start, timetable, False, report)
        clock = Clock(progress.get("seconds"))

        def evaluate_state(step: int, state: Any) -> None:
            scores = evaluate(task.network.merge(*averaged(state)))
            reporter.evaluation(step, scores)
            store.add_scores(step, scores)

        with contextlib.closing(reporter):
            reporter.say(_beginning(experiment, workdir, start, timetable, mesh))
            if start < timetable.total_steps:
                with data.batches(start) as batches:
                    state = fit(
                        state,
                        start_step=start,
                        step=trainer.compile_step(),
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
            if devices.is_main():
                draw_curves(workdir, trainer.steps_per_epoch, task_score)
            best_step = store.best_step()
            best = store.folder / str(best_step) if best_step is not None else None
            reporter.say(clock.summary())
            reporter.say(
                f"last checkpoint: {store.describe_last()}" + (f"; best: {best}" if best else "")
            )
            return Result(state, best)
