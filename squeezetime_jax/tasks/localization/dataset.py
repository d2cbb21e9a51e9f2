"""The videos of a data set at 10 frames a second, and the windows that are trained and tested on.

Videos are read straight from files, or from arrays that are prepared once.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8
from PIL import Image

from squeezetime_jax.data import video, workers
from squeezetime_jax.data.batches import Sample, UnreadableRecord, pad_rows
from squeezetime_jax.data.sources import VIDEO_SUFFIXES
from squeezetime_jax.data.tables import PathLike
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import (
    SAMPLE_RATE,
    Annotations,
    VideoFacts,
    read_annotations,
)
from squeezetime_jax.tasks.localization.config import Data, Experiment, Window
from squeezetime_jax.training.task import TrainingSet

Image8 = UInt8[np.ndarray, "side side 3"]


# Frames of videos.


def repeats(fps: float) -> Iterator[int]:
    """How often each native frame in turn is taken: the reference's counting, 10 a second.

    From 30 frames a second it takes numbers 2, 5, 8, ... (from 0), of 25 2, 4, 7, 9, 12, ... The
    reference has no video below 10 frames a second; there frames are taken more than once.
    """
    step = fps / SAMPLE_RATE
    waiting = 0.0
    while True:
        waiting += 1
        taken = 0
        while waiting >= step:
            waiting -= step
            taken += 1
        yield taken


def num_sampled(num_frames: int, fps: float) -> int:
    """Number of frames at the sampled rate."""
    return sum(itertools.islice(repeats(fps), num_frames))


def stream(path: PathLike, side: int, fps: float | None = None) -> Iterator[Image8]:
    """The frames of a file at 10 a second, one at a time, in memory that does not grow.

    Frames are resized to a square, whatever their shape, by Pillow's bicubic, as the reference.

    Args:
      path: the video.
      side: of the square.
      fps: native frames per second, where a table says; None: the file's own.

    Raises:
      VideoError: it cannot be read as a video, or its frame rate is unknown.
    """
    if fps is None:
        fps = video.probe(path).fps
        if not 0.1 <= fps <= 1000:
            raise video.VideoError(
                f"{path}: expected 0.1 to 1000 frames per second, got {fps:g}; encode it again"
            )
    for frame, taken in zip(video.stream(path), repeats(fps), strict=False):
        if taken:
            if frame.shape[:2] != (side, side):
                image = Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
                frame = np.asarray(image)
            yield from itertools.repeat(frame, taken)


def find_video(folder: PathLike, name: str) -> Path:
    """The file of a video, by its name without suffix.

    Raises:
      UserError: there is none.
    """
    for suffix in sorted(VIDEO_SUFFIXES):
        path = Path(folder) / f"{name}{suffix}"
        if path.is_file():
            return path
    raise UserError(
        f"{folder}: video {name} not found with any suffix such as .mp4; set data.videos, or"
        " data.arrays to a folder of prepared arrays"
    )


def read_array(folder: PathLike, name: str, side: int) -> UInt8[np.ndarray, "t side side 3"]:
    """A prepared video, mapped from its file and not read yet.

    Raises:
      UserError: there is none, or it is not an array of such frames.
    """
    path = Path(folder) / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read as a prepared video ({reason})") from error
    if array.dtype != np.uint8 or array.shape[1:] != (side, side, 3) or not len(array):
        raise UserError(
            f"{path}: expected uint8 (frames, {side}, {side}, 3), got {array.dtype} {array.shape};"
            " prepare it again or change window.stored_side"
        )
    return array


def write_array(data: Data, side: int, item: tuple[str, VideoFacts]) -> int:
    """Prepare one video; returns its number of frames.

    Raises:
      UserError: it cannot be read, or its length differs from the table's.
    """
    name, facts = item
    source = find_video(data.videos, name)
    with video.Video(source) as opened:
        count = num_sampled(opened.num_frames, facts.fps)
    if not count or abs(count - facts.sample_count) > 2 + 0.02 * facts.sample_count:
        raise UserError(
            f"{source}: {count} frames at {SAMPLE_RATE:g} per second, but the video table says"
            f" {facts.sample_count}; use the file of the data set"
        )
    path = Path(data.arrays) / f"{name}.npy"
    part = path.with_suffix(".part")
    shape = (count, side, side, 3)
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    frames = itertools.islice(stream(source, side, facts.fps), count)
    for number, frame in enumerate(frames):
        array[number] = frame
    array[number + 1 :] = frame  # the last one takes the place of frames that do not decode
    array.flush()
    part.replace(path)
    return count


def write_arrays(facts: Mapping[str, VideoFacts], data: Data, side: int) -> None:
    """Prepare the videos that have no array yet, many at once.

    Args:
      facts: the videos by name.
      data: folders of the videos and the arrays; the latter is made if absent.
      side: of the frames.

    Raises:
      UserError: a video cannot be read.
    """
    arrays = Path(data.arrays)
    missing = [item for item in facts.items() if not (arrays / f"{item[0]}.npy").is_file()]
    if not missing:
        return
    arrays.mkdir(parents=True, exist_ok=True)
    write = functools.partial(write_array, data, side)
    with workers.progress_bar("decoding videos", len(missing)) as progress:
        for _, outcome in workers.each(write, missing, data.workers or None):
            if isinstance(outcome, UserError):
                raise outcome
            progress(1)


# Windows of videos.


@dataclasses.dataclass(frozen=True)
class TrainingWindow:
    """A window and the instances in it.

    Attributes:
      video: its name.
      offset: its first frame, at the sampled rate.
      segments: start and end of each instance, in frames of the window.
      classes: ids from 1.
    """

    video: str
    offset: int
    segments: Float32[np.ndarray, "n 2"]
    classes: Int32[np.ndarray, " n"]


def offsets(num_frames: int, length: int, stride: int) -> list[int]:
    """First frames of the windows over a video; the last window ends where the video does.

    A video shorter than a window has one window, at 0.
    """
    last = max(num_frames - length, 0)
    return [*range(0, last, stride), last]


def instances_of(
    annotations: Annotations, name: str, time_base: Literal["frames", "seconds"]
) -> Float32[np.ndarray, "n 2"]:
    """Segments of a video's instances in sampled frames, not rounded.

    Args:
      annotations: of the split.
      name: of the video.
      time_base: "frames": native frames times `sample_count / count`, as the reference; "seconds":
        seconds times 10.
    """
    facts = annotations.videos[name]
    ratio = facts.sample_count / facts.count
    rows = [
        [frame * ratio for frame in instance.frames]
        if time_base == "frames"
        else [second * SAMPLE_RATE for second in instance.seconds]
        for instance in annotations.instances[name]
    ]
    return np.array(rows, np.float32).reshape(-1, 2)


def training_windows(
    annotations: Annotations,
    *,
    length: int = 256,
    stride: int = 30,
    time_base: Literal["frames", "seconds"] = "frames",
) -> list[TrainingWindow]:
    """The windows of a split that contain at least one whole instance.

    An instance belongs to a window that contains at least half of it, and is cut at the window's
    ends. The reference counts a window's frames from 1 here, so that segments lie in [1, length]
    and an instance that starts at frame 0 is never whole.
    """
    windows = []
    for name, facts in annotations.videos.items():
        segments = instances_of(annotations, name, time_base)
        classes = np.array([each.class_id for each in annotations.instances[name]], np.int32)
        for offset in offsets(facts.sample_count, length, stride):
            start, end = segments.T
            inside = np.minimum(offset + length, end) - np.maximum(offset + 1, start)
            share = inside / (end - start)
            if not (share >= 1).any():
                continue
            kept = share >= 0.5
            cut = np.clip(segments[kept] - np.float32(offset), 1, length)
            windows.append(TrainingWindow(name, offset, cut, classes[kept]))
    return windows


def clip_indices(window: Window, clip_len: int) -> Int[np.ndarray, "clips t"]:
    """Frames of a window in each of its clips; -1 is a grey frame.

    Windows of clips of 16 frames at stride 8 start 4 frames before the window: clip i is centred on
    frame 8 i + 4, where the prior of its cell is.
    """
    start = window.clip_stride * np.arange(window.num_clips)[:, None] - window.padding[0]
    frames = start + np.arange(clip_len)
    if window.padding_mode == "edge":
        return np.clip(frames, 0, window.num_frames - 1)
    return np.where((frames >= 0) & (frames < window.num_frames), frames, -1)


class TrainingWindows(TrainingSet):
    """The training windows of an experiment.

    Args:
      experiment: the run.
      data: where the files are; the arrays are read later.

    Attributes:
      videos: facts of the videos that have a window, by name.

    Raises:
      UserError: the annotations are invalid or do not fit the network; a window is too crowded.
    """

    def __init__(self, experiment: Experiment, data: Data):
        self._settings, self._arrays = experiment.window, data.arrays
        self._max_instances = data.max_instances
        annotations = read_annotations(data.annotations, "val")
        self.labels = list(annotations.class_names)
        if experiment.model.num_classes != len(self.labels):
            raise UserError(
                f"config: model.num_classes is {experiment.model.num_classes}, but the annotations"
                f" have {len(self.labels)} classes; set --config.model.num_classes="
                f"{len(self.labels)}"
            )
        self._windows = training_windows(
            annotations,
            length=self._settings.num_frames,
            stride=data.stride,
            time_base=data.time_base,
        )
        for window in self._windows:
            if len(window.classes) > self._max_instances:
                raise UserError(
                    f"config: data.max_instances is {self._max_instances}, but the window of"
                    f" {window.video} from frame {window.offset} has {len(window.classes)}"
                    " instances; increase it"
                )
        names = dict.fromkeys(window.video for window in self._windows)
        self.videos = {name: annotations.videos[name] for name in names}

    def __len__(self) -> int:
        return len(self._windows)

    def contents(self) -> Any:
        """The windows with their instances."""
        return [vars(window) for window in self._windows], self.labels

    def read(self, record: int, rng: np.random.Generator | None = None) -> Sample:
        """The frames of a window, uncropped, and the instances in it; nothing is random here."""
        window, side = self._windows[record], self._settings.stored_side
        try:
            frames = read_array(self._arrays, window.video, side)
            part = frames[window.offset : window.offset + self._settings.num_frames]
        except UserError as error:
            raise UnreadableRecord(window.video, str(error)) from None
        return {
            "frames": pad_rows(part, self._settings.num_frames),
            "num_frames": np.int32(len(part)),
            "segments": pad_rows(window.segments, self._max_instances),
            "classes": pad_rows(window.classes, self._max_instances),
        }
