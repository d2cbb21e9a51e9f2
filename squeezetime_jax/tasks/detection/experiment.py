"""An experiment of detection as a whole: `squeezetime train` and `squeezetime eval`."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from squeezetime_jax.data.batches import endless_batches, local_rows, to_devices
from squeezetime_jax.data.embedded import people
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.detection.annotations import read_actions
from squeezetime_jax.tasks.detection.config import PEOPLE, Data, Experiment, check
from squeezetime_jax.tasks.detection.dataset import Split, TestClips, open_split, training_sample
from squeezetime_jax.tasks.detection.detector import Detector
from squeezetime_jax.tasks.detection.evaluate import percent, table
from squeezetime_jax.tasks.detection.infer import detect_all, write_detections
from squeezetime_jax.tasks.detection.metric import FrameMap, frame_map
from squeezetime_jax.tasks.detection.task import Detection
from squeezetime_jax.tasks.detection.weights import load_detector
from squeezetime_jax.training import config, devices, run
from squeezetime_jax.training.recipe import check_batch
from squeezetime_jax.training.report import Report
from squeezetime_jax.training.task import Batch


def parse(fields: Any) -> Experiment:
    """Check a config and freeze it.

    Raises:
      UserError: a field is unknown, or is not what it should be.
    """
    experiment = config.parse_as(Experiment, fields)
    check(experiment)
    check_batch(experiment.optimizer, experiment.batch_size, experiment.model.bn_group_size)
    return experiment


def with_files(experiment: Experiment, folder: Path) -> Data:
    """The data with the embedded data set's files, made if they are asked for and not there."""
    data = experiment.data
    if data.train != PEOPLE:
        return data
    if jax.process_index() == 0:
        people.write_people(folder, data.people)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("persons' videos")
    train, test = (people.written(folder, split) for split in ("train", "test"))
    return dataclasses.replace(
        data,
        train=str(train.ground_truth),
        test=str(test.ground_truth),
        train_proposals=str(train.proposals),
        test_proposals=str(test.proposals),
        train_excluded=str(train.excluded),
        test_excluded=str(test.excluded),
        labels=str(train.actions),
        frames=str(train.root),
        begins_at=float(people.START),
    )


class TrainingClips:
    """The training batches of an experiment.

    Args:
      experiment: the run.
      data: its files.
      split: what is in them.
      mesh: the devices.
    """

    def __init__(self, experiment: Experiment, data: Data, split: Split, mesh: Mesh):
        self._experiment, self._data, self._split, self._mesh = experiment, data, split, mesh

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass."""
        return max(len(self._split.key_frames) // self._experiment.batch_size, 1)

    @property
    def labels(self) -> list[str] | None:
        """The actions' names in the order of the logits."""
        if not self._data.labels:
            return None
        return class_names(read_actions(self._data.labels), self._experiment.model.num_classes)

    @contextlib.contextmanager
    def batches(self, start_step: int) -> Iterator[Iterator[Batch]]:
        """The batches from the `start_step`-th on, without end."""
        num_frames, size = self._experiment.model.num_frames, self._data.crop_size
        split = devices.split_batch(self._mesh)
        local = endless_batches(
            functools.partial(training_sample, self._split, self._data, num_frames),
            len(self._split.key_frames),
            batch_size=self._experiment.batch_size,
            seed=self._experiment.seed,
            sample_bytes=num_frames * size * size * 3,
            workers=self._data.workers,
            start_step=start_step,
            rows=local_rows(split, self._experiment.batch_size),
        )
        with contextlib.closing(local), to_devices(local, split) as batches:
            yield batches


def class_names(actions: dict[int, str], num_classes: int) -> list[str]:
    """A name for every logit; those of no listed action are numbered."""
    return [actions.get(k, f"action {k}" if k else "no action") for k in range(num_classes)]


def run_experiment(fields: Any, workdir: Path, report: Report | None = None) -> run.Result:
    """Train a detector, or go on with it, evaluating on the way.

    Args:
      fields: what `training.config.read` gives.
      workdir: the run's directory.
      report: whom to tell, beside the files in `workdir`. Default: the terminal.

    Returns:
      The last state and the best checkpoint.

    Raises:
      UserError: as `training.run.train`; or a file is not what it should be.
    """
    experiment = parse(fields)
    run.check_init(experiment, workdir)
    data = with_files(experiment, workdir / "videos")
    model = experiment.model
    train = open_split(data, "train", model.num_classes, model.num_frames)
    test = _open_test_split(data, model) if data.test else None
    mesh = devices.data_mesh()

    def evaluate_model(detector: Detector) -> dict[str, float]:
        assert test is not None
        return scores_of(measure(detector, experiment, data, test, mesh))

    return run.train(
        experiment,
        workdir,
        Detection(experiment),
        TrainingClips(experiment, data, train, mesh),
        evaluate_model if test is not None else None,
        report,
    )


