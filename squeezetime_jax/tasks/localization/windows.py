"""Which windows of a video are trained and tested on; pure functions of numbers (released AFSD)."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, Int32

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE, Annotations
from squeezetime_jax.tasks.localization.config import Window


@dataclasses.dataclass(frozen=True)
class TrainingWindow:
    """A window with what happens in it.

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
    if num_frames <= length:
        return [0]
    found = list(range(0, num_frames - length + 1, stride))
    last = num_frames - length
    return found if found[-1] == last else [*found, last]


def instances_of(
    annotations: Annotations, video: str, time_base: Literal["frames", "seconds"]
) -> Float32[np.ndarray, "n 2"]:
    """Segments of a video's instances in sampled frames, not rounded.

    Args:
      annotations: of the split.
      video: its name.
      time_base: "frames": native frames times `sample_count / count`, as the reference; "seconds":
        seconds times 10.
    """
    facts = annotations.videos[video]
    ratio = facts.sample_count / facts.count
    rows = [
        [frame * ratio for frame in instance.frames]
        if time_base == "frames"
        else [second * SAMPLE_RATE for second in instance.seconds]
        for instance in annotations.instances[video]
    ]
    return np.array(rows, np.float32).reshape(-1, 2)


def training_windows(
    annotations: Annotations,
    *,
    length: int = 256,
    stride: int = 30,
    time_base: Literal["frames", "seconds"] = "frames",
) -> list[TrainingWindow]:
    """The windows of a split that hold at least one instance whole.

    An instance belongs to a window that holds at least half of it, and is cut at the window's ends.
    The reference counts a window's frames from 1 here, so that segments lie in [1, length] and an
    instance from frame 0 on is never whole.
    """
    found = []
    for video, facts in annotations.videos.items():
        segments = instances_of(annotations, video, time_base)
        classes = np.array([each.class_id for each in annotations.instances[video]], np.int32)
        for offset in offsets(facts.sample_count, length, stride):
            start, end = segments.T
            inside = np.minimum(offset + length, end) - np.maximum(offset + 1, start)
            share = inside / (end - start)
            if not (share >= 1).any():
                continue
            kept = share >= 0.5
            cut = np.clip(segments[kept] - np.float32(offset), 1, length)
            found.append(TrainingWindow(video, offset, cut, classes[kept]))
    return found


def check_crowding(windows: list[TrainingWindow], most: int) -> None:
    """Refuse windows with more instances than a batch has room for.

    Raises:
      UserError: naming the window.
    """
    for window in windows:
        if len(window.classes) > most:
            raise UserError(
                f"config: data.max_instances is {most}, but the window of {window.video} from frame"
                f" {window.offset} has {len(window.classes)} instances; raise it"
            )


def clip_indices(window: Window, clip_len: int) -> Int[np.ndarray, "clips t"]:
    """Frames of a window that make each of its clips; -1 is a grey frame.

    The windows of 16 frames at stride 8 start 4 frames before the window: clip i is centred on
    frame 8 i + 4, where the prior of its cell is.
    """
    start = window.clip_stride * np.arange(window.num_clips)[:, None] - window.padding[0]
    frames = start + np.arange(clip_len)
    if window.padding_mode == "edge":
        return np.clip(frames, 0, window.num_frames - 1)
    return np.where((frames >= 0) & (frames < window.num_frames), frames, -1)
