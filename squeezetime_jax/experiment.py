"""An experiment as a whole: its videos, its training, its evaluation on the way."""

from pathlib import Path
from typing import Any

from etils import epath

from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import recognize
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.training import config, devices, run, videos
from squeezetime_jax.training.config import Experiment
from squeezetime_jax.training.report import Report


def run_experiment(fields: Any, workdir: Path, report: Report | None = None) -> run.Result:
    """Open an experiment's videos and train on them, evaluating on the way.

    Args:
      fields: what `training.config.read` gives.
      workdir: the run's directory.
      report: whom to tell, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: as `training.run.train`; or a source is not there.
    """
    sources = videos.open_sources(config.parse_data(fields), workdir / "videos")
    config.fill_in(fields, len(sources.train), sources.num_classes)
    experiment = config.parse(fields)
    _check_init(experiment, workdir)
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
        videos.TrainingVideos(experiment, sources.train, mesh),
        evaluate if test is not None else None,
        report,
    )


def _check_init(experiment: Experiment, workdir: Path) -> None:
    """Refuse weights that are not there, before `workdir` is made for them."""
    begun = (workdir / run.CONFIG).exists()
    if experiment.init and not begun and not epath.Path(experiment.init).exists():
        raise UserError(
            f"config: init: found no {experiment.init}; wanted the weights to start from: give "
            "--from CKPT, or --config.init= to start from scratch"
        )
