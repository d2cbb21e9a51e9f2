"""The videos of an experiment: its sources, opened, and the samples of a video."""

import dataclasses
from pathlib import Path

import numpy as np

from squeezetime_jax.data import transforms
from squeezetime_jax.data.batches import Sample, UnreadableRecord
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import FileSource, Record, Source, open_source
from squeezetime_jax.data.transforms import TrainingClip, ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.labels import BUILT_IN
from squeezetime_jax.tasks.recognition.experiment import Data, Recognition
from squeezetime_jax.training.devices import first_host_makes
from squeezetime_jax.training.task import TrainingSet

MOTION = "motion"
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp"))


def open_train(data: Data, folder: Path) -> Source:
    """Open the training videos.

    Args:
      data: where they are.
      folder: where the embedded data set is made.

    Raises:
      UserError: the source does not exist or cannot be opened.
    """
    if not data.train:
        raise UserError(
            "config: data.train is empty; give --config.data.train=LIST_OR_FOLDER (and "
            "--config.data.test=...)"
        )
    if data.train == MOTION:
        return _open_motion(data, folder, "train")
    return _open(data, data.train, data.root, data.train_split)


def open_test(data: Data, folder: Path) -> Source | None:
    """Open the test videos; None if there are none. Arguments and errors as `open_train`."""
    if data.train == MOTION and not data.test:
        return _open_motion(data, folder, "test")
    return (
        _open(data, data.test, data.test_root or data.root, data.test_split) if data.test else None
    )


def _open(data: Data, path: str, root: str, split: str) -> Source:
    if data.images:
        return image_folder(path)
    # Built-in names are for printing; a file of names also says which label a folder has.
    label_map = None if data.labels in BUILT_IN else data.labels or None
    return open_source(path, root=root or None, split=split or None, label_map=label_map)


def _open_motion(data: Data, folder: Path, split: str) -> Source:
    first_host_makes(
        lambda: motion.write_motion_dataset(folder, **dataclasses.asdict(data.motion)),
        "motion videos",
    )
    return open_source(folder / f"{split}.txt", label_map=folder / "label_map.txt")


class ImageSource(FileSource):
    """Pictures as videos of one frame, which a clip repeats."""

    def __getitem__(self, index: int) -> Record:
        record = super().__getitem__(index)
        assert isinstance(record.video, Path)
        return dataclasses.replace(record, video=[record.video.read_bytes()])


def image_folder(root: str | Path) -> ImageSource:
    """Pictures in one folder per class, such as ImageNet's.

    Raises:
      UserError: no picture was found.
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
            f"{root}: no pictures found in class folders; expected `<class name>/<picture>.jpg`"
        )
    return ImageSource(root, pictures, tuple(names))


class TrainingVideos(TrainingSet):
    """Random clips of labelled videos.

    Args:
      source: the videos.
      experiment: says how a clip is cut.

    Raises:
      UserError: there are more classes than the network has.
    """

    def __init__(self, source: Source, experiment: Recognition):
        classes, data = experiment.model.num_classes, experiment.data
        if source.num_classes > classes:
            raise UserError(
                f"config: model.num_classes is {classes}, but {data.train} has "
                f"{source.num_classes} classes; set --config.model.num_classes={source.num_classes}"
            )
        names = list(source.class_names)
        self.labels = names if len(names) == classes else None
        self._source = source
        self._clip = TrainingClip(
            experiment.model.num_frames,
            data.frame_interval or None,
            data.short_side,
            data.crop_size,
            data.crop,
        )

    def __len__(self) -> int:
        return len(self._source)

    def read(self, record: int, rng: np.random.Generator) -> Sample:
        """`clips`, uint8 (t, h, w, 3), and `labels`, int32 ()."""
        video = self._source[record]
        try:
            with video.open() as opened:
                return {"clips": self._clip.cut(opened, rng), "labels": np.int32(video.label)}
        except UserError as error:
            raise UnreadableRecord(video.name, str(error)) from None


def read_views(source: Source, record: int, protocol: ViewProtocol) -> Sample:
    """`clips`, uint8 (views, t, h, w, 3), and `labels`, int32 (), of a test video.

    Raises:
      UnreadableRecord: it cannot be read.
    """
    video = source[record]
    try:
        with video.open() as opened:
            views = transforms.views(opened, protocol)
    except UserError as error:
        raise UnreadableRecord(video.name, str(error)) from None
    return {"clips": views, "labels": np.int32(video.label)}
