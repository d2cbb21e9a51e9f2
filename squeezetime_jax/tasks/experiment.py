"""An experiment as a whole: its data, its training, its evaluation on the way."""

import importlib
from pathlib import Path
from typing import Any

from squeezetime_jax.checkpoint.store import RECOGNITION
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.recognition import recognize, videos
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training import config, devices, run
from squeezetime_jax.training.report import Report

# Modules with `run_experiment` and `evaluate` of their own, by a config's `task`.
_OTHER_TASKS = {
    "detection": "squeezetime_jax.tasks.detection.experiment",
    "localization": "squeezetime_jax.tasks.localization.experiment",
}


def home_of(fields: Any) -> Any:
    """The module of a config's task, or None for recognition.

    Raises:
      UserError: there is no such task.
    """
    if fields.task == RECOGNITION:
        return None
    if fields.task not in _OTHER_TASKS:
        known = ", ".join((RECOGNITION, *_OTHER_TASKS))
        raise UserError(f"config: task: found {fields.task!r}; known are {known}")
    return importlib.import_module(_OTHER_TASKS[fields.task])


def run_experiment(fields: Any, workdir: Path, report: Report | None = None) -> run.Result:
    """Open an experiment's data and train on them, evaluating on the way.

    Args:
      fields: what `training.config.read` gives.
      workdir: the run's directory.
      report: whom to tell, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: as `training.run.train`; or a source is not there.
    """
    home = home_of(fields)
    if home is not None:
        return home.run_experiment(fields, workdir, report)
    sources = videos.open_sources(config.parse_data(fields), workdir / "videos")
    config.fill_in(fields, len(sources.train), sources.num_classes)
    experiment = config.parse(fields)
    run.check_init(experiment, workdir)
    mesh = devices.data_mesh()
    test = sources.test

    def evaluate(model: SqueezeTime) -> dict[str, float]:
        assert test is not None
        return recognize.evaluate(
            model,
            test,
            videos.view_protocol(experiment),
            mesh=mesh,
            batch_size=experiment.evaluation.batch_size,
            workers=experiment.data.workers,
        ).compute()

    return run.train(
        experiment,
        workdir,
        Recognition(experiment),
        videos.TrainingVideos(experiment, sources.train, mesh),
        evaluate if test is not None else None,
        report,
    )
