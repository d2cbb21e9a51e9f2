"""The videos of an experiment: annotations, prepared arrays, batches of training windows."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from squeezetime_jax.data.batches import local_rows, to_devices
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization import frames, untrimmed
from squeezetime_jax.tasks.localization.annotations import Annotations, read_annotations
from squeezetime_jax.tasks.localization.config import Data, Experiment
from squeezetime_jax.tasks.localization.windows import check_crowding, training_windows
from squeezetime_jax.training.devices import split_batch
from squeezetime_jax.training.task import Batch

UNTRIMMED = "untrimmed"


@dataclasses.dataclass(frozen=True)
class Places:
    """Where an experiment's files are.

    Attributes:
      annotations: folder of THUMOS14's annotation files.
      videos: folder of videos.
      arrays: folder of prepared arrays.
    """

    annotations: Path
    videos: Path
    arrays: Path


def places(data: Data, workdir: Path) -> Places:
    """Where the files are; the embedded data set is made on the way.

    Args:
      data: what the experiment says.
      workdir: the run's directory.
    """
    arrays = Path(data.arrays) if data.arrays else workdir / "arrays"
    if data.annotations != UNTRIMMED:
        return Places(Path(data.annotations), Path(data.videos), arrays)
    folder = workdir / UNTRIMMED
    _once(lambda: untrimmed.write_untrimmed(folder, data.untrimmed), "embedded data set")
    return Places(folder, folder / "videos", arrays)


def _once(make: object, what: str) -> None:
    """Let the first process make files that all will read."""
    if jax.process_index() == 0:
        make()  # type: ignore[operator]
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


class TrainingWindows:
    """The training batches of an experiment.

    Args:
      experiment: the run.
      where: its files.
      mesh: the devices.

    Raises:
      UserError: the classes are not as many as the network's; a window is too crowded; a video is
        not there or not readable.
    """

    def __init__(self, experiment: Experiment, where: Places, mesh: Mesh):
        self._experiment, self._arrays, self._mesh = experiment, where.arrays, mesh
        annotations = read_annotations(where.annotations, "val")
        check_classes(experiment, annotations)
        self._names = list(annotations.class_names)
        self._windows = training_windows(
            annotations,
            length=experiment.window.num_frames,
            stride=experiment.data.stride,
            time_base=experiment.data.time_base,
        )
        check_crowding(self._windows, experiment.data.max_instances)
        if len(self._windows) < experiment.batch_size:
            raise UserError(
                f"config: batch_size is {experiment.batch_size}, but there are only"
                f" {len(self._windows)} training windows; lower it"
            )
        used = dict.fromkeys(window.video for window in self._windows)
        facts = {video: annotations.videos[video] for video in used}
        side, processes = experiment.window.stored_side, experiment.data.workers or None
        _once(lambda: frames.prepare(facts, where.videos, where.arrays, side, processes), "arrays")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return len(self._windows) // self._experiment.batch_size

    @property
    def labels(self) -> list[str]:
        """Class names, from id 1."""
        return self._names

    @contextlib.contextmanager
    def batches(self, start_step: int) -> Iterator[Iterator[Batch]]:
        """The batches from the `start_step`-th on, without end."""
        local = (self.batch(step) for step in itertools.count(start_step))
        with contextlib.closing(local), to_devices(local, split_batch(self._mesh)) as batches:
            yield batches

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Read a step's batch, this host's rows; which windows it has follows from the seed."""
        epoch, place = divmod(step, self.steps_per_epoch)
        size = self._experiment.batch_size
        order = np.random.default_rng([self._experiment.seed, epoch]).permutation(
            len(self._windows)
        )
        mine = place * size + local_rows(split_batch(self._mesh), size)
        rows = [self._row(number) for number in order[mine].tolist()]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, number: int) -> dict[str, np.ndarray]:
        window, settings = self._windows[number], self._experiment.window
        most, side = self._experiment.data.max_instances, settings.stored_side
        video = frames.read_array(self._arrays, window.video, side)
        part = video[window.offset : window.offset + settings.num_frames]
        pixels = np.zeros((settings.num_frames, side, side, 3), np.uint8)
        pixels[: len(part)] = part
        segments, classes = np.zeros((most, 2), np.float32), np.zeros(most, np.int32)
        segments[: len(window.classes)] = window.segments
        classes[: len(window.classes)] = window.classes
        return {
            "frames": pixels,
            "num_frames": np.array(len(part), np.int32),
            "segments": segments,
            "classes": classes,
        }


def check_classes(experiment: Experiment, annotations: Annotations) -> None:
    """Refuse a network for another number of classes than the annotations have.

    Raises:
      UserError: naming the field.
    """
    count = len(annotations.class_names)
    if experiment.model.num_classes != count:
        raise UserError(
            f"config: model.num_classes is {experiment.model.num_classes}, but the annotations name"
            f" {count} classes; set --config.model.num_classes={count}"
        )
