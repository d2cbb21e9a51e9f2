"""Labelled videos on disk: random access to (video, label, name), and the class names.

A source is an annotation list with a root folder, a folder of class folders, or ArrayRecord shards
in TFDS's format. `open_source` tells them apart.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from squeezetime_jax.data import records
from squeezetime_jax.data.video import FrameSequence, Video
from squeezetime_jax.errors import UserError

VIDEO_SUFFIXES = frozenset((
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".webm", ".wmv",
))  # fmt: skip
# A folder with this file is a TFDS data set.
_TFDS_FILE = "dataset_info.json"

PathLike = str | os.PathLike[str]


def is_video_file(path: Path) -> bool:
    """Whether a file's name is that of a video; hidden files are none (macOS writes `._x.mp4`)."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def read_list(path: PathLike) -> list[tuple[str, int]]:
    """The (path, label) pairs of an annotation list, a line `relative/path label` per video.

    The label is the last field, after a space, a tab or a comma; the path may contain spaces
    (mmaction2's format). Empty lines are left out.

    Raises:
      UserError: the file is not readable, or a line is not of that form; the message gives its
        number.
    """
    pairs = []
    for number, line in _lines(path):
        name, label = [*line.rsplit(maxsplit=1), ""][:2]
        if not label.isdecimal():
            name, _, label = line.rpartition(",")
        if not label.strip().isdecimal() or not name:
            raise UserError(
                f"{path}, line {number}: expected `path label` with a label of 0 or more, got"
                f" {line[:80]!r}"
            )
        pairs.append((name.strip().removesuffix(","), int(label)))
    if not pairs:
        raise UserError(f"{path}: empty; expected a line `path label` for each video")
    return pairs


def read_class_names(path: PathLike) -> list[str]:
    """The names of a label map, one line per class in the order of the labels.

    Raises:
      UserError: the file is not readable.
    """
    return [name for _, name in _lines(path)]


def _lines(path: PathLike) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file in UTF-8, got other bytes") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled video.

    Attributes:
      video: a path, the bytes of a file, or the JPEG bytes of its frames.
      label: index into the class names.
      name: its name in lists, logs and errors.
    """

    video: Path | records.StoredVideo
    label: int
    name: str

    def open(self) -> Video | FrameSequence:
        """Random access to the frames; a context manager.

        Raises:
          VideoError: it is not a readable video.
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
        """Number of names, or without names the largest label plus 1."""
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
        return records.class_names(self._builder.info.features["label"])

    @property
    def num_classes(self) -> int:
        """Classes of the data set, including those without videos in this split."""
        return self._builder.info.features["label"].num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        found = self._records[index]
        video = found["video"]
        stored = video if isinstance(video, bytes) else [bytes(frame) for frame in video]
        return Record(stored, int(found["label"]), found["name"].decode())

    def __getstate__(self) -> tuple[Path, str]:
        return self.folder, self.split  # each worker process opens the files itself

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
    videos = read_list(path)
    if not root.is_dir():
        raise UserError(f"{root}: folder not found; expected the root of the videos of {path}")
    names = read_class_names(label_map) if label_map else []
    for name, label in videos if names else ():
        if label >= len(names):
            raise UserError(
                f"{path}: {name!r} has label {label}, but {label_map} has {len(names)} names, for"
                f" labels 0 to {len(names) - 1}; use the label map of this list"
            )
    return FileSource(root, videos, tuple(names))


def folder_per_class(root: PathLike, label_map: PathLike | None = None) -> FileSource:
    """Videos in one folder per class, `root/class name/any name.mp4`.

    Folders without videos are not classes; nor are hidden ones and `__MACOSX`.

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
    files = {
        folder.name: sorted(file.name for file in folder.iterdir() if is_video_file(file))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))
    }
    folders = [folder for folder, videos in files.items() if videos]
    if not folders:
        raise UserError(
            f"{root}: no videos in its class folders; expected `<class name>/<video>.mp4` (or .avi,"
            " .webm, .mkv, ...)"
        )
    names = read_class_names(label_map) if label_map else folders
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        raise UserError(
            f"{root}: folder {unknown[0]!r}{more} not in {label_map}; rename it or use another"
            " label map"
        )
    numbers = {name: number for number, name in enumerate(names)}
    videos = [(f"{folder}/{file}", numbers[folder]) for folder in folders for file in files[folder]]
    return FileSource(root, videos, tuple(names))


def open_files(
    location: PathLike, *, root: PathLike | None = None, label_map: PathLike | None = None
) -> FileSource:
    """Open labelled video files: an annotation list, or a folder of class folders.

    Args:
      location: the list or the folder.
      root: of a list's paths; by default the list's own folder.
      label_map: a file with a class name per line.

    Raises:
      UserError: there is neither at the location, or it is invalid.
    """
    location = Path(location)
    if location.is_file():
        return annotation_list(location, root or location.parent, label_map)
    if (location / _TFDS_FILE).exists():
        raise UserError(
            f"{location}: contains shards; expected an annotation list or a folder of class folders"
        )
    if location.is_dir():
        return folder_per_class(location, label_map)
    raise UserError(
        f"{location}: not found; expected an annotation list, a folder of class folders, or shards"
        " that `squeezetime prepare` wrote"
    )


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
      label_map: a file with a class name per line. A TFDS data set brings its own.

    Raises:
      UserError: there is no source at the location, or it is invalid.
    """
    if not (Path(location) / _TFDS_FILE).exists():
        return open_files(location, root=root, label_map=label_map)
    if split is None:
        raise UserError(f"{location}: a data set with splits; choose one, such as `train`")
    return ShardSource(location, split)
