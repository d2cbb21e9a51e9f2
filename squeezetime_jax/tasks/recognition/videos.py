"""The videos of an experiment: its sources, opened, and their batches on the devices."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from squeezetime_jax.data.batches import local_rows, to_devices
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.pipeline import train_batches
from squeezetime_jax.data.sources import FileSource, Record, Source, open_source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.training.devices import split_batch
from squeezetime_jax.training.plan import Data, Experiment
from squeezetime_jax.training.task import Batch

MOTION = "motion"
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))


@dataclasses.dataclass(frozen=True)
class Sources:
    """What an experiment reads.

    Attributes:
      train: the training videos.
      test: the videos to evaluate on, if there are any.
    """

    train: Source
    test: Source | None

    @property
    def num_classes(self) -> int:
        """Classes of both together."""
        return max(source.num_classes for source in (self.train, self.test) if source is not None)


def open_sources(data: Data, folder: Path) -> Sources:
    """Open the training and test videos.

    Args:
      data: where they are.
      folder: where the embedded data set is made, if it is asked for.

    Raises:
      UserError: a source is not there or cannot be opened.
    """
    if not data.train:
        raise UserError(
            "config: data.train is empty; give --config.data.train=LIST_OR_FOLDER (and "
            "--config.data.test=...)"
        )
    if data.train == MOTION:
        return _motion_sources(data, folder)
    if data.images:
        return Sources(image_folder(data.train), image_folder(data.test) if data.test else None)
    labels = data.labels or None
    train = open_source(
        data.train, root=data.root or None, split=data.train_split, label_map=labels
    )
    if not data.test:
        return Sources(train, None)
    root = data.test_root or data.root or None
    return Sources(
        train, open_source(data.test, root=root, split=data.test_split, label_map=labels)
    )


def _motion_sources(data: Data, folder: Path) -> Sources:
    arguments = dataclasses.asdict(data.motion)
    if jax.process_index() == 0:
        motion.write_motion_dataset(folder, **arguments)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("motion data set")
    labels = folder / "label_map.txt"
    train, test = (
        open_source(folder / f"{split}.txt", label_map=labels) for split in ("train", "test")
    )
    return Sources(train, test)


class ImageSource(FileSource):
    """Pictures as videos of one frame; a clip of one repeats it."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        assert isinstance(record.video, Path)
        return dataclasses.replace(record, video=[record.video.read_bytes()])


def image_folder(root: str | Path) -> ImageSource:
    """Pictures in one folder per class, as ImageNet comes.

    Raises:
      UserError: there is no picture.
    """
    root = Path(root)
    names = sorted(f.name for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    pictures = [
        (f"{name}/{file.name}", label)
        for label, name in enumerate(names)
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in _IMAGE_SUFFIXES
    ]
    if not pictures:
        raise UserError(
            f"{root}: found no picture in class folders; wanted `<class name>/<picture>.jpg`"
        )
    return ImageSource(root, pictures, tuple(names))


def view_protocol(experiment: Experiment) -> ViewProtocol:
    """The views that an evaluation scores."""
    evaluation = experiment.evaluation
    return ViewProtocol(
        num_clips=evaluation.num_clips,
        num_crops=evaluation.num_crops,
        short_side=evaluation.short_side,
        crop_size=evaluation.crop_size,
        num_frames=experiment.model.num_frames,
        frame_interval=experiment.data.frame_interval or None,
    )


class TrainingVideos:
    """The training batches of an experiment.

    Args:
      experiment: the run.
      source: its training videos.
      mesh: the devices.

    Raises:
      UserError: there are more classes than the network has.
    """

    def __init__(self, experiment: Experiment, source: Source, mesh: Mesh):
        self._experiment, self._source, self._mesh = experiment, source, mesh
        classes = experiment.model.num_classes
        if source.num_classes > classes:
            raise UserError(
                f"config: model.num_classes is {classes}, but {experiment.data.train} has "
                f"{source.num_classes} classes; set --config.model.num_classes={source.num_classes}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass."""
        return max(len(self._source) // self._experiment.batch_size, 1)

    @property
    def labels(self) -> list[str] | None:
        """Class names, where the source has one for every output of the network."""
        names = list(self._source.class_names)
        return names if len(names) == self._experiment.model.num_classes else None

    @contextlib.contextmanager
    def batches(self, start_step: int) -> Iterator[Iterator[Batch]]:
        """The batches from the `start_step`-th on, without end."""
        data, model = self._experiment.data, self._experiment.model
        split = split_batch(self._mesh)
        local = train_batches(
            self._source,
            batch_size=self._experiment.batch_size,
            seed=self._experiment.seed,
            num_frames=model.num_frames,
            frame_interval=data.frame_interval or None,
            short_side=data.short_side,
            size=data.crop_size,
            crop=data.crop,
            workers=data.workers,
            start_step=start_step,
            rows=local_rows(split, self._experiment.batch_size),
        )
        with contextlib.closing(local), to_devices(local, split) as batches:
            yield batches
