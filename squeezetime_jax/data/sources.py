"""Labelled videos on disk: random access to (video, label, name), and the class names.

A source is an annotation list with a root folder, a folder of class folders, or ArrayRecord shards
in TFDS's format. `open_source` tells them apart. A video is a file, or a folder of numbered
pictures (`raw_frames`).
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from squeezetime_jax.data import classes, raw_frames, records
from squeezetime_jax.data.lists import Labelled, PathLike, read_class_names, read_list
from squeezetime_jax.data.video import FrameSequence, Video
from squeezetime_jax.errors import UserError, count

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".webm", ".wmv",
))  # fmt: skip
# A folder with this file is a TFDS data set.
_TFDS_FILE = "dataset_info.json"


def is_video_file(path: Path) -> bool:
    """Whether a file's name is that of a video; hidden files are none (macOS writes `._x.mp4`)."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def is_hidden(folder: str) -> bool:
    """Whether a folder holds nothing of the user's, by its name: `.cache`, or a Mac's zip's."""
    return folder.startswith((".", "__MACOSX"))


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled video.

    Attributes:
      video: a path (of a file, or of a folder of numbered pictures), the bytes of a file, or the
        JPEG bytes of its frames.
      label: index into the class names.
      name: its name in lists, logs and errors.
    """

    video: Path | records.StoredVideo
    label: int
    name: str

    @property
    def file(self) -> tuple[str, int]:
        """What tells it from the videos of the same name in other data sets."""
        if isinstance(self.video, Path):
            return str(self.video), 0
        parts = [self.video] if isinstance(self.video, bytes) else self.video
        return self.name, sum(map(len, parts))

    def open(self) -> Video | FrameSequence:
        """Random access to the frames; a context manager.

        Raises:
          VideoError: it is not a readable video.
        """
        if not isinstance(self.video, Path):
            return records.open_record(self.video, self.name)
        if self.video.is_dir():
            return raw_frames.open_frames(self.video, self.name)
        return Video(self.video, self.name)


@runtime_checkable
class Source(Protocol):
    """Labelled videos by number."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names in the order of the labels; empty where they are unknown."""

    @property
    def num_classes(self) -> int:
        """Classes, whether or not each has a video."""

    def __len__(self) -> int:
        """Number of videos."""

    def __getitem__(self, index: int) -> Record:
        """The record of a number in `[0, len)`."""

    def with_classes(self, numbers: Sequence[int], names: Sequence[str]) -> "Source":
        """The same videos with other labels and class names.

        Args:
          numbers: the new label of each present one.
          names: in the order of the new labels.
        """


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Video files below a folder.

    Attributes:
      root: the folder that paths are relative to.
      videos: (relative path, label) of each video.
      class_names: in the order of the labels; empty where unknown.
    """

    root: Path
    videos: Sequence[Labelled]
    class_names: Sequence[str] = ()

    @property
    def num_classes(self) -> int:
        """Number of names, or without names the largest label plus 1."""
        return len(self.class_names) or max(label for _, label in self.videos) + 1

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Record:
        path, label = self.videos[index]
        return Record(self.root / path, label, path)

    def absent(self) -> list[str]:
        """Paths of the videos that are not there; each folder is listed once."""
        names: dict[str, set[str]] = {}
        absent = []
        for path, _ in self.videos:
            folder, name = os.path.split(self.root / path)
            if folder not in names:
                try:
                    names[folder] = set(os.listdir(folder))
                except OSError:
                    names[folder] = set()
            if name not in names[folder]:
                absent.append(path)
        return absent

    def with_classes(self, numbers: Sequence[int], names: Sequence[str]) -> "FileSource":
        """As `Source.with_classes`."""
        videos = [(path, numbers[label]) for path, label in self.videos]
        return dataclasses.replace(self, videos=videos, class_names=tuple(names))


class ShardSource:
    """A split of ArrayRecord shards: what `squeezetime prepare` or a TFDS builder wrote.

    Args:
      folder: the data set's folder, with `dataset_info.json`.
      split: name of the split; TFDS's slices, such as `train[:10%]`, work too.

    Raises:
      UserError: the folder holds no such split, or records of another kind.
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        self.folder, self.split = Path(folder), split
        self._classes: tuple[Sequence[int], Sequence[str]] | None = None  # of `with_classes`
        self._check()

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # slow to import, and other sources do not need it

        return tfds.builder_from_directory(str(self.folder))

    @functools.cached_property
    def _records(self) -> Any:
        return self._builder.as_data_source(split=self.split)

    def _check(self) -> None:
        try:
            features, splits = self._builder.info.features, self._builder.info.splits
        except Exception as error:  # TFDS raises many kinds over a damaged description
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{self.folder}: TFDS cannot open this data set: {reason}; expected a folder that"
                " `squeezetime prepare` or a TFDS builder wrote"
            ) from error
        missing = {"video", "label", "name"} - set(features or ())
        if missing:
            raise UserError(
                f"{self.folder}: records without {', '.join(sorted(missing))}; expected video,"
                " label and name, as `squeezetime prepare` writes them"
            )
        if self.split.split("[")[0] not in splits:
            raise UserError(
                f"{self.folder}: split {self.split!r} not found; it has {', '.join(sorted(splits))}"
            )

    @property
    def class_names(self) -> Sequence[str]:
        """Names in the order of the labels; empty where the records have only numbers."""
        if self._classes:
            return self._classes[1]
        return records.class_names(self._builder.info.features["label"])

    @property
    def num_classes(self) -> int:
        """Classes of the data set, including those without videos in this split."""
        if self._classes:
            return len(self._classes[1])
        return self._builder.info.features["label"].num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        found = self._records[index]
        video = found["video"]
        stored = video if isinstance(video, bytes) else [bytes(frame) for frame in video]
        label = int(found["label"])
        if self._classes:
            label = self._classes[0][label]
        return Record(stored, label, found["name"].decode())

    def with_classes(self, numbers: Sequence[int], names: Sequence[str]) -> "ShardSource":
        """As `Source.with_classes`."""
        other = ShardSource.__new__(ShardSource)
        before = self._classes[0] if self._classes else range(self.num_classes)
        combined = tuple(numbers[label] for label in before)
        other.__setstate__((self.folder, self.split, (combined, tuple(names))))
        return other

    def __getstate__(self) -> tuple[Any, ...]:
        return self.folder, self.split, self._classes  # each process opens the files itself

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.folder, self.split, self._classes = state


