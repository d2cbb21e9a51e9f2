"""THUMOS14's tables as the reference has them, and ground truth and detections as ActivityNet's.

A data set is a folder (AFSD's copies):

- `Class Index_Detection.txt`: lines `number name`; the id of a class is its line number from 1, 0
  is the background.
- `{val,test}_Annotation_ours.csv`: an instance per line, in seconds and in native frames.
- `{val,test}_video_info.csv`: frame rate and count of each video, native and as sampled.
- `thumos_gt.json`: the ground truth of the metric, in ActivityNet's format:

    {"database": {VIDEO: {"subset": NAME, "annotations": [{"segment": [S, E], "label": NAME}]}}}

Detections are {"results": {VIDEO: [{"label": NAME, "score": X, "segment": [S, E]}]}, ...}. Segments
are in seconds, as numbers or as text (THUMOS14's file has text).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from squeezetime_jax.data.tables import (
    PathLike,
    expected,
    field,
    number,
    read_csv,
    read_json,
    read_lines,
)
from squeezetime_jax.errors import UserError

CLASSES_FILE = "Class Index_Detection.txt"
GROUND_TRUTH_FILE = "thumos_gt.json"
SAMPLE_RATE = 10.0
"""Frames per second that videos are sampled to."""

_INSTANCE_COLUMNS = ("video", "type", "type_idx", "start", "end", "startFrame", "endFrame")
_INFO_COLUMNS = ("video", "fps", "sample_fps", "count", "sample_count")


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
    """Read one split of a folder that has THUMOS14's files.

    Args:
      folder: of the files.
      split: "val", which is trained on, or "test".

    Raises:
      UserError: a file is missing, or a line of it is invalid; the message names file and line.
    """
    folder = Path(folder)
    names = read_classes(folder / CLASSES_FILE)
    videos = _read_facts(folder / f"{split}_video_info.csv")
    ids = {name: class_id for class_id, name in enumerate(names, 1)}
    instances: dict[str, list[Instance]] = {video: [] for video in videos}
    for place, row in _rows(folder / f"{split}_Annotation_ours.csv", _INSTANCE_COLUMNS):
        if row["video"] not in videos:
            raise expected(place, "a video of the video table", row["video"])
        if row["type"] not in ids:
            raise expected(place, f"a name in {CLASSES_FILE}", row["type"])
        seconds = _span(row, "start", "end", place)
        frames = _span(row, "startFrame", "endFrame", place)
        instances[row["video"]].append(Instance(ids[row["type"]], seconds, frames))
    return Annotations(names, videos, {video: tuple(each) for video, each in instances.items()})


def read_classes(path: PathLike) -> tuple[str, ...]:
    """The class names of the class index, from id 1.

    Raises:
      UserError: the file cannot be read, a line is not `number name`, or a name is repeated.
    """
    names: list[str] = []
    for place, line in read_lines(path):
        index, _, name = line.partition(" ")
        if not index.isdecimal() or not name.strip() or name.strip() in names:
            raise expected(place, "`number name`, each name once", line)
        names.append(name.strip())
    if not names:
        raise UserError(f"{path}: no class found; expected a line `number name` per class")
    return tuple(names)


def _read_facts(path: Path) -> dict[str, VideoFacts]:
    videos: dict[str, VideoFacts] = {}
    for place, row in _rows(path, _INFO_COLUMNS):
        name = row["video"]
        if not name or Path(name).name != name or name in videos:
            raise expected(place, "a bare name, each once", name)
        fps = number(place, row["fps"], low=SAMPLE_RATE, name="fps")
        number(place, row["sample_fps"], low=SAMPLE_RATE, high=SAMPLE_RATE, name="sample_fps")
        count = number(place, row["count"], low=1, name="count")
        sampled = number(place, row["sample_count"], low=1, high=count, name="sample_count")
        videos[name] = VideoFacts(fps, int(count), int(sampled))
    if not videos:
        raise UserError(f"{path}: no video found; expected a line per video")
    return videos


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE, line N", column -> word) of each line below the header."""
    lines = read_csv(path)
    place, header = next(lines, (f"{path}, line 1", []))
    if header != list(columns):
        raise expected(place, f"the header {','.join(columns)}", ",".join(header))
    for place, words in lines:
        if len(words) != len(columns):
            raise expected(place, f"{len(columns)} fields ({','.join(columns)})", ",".join(words))
        yield place, dict(zip(columns, words, strict=True))