def scores_of(result: FrameMap) -> dict[str, float]:
    """`overall` and the groups that have any action."""
    groups = {name: value for name, value in result.groups().items() if not math.isnan(value)}
    overall = 0.0 if math.isnan(result.overall) else result.overall
    return {"overall": overall, **groups}


def measure(
    detector: Detector,
    experiment: Experiment,
    data: Data,
    split: Split,
    mesh: Mesh,
    *,
    orders: np.ndarray | None = None,
    detections: Path | None = None,
    progress: Any = None,
) -> FrameMap:
    """The frame mAP of a detector on a split.

    Args:
      detector: the network.
      experiment: the run.
      data: its files.
      split: what is in them.
      mesh: the devices.
      orders: for each frame, another order of its clip's frames.
      detections: csv file to write the detections to.
      progress: is told how many frames are done.
    """
    evaluation = experiment.evaluation
    frames = [split.key_frames.frame(index) for index in range(len(split.key_frames))]
    rows = detect_all(
        detector,
        TestClips(split, data, detector.config.num_frames, orders),
        frames,
        mesh=mesh,
        batch_size=evaluation.batch_size,
        action_score=evaluation.action_score,
        workers=data.workers,
        progress=progress,
    )
    if detections is not None and devices.is_main():
        write_detections(detections, rows)
    return frame_map(
        split.key_frames.rows,
        rows,
        read_actions(data.labels),
        excluded=split.excluded,
        protocol=evaluation.protocol,
    )


def evaluate(
    fields: Any,
    checkpoint: str,
    *,
    as_json: bool = False,
    scores: Path | None = None,
    save: Path | None = None,
) -> int:
    """Measure a checkpoint's frame mAP on a config's test frames, and print it.

    Args:
      fields: what `training.config.read` gives.
      checkpoint: anything that `load_detector` takes.
      as_json: one JSON object instead of a table.
      scores: csv file to write the detections to.
      save: picture to draw of each action's average precision.

    Returns:
      The exit status.

    Raises:
      UserError: a file is not there, or not what it should be.
    """
    experiment = parse(fields)
    data = with_files(experiment, run.folder_of(checkpoint) / "videos")
    detector = load_detector(checkpoint)
    split = _open_test_split(data, detector.config)
    with progress_bar("scoring", len(split.key_frames)) as progress:
        result = measure(
            detector,
            experiment,
            data,
            split,
            devices.data_mesh(),
            detections=scores,
            progress=progress,
        )
    if not devices.is_main():
        return 0
    published = experiment.published
    if as_json:
        summary = {"checkpoint": checkpoint, "frames": len(split.key_frames), **result.to_json()}
        if published.frame_map:
            summary["published"] = dataclasses.asdict(published)
        print(json.dumps(summary))
    else:
        print(table(result))
        if published.frame_map:
            gap = 100 * (result.overall - published.frame_map)
            print(f"{percent(published.frame_map):>7}  {published.source}; here {gap:+.2f} points")
    if scores is not None:
        print(f"wrote {scores}", file=sys.stderr)
    if save is not None:
        _draw(result, save)
        print(f"wrote {save}", file=sys.stderr)
    return 0


def _open_test_split(data: Data, model: SqueezeTimeConfig) -> Split:
    if not data.labels:
        raise UserError("config: data.labels is empty; give --config.data.labels=LIST.pbtxt")
    return open_split(data, "test", model.num_classes, model.num_frames)


def _draw(result: FrameMap, path: Path) -> None:
    from squeezetime_jax.evaluation.pictures import new_figure, save_figure

    there = {k: ap for k, ap in result.average_precision.items() if not math.isnan(ap)}
    order = sorted(there, key=there.__getitem__)
    figure = new_figure(8.0, 1.2 + 0.2 * len(order))
    axes = figure.subplots()
    axes.barh(range(len(order)), [100 * there[k] for k in order], color="#44719c")
    axes.set_yticks(range(len(order)), [result.actions[k] for k in order], fontsize=7)
    axes.set(xlabel="average precision at IoU 0.5, %", xlim=(0, 100), ylim=(-0.6, len(order) - 0.4))
    axes.set_title(f"frame mAP {percent(result.overall)}", fontsize=11)
    save_figure(figure, path)
