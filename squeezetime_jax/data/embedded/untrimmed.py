"""The embedded data set: untrimmed videos made of motion segments, with THUMOS14's annotations.

Two textured shapes move over a drifting background without a cut. In a segment both make one of
the motions of `motion.CLASSES`; between segments they hardly move. Where two segments overlap, each
shape makes one of the two motions. Place, size and angle of a shape move on circles and start at a
random point of them, so single frames have the same distribution at any time of any video: only the
order of the frames shows what happens, and when.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from squeezetime_jax.data import workers
from squeezetime_jax.data.embedded import motion, scenes
from squeezetime_jax.data.embedded.folder import claim, complete
from squeezetime_jax.errors import UserError, check_fields
from squeezetime_jax.files import write_whole

SAMPLE_RATE = 10.0
"""Frames per second of THUMOS14's tables."""

_FPS = 20  # twice the sampled rate, so that sampling leaves frames out
_SPAN = 1.6  # seconds in which a shape moves by its speed: 16 sampled frames
_SPEED = (0.5, 1.0)  # frame sides in that time
_GROWTH = 0.5  # of that, what the log-size turns of its circle
_SEGMENT = (1.6, 5.0)  # seconds
_GAP = (0.8, 2.4)  # seconds
_SHARED = (0.4, 0.8)  # seconds that two segments overlap
_DRIFT = 0.1  # largest share of its circle that a phase also turns in `_SPAN`, at difficulty 1

_PREFIXES = {"val": "video_validation", "test": "video_test"}
_SUBSETS = {"val": "train", "test": "test"}
_MARKER = "untrimmed.json"
_FOREIGN = f"not empty, and not written by this program (no {_MARKER}); choose another folder"
_OTHER = "has untrimmed videos made with {was}, not {expected}; choose another folder or delete it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untrimmed:
    """The settings of the data set.

    Attributes:
      num_train: number of training videos.
      num_test: number of test videos.
      size: side of the frames, in pixels; even and at least 32.
      seconds: shortest and longest video.
      overlaps: share of the segments that begin before the previous one has ended.
      difficulty: 0 to 1, as of the motion videos.
      seed: everything random follows from it.

    Raises:
      ValueError: a field is out of range.
    """

    num_train: int = 80
    num_test: int = 40
    size: int = 40
    seconds: tuple[int, int] = (20, 60)
    overlaps: float = 0.15
    difficulty: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", tuple(self.seconds))
        low, high = self.seconds
        check_fields(
            self,
            ("num_train", self.num_train >= 1, "at least 1"),
            ("num_test", self.num_test >= 1, "at least 1"),
            ("size", self.size >= 32 and self.size % 2 == 0, "an even number from 32"),
            ("seconds", 8 <= low <= high, "two ascending numbers from 8"),
            ("overlaps", 0 <= self.overlaps <= 1, "0 to 1"),
            ("difficulty", 0 <= self.difficulty <= 1, "0 to 1"),
        )


class Segment(NamedTuple):
    """A motion from `start` to `end`, in seconds; `speed` in frame sides per `_SPAN`."""

    label: int
    start: float
    end: float
    speed: float


def draw_segments(rng: np.random.Generator, seconds: int, overlaps: float) -> tuple[Segment, ...]:
    """The segments of a video: at most two at once, and then of different classes.

    Times are whole tenths of a second.

    Args:
      rng: of the video.
      seconds: the video's length.
      overlaps: share of the segments that begin before the previous one has ended.
    """
    segments: list[Segment] = []
    free_from = 0.0  # when all but the last segment have ended
    while True:
        label, length = int(rng.integers(len(motion.CLASSES))), rng.uniform(*_SEGMENT)
        gap, shared = rng.uniform(*_GAP), rng.uniform(*_SHARED)
        last = segments[-1] if segments else None
        may_overlap = last is not None and last.label != label and free_from <= last.start
        if may_overlap & (rng.uniform() < overlaps):
            assert last is not None
            start = last.end - shared
        else:
            start = max(free_from, last.end if last else 0.0) + gap
        start, end = round(start, 1), round(start + length, 1)
        if end > seconds - 0.5:
            return tuple(segments)
        free_from = max(free_from, last.end if last else 0.0)
        segments.append(Segment(label, start, end, rng.uniform(*_SPEED)))


def video(
    settings: Untrimmed, split: str, index: int
) -> tuple[UInt8[np.ndarray, "t h w 3"], tuple[Segment, ...]]:
    """A video and its segments; every video has its own generator.

    Args:
      settings: of the data set.
      split: "val" or "test".
      index: in the split.
    """
    rng, seconds = _beginning(settings, split, index)
    segments = draw_segments(rng, seconds, settings.overlaps)
    scene = motion.draw_scene(rng, 0, size=settings.size, difficulty=settings.difficulty)
    times = np.arange(seconds * _FPS) / _FPS
    paths = [
        shape.phase + _path(rng, segments, number, times, settings.difficulty)
        for number, shape in enumerate(scene.shapes)
    ]
    background = scene.phase + scene.rate * (times / _SPAN).astype(np.float32)[:, None]
    return scenes.paint_scene(scene, background, paths, size=settings.size), segments