def _span(row: dict[str, str], first: str, last: str, place: str) -> tuple[float, float]:
    start, end = (number(place, row[name], low=0, name=name) for name in (first, last))
    if start >= end:
        raise expected(place, f"{first} before {last}", (start, end))
    return start, end


@dataclasses.dataclass(frozen=True)
class Instances:
    """Segments of videos, each with a label: ground truth, or detections with scores.

    Attributes:
      videos: the video of each instance.
      labels: its class name.
      segments: its start and end, in seconds.
      scores: of detections; None for ground truth.
    """

    videos: Sequence[str]
    labels: Sequence[str]
    segments: Float[np.ndarray, "n 2"]
    scores: Float[np.ndarray, " n"] | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple], scored: bool) -> "Instances":
        """From rows (video, label, start, end) or (video, label, start, end, score)."""
        columns = list(zip(*rows, strict=True)) or [()] * 5
        segments = np.array(columns[2:4], float).T.reshape(-1, 2)
        scores = np.array(columns[4], float) if scored else None
        return cls(columns[0], columns[1], segments, scores)


def read_ground_truth(path: PathLike, subset: str) -> tuple[Instances, frozenset[str]]:
    """The instances of one subset, and its videos, including those without an instance.

    Raises:
      UserError: the file cannot be read or has another form, naming the place in it; or the subset
        has no instance.
    """
    rows, videos, subsets = [], [], set()
    for video, entry in field(str(path), read_json(path), "database", dict).items():
        place = f"{path}: database.{video}"
        subsets.add(field(place, entry, "subset", str))
        if entry["subset"] != subset:
            continue
        videos.append(video)
        for index, annotation in enumerate(field(place, entry, "annotations", list)):
            rows.append((video, *_instance(f"{place}.annotations[{index}]", annotation)))
    if not rows:
        known = ", ".join(sorted(map(repr, subsets))) or "none"
        raise UserError(f"{path}: no instance of subset {subset!r}; its subsets are {known}")
    return Instances.of(rows, scored=False), frozenset(videos)


def read_detections(path: PathLike) -> Instances:
    """The detections of all videos, in the order of the file.

    Raises:
      UserError: the file cannot be read or has another form, naming the place in it.
    """
    results = field(str(path), read_json(path), "results", dict)
    rows = []
    for video in results:
        place = f"{path}: results"
        for index, entry in enumerate(field(place, results, video, list)):
            each = f"{place}.{video}[{index}]"
            label, start, end = _instance(each, entry)
            score = number(each, entry.get("score"), name="score")
            rows.append((video, label, start, end, score))
    return Instances.of(rows, scored=True)


def _instance(place: str, entry: Any) -> tuple[str, float, float]:
    """(label, start, end) of an annotation or a detection."""
    label, segment = field(place, entry, "label", str), field(place, entry, "segment", list)
    if len(segment) != 2:
        raise expected(place, "a segment [start, end] in seconds", segment)
    start, end = (number(place, value, name="segment") for value in segment)
    if start > end:
        raise expected(place, "a segment that starts before its end", segment)
    return label, start, end


def detections_file(detections: Mapping[str, Sequence[Mapping]]) -> dict[str, Any]:
    """The contents of a file of detections, as the reference writes it.

    Args:
      detections: `{"label", "score", "segment"}` of each detection, by video.
    """
    return {"version": "THUMOS14", "results": dict(detections), "external_data": {}}
