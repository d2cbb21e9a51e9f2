"""An experiment of localisation as a whole: its data, its training, its evaluation."""

import collections
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization import frames, pictures, results, videos
from squeezetime_jax.tasks.localization.annotations import (
    GROUND_TRUTH_FILE,
    VideoFacts,
    read_annotations,
)
from squeezetime_jax.tasks.localization.config import Experiment, Window
from squeezetime_jax.tasks.localization.decoding import Detection
from squeezetime_jax.tasks.localization.evaluate import table
from squeezetime_jax.tasks.localization.inference import STAGES, Finder
from squeezetime_jax.tasks.localization.metric import Scores, mean_average_precision
from squeezetime_jax.tasks.localization.model import Localizer
from squeezetime_jax.tasks.localization.results import Instances
from squeezetime_jax.tasks.localization.store import load_localizer
from squeezetime_jax.tasks.localization.task import Localization
from squeezetime_jax.training import config, devices, run
from squeezetime_jax.training.report import Report

_SUBSET = "test"


def run_experiment(fields: Any, workdir: Path, report: Report | None = None) -> run.Result:
    """Open an experiment's data and train on them, evaluating on the way where it says so.

    Args:
      fields: what `training.config.read` gives.
      workdir: the run's directory.
      report: whom to tell, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: as `training.run.train`; or something is not there.
    """
    experiment = parse(fields)
    run.check_init(experiment, workdir)
    where = videos.places(experiment.data, workdir)
    data = videos.TrainingWindows(experiment, where, devices.data_mesh())

    def evaluate(model: Localizer) -> dict[str, float]:
        tested = score_videos(model, data.labels, experiment, where)
        each = zip(tested.scores.thresholds, tested.scores.per_threshold, strict=True)
        return {"average": tested.scores.average, **{f"mAP@{t:g}": float(v) for t, v in each}}

    scored = evaluate if experiment.evaluation.every_epochs else None
    return run.train(experiment, workdir, Localization(experiment), data, scored, report)


def parse(fields: Any) -> Experiment:
    """Check a config of localisation and freeze it.

    Raises:
      UserError: a field is unknown, or its value is not allowed.
    """
    experiment = config.parse_as(Experiment, fields)
    if experiment.optimizer.accumulation != 1:
        raise UserError(
            "config: optimizer.accumulation: the loss is divided by the positive priors of the"
            " whole batch, which its parts do not know; wanted 1"
        )
    return experiment


@dataclasses.dataclass(frozen=True)
class Tested:
    """What a test came to.

    Attributes:
      scores: mean average precision.
      detections: of each video, as JSON has them.
      cost: what it took, as JSON has it.
    """

    scores: Scores
    detections: dict[str, list[dict[str, Any]]]
    cost: dict[str, Any]


def score_videos(
    model: Localizer,
    labels: list[str],
    experiment: Experiment,
    where: videos.Places,
    progress: Callable[[int], None] = lambda done: None,
) -> Tested:
    """Find the segments of all test videos and score them.

    Args:
      model: in evaluation mode.
      labels: class names, without the background.
      experiment: how.
      where: its files.
      progress: told of each video.

    Raises:
      UserError: a file is not there, or not what it should be.
    """
    truth, scored = results.read_ground_truth(where.annotations / GROUND_TRUTH_FILE, _SUBSET)
    if not truth.videos:
        raise UserError(f"{where.annotations / GROUND_TRUTH_FILE}: no instance to find")
    facts = read_annotations(where.annotations, "test").videos
    shuffle = experiment.seed if experiment.evaluation.shuffled else None
    finder = Finder(model, experiment.inference, shuffle)
    _warm_up(finder)
    cost: collections.Counter[str] = collections.Counter()
    detections = {}
    for name, own in facts.items():
        found = finder.find(test_frames(where, name, own, model.window))
        detections[name] = to_json(found.detections, labels)
        cost.update(found.seconds)
        cost.update(windows=found.num_windows, clips=found.num_clips, videos=1)
        progress(1)
    rows = [
        (name, each["label"], *each["segment"], each["score"])
        for name, own in detections.items()
        for each in own
    ]
    found_all = Instances.of(rows, scored=True)
    scores = mean_average_precision(truth, found_all, scored, experiment.evaluation.thresholds)
    return Tested(scores, detections, _cost(cost, model.window.num_clips))