def annotation_list(
    path: PathLike, root: PathLike, label_map: PathLike | None = None
) -> FileSource:
    """Videos of an annotation list; see `lists.read_list`.

    Args:
      path: the list. A line of mmaction2's lists of raw frames, `folder number_of_frames label`, is
        understood; the number is not used.
      root: the folder that the list's paths are relative to.
      label_map: a file with a class name per line.

    Raises:
      UserError: a file or line is not of that form, or a label has no name.
    """
    path, root = Path(path), Path(root)
    videos, names = read_list(path)
    if not root.is_dir():
        raise UserError(f"{root}: folder not found; expected the root of the videos of {path}")
    source = FileSource(root, _without_counts(root, videos), tuple(names))
    return _numbered(source, path, label_map)


def _without_counts(root: Path, videos: list[Labelled]) -> list[Labelled]:
    """A list of raw frames without their numbers, if the first path shows that it is one."""
    folder, _, number = videos[0][0].rpartition(" ")
    if not number.isdecimal() or (root / videos[0][0]).exists() or not (root / folder).is_dir():
        return videos
    return [(path.rpartition(" ")[0], label) for path, label in videos]


def folder_per_class(root: PathLike, label_map: PathLike | None = None) -> FileSource:
    """Videos in one folder per class, `root/class name/any name.mp4`.

    Videos may be in subfolders of the class's; a subfolder of numbered pictures is a video. Folders
    without videos are not classes; nor are hidden ones and `__MACOSX`.

    Args:
      root: the folder of the class folders.
      label_map: a file with a class name per line, in the order of the labels; by default the class
        folders in alphabetical order.

    Raises:
      UserError: there are no videos, or a folder's name is not in the label map.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: folder not found; expected one with a folder of videos per class")
    found = {
        folder.name: sorted(_videos_below(folder))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not is_hidden(folder.name)
    }
    names = [folder for folder, videos in found.items() if videos]
    if not names:
        raise UserError(
            f"{root}: no videos in its class folders; expected `<class name>/<video>.mp4` (or .avi,"
            " .webm, .mkv, ...), or folders of numbered pictures"
        )
    videos = [
        (f"{name}/{video}", label) for label, name in enumerate(names) for video in found[name]
    ]
    return _numbered(FileSource(root, videos, tuple(names)), root, label_map)


def _videos_below(folder: Path) -> Iterator[str]:
    """Paths of the videos in a class folder and its subfolders, relative to it."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        below = Path(place).relative_to(folder)
        videos = [name for name in files if is_video_file(Path(name))]
        if videos:
            yield from ((below / name).as_posix() for name in videos)
        elif below.parts and any(raw_frames.is_frame(name) for name in files):
            yield below.as_posix()


def open_source(
    location: PathLike,
    *,
    root: PathLike | None = None,
    split: str | None = None,
    label_map: PathLike | None = None,
) -> Source:
    """Open the labelled videos at a location, of whichever kind they are.

    Args:
      location: an annotation list (a file), a TFDS data set (a folder with `dataset_info.json`), or
        a folder of class folders.
      root: of a list's paths; by default the list's own folder.
      split: of a TFDS data set.
      label_map: a file with a class name per line, which numbers the classes.

    Raises:
      UserError: there is no source at the location, or it is invalid.
    """
    location = Path(location)
    if location.is_file():
        return annotation_list(location, root or location.parent, label_map)
    if not location.is_dir():
        raise UserError(
            f"{location}: not found; expected an annotation list, a folder of class folders, or"
            " shards that `squeezetime prepare` wrote"
        )
    if not (location / _TFDS_FILE).exists():
        return folder_per_class(location, label_map)
    if split is None:
        raise UserError(f"{location}: a data set with splits; choose one, such as `train`")
    return _numbered(ShardSource(location, split), location, label_map)


def match(source: Source, names: Sequence[str], *, place: PathLike, owner: str) -> Any:
    """The same videos with their labels as numbers of `names`, matched by name.

    Videos without class names keep their numbers.

    Args:
      source: the videos.
      names: of the classes, in the order of the new labels.
      place: the file or folder of the videos, for messages.
      owner: what the names are from, for messages, such as "the checkpoint".

    Returns:
      A source of the same type.

    Raises:
      UserError: a class of the videos is not among the names, or there are more classes than names.
    """
    present = source.class_names
    if present:
        numbers = classes.numbers(present, names, place=str(place), owner=owner)
        return source.with_classes(numbers, names)
    if source.num_classes > len(names):
        raise UserError(
            f"{place}: found label {source.num_classes - 1}, but {owner} has"
            f" {count(len(names), 'class')}, labels 0 to {len(names) - 1}; give videos and class"
            " names of the same data set"
        )
    return source.with_classes(range(source.num_classes), names)


def _numbered(source: Source, place: PathLike, label_map: PathLike | None) -> Any:
    """The source with its labels as numbers of a label map, if there is one."""
    if label_map is None:
        return source
    names = read_class_names(label_map)
    return match(source, names, place=place, owner=str(label_map))
