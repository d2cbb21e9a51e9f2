"""Which frames make a clip: pure functions of integers.

All follow mmaction2, in which the released model was trained and tested. Indices past the end wrap
round to the start (`loop` in mmaction2). "Clip" is one input of the network, `num_frames` frames.
"""

import numpy as np
from jaxtyping import Int


def training_indices(
    num_video_frames: int,
    num_frames: int = 16,
    frame_interval: int = 4,
    *,
    rng: np.random.Generator,
) -> Int[np.ndarray, " t"]:
    """One random clip of frames at a fixed interval.

    The span is `num_frames * frame_interval` (mmaction2's count in training), and the start is
    uniform in `[0, num_video_frames - span]`, or 0 for a video shorter than the span.

    Args:
      num_video_frames: frames of the video, at least 1.
      num_frames: frames of the clip.
      frame_interval: distance in the video between neighbours in the clip.
      rng: makes one draw, also where the start is certain.

    Returns:
      Frame numbers in `[0, num_video_frames)`, int64.
    """
    _require_frames(num_video_frames)
    last_start = max(num_video_frames - num_frames * frame_interval, 0)
    start = rng.integers(last_start + 1)
    return (start + np.arange(num_frames) * frame_interval) % num_video_frames


def test_indices(
    num_video_frames: int,
    num_clips: int,
    num_frames: int = 16,  # noqa: PT028
    frame_interval: int = 4,  # noqa: PT028
) -> Int[np.ndarray, "clips t"]:
    """Clips whose starts are spread evenly over the video; a single clip lies in the middle.

    The span is `(num_frames - 1) * frame_interval + 1` (mmaction2's count in testing: not that of
    training). Starts are rounded half to even.

    Args:
      num_video_frames: frames of the video, at least 1.
      num_clips: clips of the video: 1 for validation, 10 for the Kinetics test, 2 for HMDB51.
      num_frames: frames of a clip.
      frame_interval: distance in the video between neighbours in the clip.

    Returns:
      Frame numbers in `[0, num_video_frames)`, int64.
    """
    _require_frames(num_video_frames)
    last_start = max(num_video_frames - ((num_frames - 1) * frame_interval + 1), 0)
    if num_clips == 1:
        starts = np.array([last_start // 2])
    else:
        step = last_start / (num_clips - 1)
        starts = np.round(np.arange(num_clips) * step).astype(np.int64)
    return (starts[:, None] + np.arange(num_frames) * frame_interval) % num_video_frames


test_indices.__test__ = False  # type: ignore[attr-defined]  # not for pytest to collect


def uniform_indices(
    num_video_frames: int,
    num_frames: int = 16,
    num_clips: int = 1,
    *,
    rng: np.random.Generator | None = None,
) -> Int[np.ndarray, "clips t"]:
    """Frames over the whole video, one from each of `num_frames` equal segments.

    The practice on Something-Something (mmaction2's `UniformSample`). With `rng`, the frame is
    random in its segment (training). Without, clip i of n takes the frame `(i + 1) / (n + 1)` of
    the way through each segment, so that a single clip takes the middle.

    Args:
      num_video_frames: frames of the video, at least 1.
      num_frames: frames of a clip; a shorter video repeats frames.
      num_clips: clips of the video.
      rng: draws one frame per segment and clip.

    Returns:
      Ascending frame numbers in `[0, num_video_frames)`, int64.
    """
    _require_frames(num_video_frames)
    segment = (num_video_frames - 1) / num_frames
    edges = np.round(np.arange(num_frames + 1) * segment).astype(np.int64)
    if rng is not None:
        return rng.integers(edges[:-1], edges[1:], size=(num_clips, num_frames), endpoint=True)
    offsets = (np.arange(1, num_clips + 1) * (segment / (num_clips + 1))).astype(np.int64)
    return edges[None, :-1] + offsets[:, None]


def _require_frames(num_video_frames: int) -> None:
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames is {num_video_frames}; a clip needs at least 1")