def test_frames(
    where: videos.Places, name: str, facts: VideoFacts, window: Window
) -> Iterator[Any]:
    """The frames of a test video: prepared ones if they are there, else from its file."""
    if (where.arrays / f"{name}.npy").is_file():
        return iter(frames.read_array(where.arrays, name, window.stored_side))
    return frames.stream(frames.find_video(where.videos, name), window.stored_side, facts.fps)


def to_json(detections: list[Detection], labels: list[str]) -> list[dict[str, Any]]:
    """Detections as ActivityNet's format has them."""
    return [
        {"label": labels[d.label], "score": d.score, "segment": [d.start, d.end]}
        for d in detections
    ]


def evaluate(
    fields: Any,
    checkpoint: str,
    *,
    as_json: bool = False,
    scores: Path | None = None,
    save: Path | None = None,
) -> int:
    """Test a checkpoint as a config says, and print.

    Args:
      fields: what `training.config.read` gives.
      checkpoint: of a localiser.
      as_json: one JSON object instead of the table.
      scores: JSON file for the detections, in ActivityNet's format.
      save: picture of the scores by class.

    Returns:
      The exit status.

    Raises:
      UserError: something is not there, or does not fit.
    """
    experiment = parse(fields)
    use_compilation_cache()
    stored = load_localizer(checkpoint)
    where = videos.places(experiment.data, run.folder_of(checkpoint))
    total = len(read_annotations(where.annotations, "test").videos)
    with progress_bar("evaluating", total) as progress:
        tested = score_videos(stored.model, stored.labels, experiment, where, progress)
    if not devices.is_main():
        return 0
    if as_json:
        summary = {"checkpoint": checkpoint, **tested.scores.to_json(), "cost": tested.cost}
        print(json.dumps(summary), flush=True)
    else:
        print(table(tested.scores))
        print(_told(tested.cost))
        _compare(experiment, tested.scores)
    if scores is not None:
        results.write_json(scores, results.detections_file(tested.detections))
        print(f"wrote {scores}", file=sys.stderr)
    if save is not None:
        pictures.save_figure(pictures.draw_classes(tested.scores), save)
        print(f"wrote {save}", file=sys.stderr)
    return 0


def _warm_up(finder: Finder) -> None:
    """Compile, so that no video's time has it."""
    side = finder.window.stored_side
    black = np.zeros((side, side, 3), np.uint8)
    finder.find(itertools.repeat(black, finder.window.num_frames))


def _cost(cost: dict[str, Any], num_clips: int) -> dict[str, Any]:
    videos_tested = cost["videos"]
    seconds = {stage: cost[stage] / videos_tested for stage in STAGES}
    forward = (cost["backbone"] + cost["head"]) / cost["windows"]
    return {
        "videos": videos_tested,
        "windows": cost["windows"],
        "clips": cost["clips"],
        "clips_unshared": cost["windows"] * num_clips,
        "seconds_per_video": {**seconds, "all": sum(seconds.values())},
        "forward_seconds_per_window": forward,
    }


def _told(cost: dict[str, Any]) -> str:
    seconds = cost["seconds_per_video"]
    parts = ", ".join(f"{stage} {seconds[stage]:.3f}" for stage in STAGES)
    return (
        f"{cost['videos']} videos, {cost['windows']} windows, {cost['clips']} clips through the"
        f" backbone ({cost['clips_unshared']} if windows shared none)\n"
        f"seconds a video: {seconds['all']:.3f} ({parts}); forward pass of a window:"
        f" {cost['forward_seconds_per_window']:.3f}"
    )


def _compare(experiment: Experiment, scores: Scores) -> None:
    published = experiment.published
    if published.average:
        gap = 100 * (scores.average - published.average)
        print(f"{published.source}: {100 * published.average:.2f}; here {gap:+.2f} points")
