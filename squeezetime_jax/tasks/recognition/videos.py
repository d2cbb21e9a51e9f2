"""The videos of an experiment: its sources, opened, and the samples of a video."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax import hosts
from squeezetime_jax.data import classes, transforms, workers
from squeezetime_jax.data.batches import Sample, UnreadableRecord, max_bad_videos
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import (
    FileSource,
    Record,
    Source,
    is_hidden,
    match,
    open_source,
)
from squeezetime_jax.data.transforms import TrainingClip, ViewProtocol
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.evaluation.labels import BUILT_IN, built_in
from squeezetime_jax.tasks.recognition.experiment import Data, Recognition
from squeezetime_jax.training.task import TrainingSet

MOTION = "motion"
_SHOWN = 3  # of the videos that are not there
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
    label_map = None if data.labels in BUILT_IN else data.labels or None
    source: Source
    if data.images:
        source = image_folder(path)
    else:
        source = open_source(path, root=root or None, split=split or None, label_map=label_map)
    if data.labels in BUILT_IN:
        names = built_in(data.labels)
        source = match(source, names, place=path, owner=data.labels)
    return source


def _open_motion(data: Data, folder: Path, split: str) -> Source:
    hosts.first_host_makes(
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
    folders = sorted(f for f in root.iterdir() if f.is_dir()) if root.is_dir() else []
    found = {
        folder.name: sorted(file.name for file in folder.iterdir() if _is_picture(file))
        for folder in folders
        if not is_hidden(folder.name)
    }
    names = [name for name, files in found.items() if files]
    pictures = [
        (f"{name}/{file}", label) for label, name in enumerate(names) for file in found[name]
    ]
    if not pictures:
        raise UserError(
            f"{root}: no pictures found in class folders; expected `<class name>/<picture>.jpg`"
        )
    return ImageSource(root, pictures, tuple(names))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")


def match_test(
    source: Source,
    names: Sequence[str] | None,
    *,
    place: str,
    owner: str,
    say: Callable[[str], None],
) -> Source:
    """Test videos with the labels of a network or of the training videos.

    Args:
      source: the test videos.
      names: the classes, in the order of the network's outputs; None: unknown.
      place: the list or folder of the test videos, for messages.
      owner: what the names are from, for messages.
      say: told which classes have no test videos, and where labels are matched by number although
        one side has names.

    Raises:
      UserError: a class of the test videos is not among the names.
    """
    if names is None:
        if source.class_names:
            say(f"{place}: matched by number, because {owner} has no class names")
        return source
    if not source.class_names:
        say(f"{place}: no class names; its labels are taken as the numbers of {owner}")
    matched = match(source, names, place=place, owner=owner)
    absent = classes.missing(source.class_names, names) if source.class_names else []
    if absent:
        say(
            f"{place}: no videos of {len(absent)} of the {len(names)} classes of {owner}:"
            f" {classes.shown(absent)}"
        )
    return matched


def check_paths(source: Source, place: str, *, may_be_absent: int = 0) -> None:
    """Refuse a list of which more videos than that are not there, before the first is decoded.

    Raises:
      UserError: with the number and the first few of them.
    """
    absent = source.absent() if isinstance(source, FileSource) else []
    if len(absent) > may_be_absent:
        shown = ", ".join(repr(path) for path in absent[:_SHOWN])
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        root = source.root if isinstance(source, FileSource) else ""
        raise UserError(
            f"{place}: {len(absent)} of {count(len(source), 'video')} not found in {root}: {shown}"
            f"{more}; check the root (data.root, --root), `squeezetime check` lists all of them"
        )


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
        check_paths(source, data.train or MOTION, may_be_absent=max_bad_videos(len(source)))
        names = list(source.class_names)
        self.labels = names if len(names) == classes else None
        self._source = source
        self._clip = TrainingClip(
            experiment.model.num_frames,
            data.frame_interval or None,
            data.short_side,
            data.crop_size,
            data.crop,
            data.target_fps or None,
        )

    def __len__(self) -> int:
        return len(self._source)

    def contents(self) -> Any:
        """The videos' paths and labels."""
        return contents(self._source)

    def read(self, record: int, rng: np.random.Generator) -> Sample:
        """`clips`, uint8 (t, h, w, 3), and `labels`, int32 ()."""
        video = self._source[record]
        try:
            clip = workers.limited(_cut, video, self._clip, rng, name=video.name, file=video.file)
        except UserError as error:
            raise UnreadableRecord(video.name, str(error)) from None
        return {"clips": clip, "labels": np.int32(video.label)}


def _cut(video: Record, clip: TrainingClip, rng: np.random.Generator) -> np.ndarray:
    with video.open() as opened:
        return clip.cut(opened, rng)


def contents(source: Source) -> Any:
    """What hosts that see the same videos have in common; of shards, their number."""
    videos = list(source.videos) if isinstance(source, FileSource) else len(source)
    return videos, list(source.class_names)


def read_views(source: Source, record: int, protocol: ViewProtocol) -> Sample:
    """`clips`, uint8 (views, t, h, w, 3), and `labels`, int32 (), of a test video.

    Raises:
      UnreadableRecord: it cannot be read.
    """
    video = source[record]
    try:
        views = workers.limited(_views, video, protocol, name=video.name, file=video.file)
    except UserError as error:
        raise UnreadableRecord(video.name, str(error)) from None
    return {"clips": views, "labels": np.int32(video.label)}


def _views(video: Record, protocol: ViewProtocol) -> np.ndarray:
    with video.open() as opened:
        return transforms.views(opened, protocol)
