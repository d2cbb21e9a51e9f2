"""THUMOS14's annotation files as the reference reads them (AFSD's copies).

- `Class Index_Detection.txt`: lines `number name`; a class's id is its line number from 1, 0 is
  the background.
- `{val,test}_Annotation_ours.csv`: an instance a line, in seconds and in native frames.
- `{val,test}_video_info.csv`: frame rate and count of each video, native and as sampled.
"""

import csv
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from squeezetime_jax.errors import UserError

CLASSES_FILE = "Class Index_Detection.txt"
GROUND_TRUTH_FILE = "thumos_gt.json"
SAMPLE_RATE = 10.0
"""Frames per second that videos are sampled to."""

_INSTANCE_COLUMNS = ("video", "type", "type_idx", "start", "end", "startFrame", "endFrame")
_INFO_COLUMNS = ("video", "fps", "sample_fps", "count", "sample_count")

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class VideoFacts:
    """A line of the video table.

    Attributes:
      fps: native frames per second.
      count: native frames.
      sample_count: frames at the sampled rate.
    """

    fps: float
    count: int
    sample_count: int


@dataclasses.dataclass(frozen=True)
class Instance:
    """A line of the instance table.

    Attributes:
      class_id: from 1.
      seconds: start and end.
      frames: start and end, in native frames.
    """

    class_id: int
    seconds: tuple[float, float]
    frames: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Annotations:
    """One split.

    Attributes:
      class_names: in the order of the ids, from id 1.
      videos: facts by video, in the order of the file.
      instances: of each video in `videos`, in the order of the file.
    """

    class_names: tuple[str, ...]
    videos: dict[str, VideoFacts]
    instances: dict[str, tuple[Instance, ...]]

    @property
    def num_instances(self) -> int:
        """Instances of all videos."""
        return sum(len(each) for each in self.instances.values())


def read_annotations(folder: PathLike, split: str) -> Annotations:
    """Read one split of a folder that is laid out like THUMOS14's.

    Args:
      folder: holds the class index, the instance table and the video table.
      split: "val" (what one trains on) or "test".

    Raises:
      UserError: a file is missing, or a line of it is wrong; the message names file and line.
    """
    folder = Path(folder)
    names = read_classes(folder / CLASSES_FILE)
    videos = _read_facts(folder / f"{split}_video_info.csv")
    path = folder / f"{split}_Annotation_ours.csv"
    ids = {name: number for number, name in enumerate(names, 1)}
    instances: dict[str, list[Instance]] = {video: [] for video in videos}
    for place, row in _rows(path, _INSTANCE_COLUMNS):
        if row["video"] not in videos:
            raise UserError(f"{place}: video: found {row['video']!r}, which the video table lacks")
        if row["type"] not in ids:
            raise UserError(f"{place}: type: found {row['type']!r}, which {CLASSES_FILE} lacks")
        seconds = _span(row, ("start", "end"), place)
        frames = _span(row, ("startFrame", "endFrame"), place)
        instances[row["video"]].append(Instance(ids[row["type"]], seconds, frames))
    return Annotations(names, videos, {video: tuple(own) for video, own in instances.items()})


def read_classes(path: PathLike) -> tuple[str, ...]:
    """The class names of the class index, from id 1.

    Raises:
      UserError: the file cannot be read, or a line is not `number name`, or a name comes twice.
    """
    names: list[str] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        index, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not index.isdecimal() or not name.strip() or name.strip() in names:
            raise UserError(
                f"{path}, line {number}: found {line[:60]!r}; wanted `number name`, each name once"
            )
        names.append(name.strip())
    if not names:
        raise UserError(f"{path}: names no class; wanted a line `number name` per class")
    return tuple(names)


def _read_facts(path: Path) -> dict[str, VideoFacts]:
    videos: dict[str, VideoFacts] = {}
    for place, row in _rows(path, _INFO_COLUMNS):
        fps = _number(row, "fps", place)
        rate = _number(row, "sample_fps", place)
        count, sample_count = (_number(row, name, place) for name in ("count", "sample_count"))
        if rate != SAMPLE_RATE:
            raise UserError(f"{place}: sample_fps: found {rate:g}; wanted {SAMPLE_RATE:g}")
        if fps < SAMPLE_RATE:
            raise UserError(f"{place}: fps: found {fps:g}; wanted at least {SAMPLE_RATE:g}")
        if min(count, sample_count) < 1 or sample_count > count:
            raise UserError(
                f"{place}: count, sample_count: found {count:g}, {sample_count:g}; wanted at least"
                " one frame, and no more of them sampled than there are"
            )
        if row["video"] in videos:
            raise UserError(f"{place}: video: found {row['video']!r} a second time")
        if Path(row["video"]).name != row["video"] or not row["video"]:
            raise UserError(f"{place}: video: found {row['video']!r}; wanted a bare name")
        videos[row["video"]] = VideoFacts(fps, int(count), int(sample_count))
    if not videos:
        raise UserError(f"{path}: names no video; wanted a line per video")
    return videos


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", column -> word) of each line below the header."""
    reader = csv.reader(_text(path).splitlines())
    header = next(reader, [])
    if header != list(columns):
        raise UserError(
            f"{path}, line 1: found {','.join(header)[:80]!r}; wanted {','.join(columns)}"
        )
    try:
        for words in reader:
            place = f"{path}, line {reader.line_num}"
            if not words:
                continue
            if len(words) != len(columns):
                raise UserError(
                    f"{place}: found {len(words)} fields; wanted {len(columns)}: "
                    f"{','.join(columns)}"
                )
            yield place, dict(zip(columns, words, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; wanted a CSV line") from error


def _span(row: dict[str, str], names: tuple[str, str], place: str) -> tuple[float, float]:
    start, end = (_number(row, name, place) for name in names)
    if start >= end:
        raise UserError(
            f"{place}: {names[0]}, {names[1]}: found {start:g}, {end:g}; wanted a start before"
            " the end"
        )
    return start, end


def _number(row: dict[str, str], name: str, place: str) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"{place}: {name}: found {row[name][:40]!r}; wanted a number from 0 up")
    return number


def _text(path: PathLike) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: not readable as a text file ({reason}); check the path") from None
