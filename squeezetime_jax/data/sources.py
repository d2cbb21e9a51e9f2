"""Where labelled videos come from: random access to (video, label, name), and the class names.

Three kinds: an annotation list with a root folder, a folder per class, and ArrayRecord shards that
TFDS opens. `open_source` tells them apart.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import tensorflow_datasets as tfds

from squeezetime_jax.data import annotations, records
from squeezetime_jax.data.video import FrameSequence, Video
from squeezetime_jax.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (
        ".mp4",
        ".avi",
        ".webm",
        ".mkv",
        ".mov",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".3gp",
        ".ts",
    )
)
# Files that say of a folder that it is a TFDS data set.
_TFDS_FILE = "dataset_info.json"

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled video.

    Attributes:
      video: a path, the bytes of a file, or the JPEG bytes of its frames.
      label: index into the class names.
      name: what lists, logs and errors call it.
    """

    video: Path | records.StoredVideo
    label: int
    name: str

    def open(self) -> Video | FrameSequence:
        """Random access to the frames; a context manager.

        Raises:
          VideoError: it cannot be read as a video.
        """
        if isinstance(self.video, Path):
            return Video(self.video, self.name)
        return records.open_record(self.video, self.name)


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


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Video files below a folder.

    Attributes:
      root: the folder that paths are relative to.
      videos: (relative path, label) of each video.
      class_names: in the order of the labels; empty where unknown.
    """

    root: Path
    videos: Sequence[tuple[str, int]]
    class_names: Sequence[str] = ()

    @property
    def num_classes(self) -> int:
        """Classes named, or one more than the largest label."""
        return len(self.class_names) or max(label for _, label in self.videos) + 1

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Record:
        path, label = self.videos[index]
        return Record(self.root / path, label, path)


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
        self._check()

    @functools.cached_property
    def _info(self) -> Any:
        return tfds.builder_from_directory(str(self.folder)).info

    @functools.cached_property
    def _records(self) -> Any:
        return tfds.builder_from_directory(str(self.folder)).as_data_source(split=self.split)

    def _check(self) -> None:
        try:
            features, splits = self._info.features, self._info.splits
        except Exception as error:  # TFDS raises many kinds over a damaged description
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{self.folder}: is no data set that TFDS opens ({reason}); wanted the folder that"
                " `squeezetime prepare` or a builder wrote"
            ) from error
        missing = {"video", "label", "name"} - set(features or ())
        if missing:
            raise UserError(
                f"{self.folder}: its records lack {', '.join(sorted(missing))}; wanted"
                ' {"video", "label", "name"}, as `squeezetime prepare` writes'
            )
        if self.split.split("[")[0] not in splits:
            raise UserError(
                f"{self.folder}: has no split {self.split!r}, only {', '.join(sorted(splits))}"
            )

    @property
    def class_names(self) -> Sequence[str]:
        """Names in the order of the labels; empty where the records have numbers alone."""
        label = self._info.features["label"]
        names = tuple(label.names)
        is_numbers = names == tuple(str(k) for k in range(label.num_classes))
        return () if is_numbers else names

    @property
    def num_classes(self) -> int:
        """Classes of the data set, whether or not the split has each."""
        return self._info.features["label"].num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        found = self._records[index]
        video = found["video"]
        stored = video if isinstance(video, bytes) else [bytes(frame) for frame in video]
        return Record(stored, int(found["label"]), found["name"].decode())

    def __getstate__(self) -> tuple[Path, str]:
        return self.folder, self.split  # a worker process opens the files itself

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self.folder, self.split = state


def annotation_list(
    path: PathLike, root: PathLike, label_map: PathLike | None = None
) -> FileSource:
    """Videos of an annotation list, a line `relative/path label` each.

    Args:
      path: the list.
      root: the folder that the list's paths are relative to.
      label_map: a file with a class name per line.

    Raises:
      UserError: a file or line is not of that form, or a label has no name.
    """
    path, root = Path(path), Path(root)
    videos = annotations.read_list(path)
    if not root.is_dir():
        raise UserError(f"{root}: found no such folder; wanted the root of the videos of {path}")
    names = annotations.read_class_names(Path(label_map)) if label_map else []
    for name, label in videos if names else ():
        if label >= len(names):
            raise UserError(
                f"{path}: {name!r} has label {label}, but {label_map} names {len(names)} classes"
                f" (0 to {len(names) - 1}); use the label map of this list"
            )
    return FileSource(root, videos, tuple(names))


def folder_per_class(root: PathLike, label_map: PathLike | None = None) -> FileSource:
    """Videos in one folder per class, `root/class name/any name.mp4`.

    Args:
      root: the folder of the class folders.
      label_map: a file with a class name per line, in the order of the labels; by default the class
        folders in alphabetical order.

    Raises:
      UserError: there is no video, or a folder's name is not in the label map.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"{root}: found no such folder; wanted one with a folder of videos per class"
        )
    folders = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    names = annotations.read_class_names(Path(label_map)) if label_map else folders
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise UserError(
            f"{root}: folder {unknown[0]!r} is no class of {label_map} ({len(unknown)} such);"
            " rename it or use another label map"
        )
    videos = [
        (f"{folder}/{file.name}", names.index(folder))
        for folder in folders
        for file in sorted((root / folder).iterdir())
        if file.suffix.lower() in VIDEO_SUFFIXES
    ]
    if not videos:
        raise UserError(
            f"{root}: found no video in its {len(folders)} folders; wanted"
            " `<class name>/<video>.mp4` (or .avi, .webm, .mkv, ...)"
        )
    return FileSource(root, videos, tuple(names))


def open_source(
    location: PathLike,
    *,
    root: PathLike | None = None,
    split: str | None = None,
    label_map: PathLike | None = None,
) -> Source:
    """The source at a location, by what lies there.

    Args:
      location: an annotation list (a file), a TFDS data set (a folder with `dataset_info.json`), or
        a folder of class folders.
      root: of a list's paths; by default the list's own folder.
      split: of a TFDS data set.
      label_map: a file with a class name per line. A TFDS data set brings its own.

    Raises:
      UserError: there is nothing that can be opened.
    """
    location = Path(location)
    if location.is_file():
        return annotation_list(location, root or location.parent, label_map)
    if not location.is_dir():
        raise UserError(
            f"{location}: found neither file nor folder; wanted an annotation list, a folder per"
            " class, or a data set that `squeezetime prepare` wrote"
        )
    if not (location / _TFDS_FILE).exists():
        return folder_per_class(location, label_map)
    if split is None:
        raise UserError(f"{location}: is a data set of several splits; say which, such as `train`")
    return ShardSource(location, split)