def _path(
    rng: np.random.Generator,
    segments: Sequence[Segment],
    shape: int,
    times: np.ndarray,
    difficulty: float,
) -> Float32[np.ndarray, "t 4"]:
    """The turns of a shape's phases until each time."""
    rate = np.tile(difficulty * rng.uniform(-_DRIFT, _DRIFT, 4), (len(times), 1))
    for number, segment in enumerate(segments):
        active = (segment.start <= times) & (times < segment.end)
        for other_number, other in enumerate(segments):
            # While two overlap, the first shape continues with the earlier one.
            yields = other_number < number if shape == 0 else other_number > number
            if yields:
                active &= ~((other.start <= times) & (times < other.end))
        way = segment.speed * (1 if segment.label % 2 == 0 else -1)
        axis = segment.label // 2
        if axis == motion.CIRCLING:
            heading = np.pi * (times[active] - segment.start) / _SPAN
            rate[active, scenes.X] += abs(way) * np.cos(heading)
            rate[active, scenes.Y] += way * np.sin(heading)
        else:
            rate[active, axis] += way * (_GROWTH if axis == scenes.SIZE else 1)
    return (np.cumsum(rate, axis=0) / (_SPAN * _FPS)).astype(np.float32)


def write_untrimmed(folder: str | os.PathLike[str], settings: Untrimmed) -> Path:
    """Write the data set, unless it is there already.

    The folder then has THUMOS14's annotation files and `videos/<name>.mp4`. An interrupted call is
    continued by the next.

    Args:
      folder: where to write; made if absent.
      settings: of the data set.

    Returns:
      The folder.

    Raises:
      UserError: the folder has other contents.
    """
    folder = Path(folder)
    marker, arguments = folder / _MARKER, dataclasses.asdict(settings)
    if claim(marker, arguments, foreign=_FOREIGN, other=_OTHER):
        return folder
    (folder / "videos").mkdir(exist_ok=True)
    jobs = [
        (split, index)
        for split, count in (("val", settings.num_train), ("test", settings.num_test))
        for index in range(count)
    ]
    write = functools.partial(_write_video, folder, settings)
    segments: dict[tuple[str, int], tuple[Segment, ...]] = {}
    with workers.progress_bar("making videos", len(jobs)) as progress:
        for job, outcome in workers.each(write, jobs):
            if isinstance(outcome, UserError):
                raise outcome
            segments[job] = outcome
            progress(1)
    _write_annotations(folder, settings, segments)
    complete(marker, arguments)
    return folder


def _name(split: str, index: int) -> str:
    return f"{_PREFIXES[split]}_{index:07d}"


def _write_video(folder: Path, settings: Untrimmed, job: tuple[str, int]) -> tuple[Segment, ...]:
    frames, segments = video(settings, *job)
    path = folder / "videos" / f"{_name(*job)}.mp4"
    if not path.exists():
        scenes.encode(path, frames, _FPS)
    return segments


def _write_annotations(
    folder: Path, settings: Untrimmed, segments: dict[tuple[str, int], tuple[Segment, ...]]
) -> None:
    names = "".join(f"{number} {name}\n" for number, name in enumerate(motion.CLASSES, 1))
    write_whole(folder / "Class Index_Detection.txt", names)
    database = {}
    for split in _PREFIXES:
        own = {_name(*job): found for job, found in segments.items() if job[0] == split}
        rows = ["video,type,type_idx,start,end,startFrame,endFrame"]
        rows += [row for name, found in own.items() for row in _rows(name, found)]
        write_whole(folder / f"{split}_Annotation_ours.csv", "\n".join(rows) + "\n")
        rows = ["video,fps,sample_fps,count,sample_count"]
        for index, name in enumerate(own):
            count = _beginning(settings, split, index)[1] * _FPS
            sampled = int(count * SAMPLE_RATE / _FPS)
            rows.append(f"{name},{_FPS:.1f},{SAMPLE_RATE},{count:.1f},{sampled}")
        write_whole(folder / f"{split}_video_info.csv", "\n".join(rows) + "\n")
        for name, found in own.items():
            instances = [
                {"segment": [str(s.start), str(s.end)], "label": motion.CLASSES[s.label]}
                for s in found
            ]
            database[name] = {"subset": _SUBSETS[split], "annotations": instances}
    write_whole(folder / "thumos_gt.json", json.dumps({"database": database}))


def _beginning(settings: Untrimmed, split: str, index: int) -> tuple[np.random.Generator, int]:
    """The generator of a video, and the length in seconds that is drawn from it first."""
    rng = np.random.default_rng([settings.seed, ("val", "test").index(split), index, _FPS])
    low, high = settings.seconds
    return rng, int(rng.integers(low, high + 1))


def _rows(name: str, segments: Sequence[Segment]) -> Iterator[str]:
    for s in segments:
        frames = round(s.start * _FPS), round(s.end * _FPS)
        label = f"{motion.CLASSES[s.label]},{s.label + 1}"
        yield f"{name},{label},{s.start},{s.end},{frames[0]},{frames[1]}"
