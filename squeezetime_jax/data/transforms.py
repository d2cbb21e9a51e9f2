"""Clips and views of a video: which frames, and which part of each frame.

Everything follows mmaction2, in which the released model was trained and tested. A clip is one
input of the network, `num_frames` frames; frame numbers past the end of the video wrap round to its
start (`loop` in mmaction2). Frames are uint8 and are resized by OpenCV; what needs floats
(normalisation, colour) happens on the device, in `augment`.

Training: `TrainingClip.cut`. Evaluation: `views`, by a `ViewProtocol`.
"""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

CROP_SCALES = (1.0, 0.875, 0.75, 0.66, 0.5)
NUM_CROPS = (1, 3, 10)  # of a test clip


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
      rng: one number is drawn, even if only one start is possible.

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


def resize_short_side(
    frames: UInt8[np.ndarray, "*t h w 3"], short_side: int
) -> UInt8[np.ndarray, "*t h2 w2 3"]:
    """Resize so that the shorter side is `short_side`; the longer keeps the aspect ratio.

    OpenCV bilinear on uint8, the longer side rounded half up (mmaction2). Frames that already fit
    are returned as they are.
    """
    height, width = frames.shape[-3:-1]
    factor = short_side / min(height, width)
    return resize(frames, int(height * factor + 0.5), int(width * factor + 0.5))


def center_crop(
    frames: UInt8[np.ndarray, "*t h w 3"], size: int
) -> UInt8[np.ndarray, "*t size size 3"]:
    """The middle `size` x `size` square; a view, not a copy."""
    height, width = frames.shape[-3:-1]
    _require_room(height, width, size)
    return crop(frames, (height - size) // 2, (width - size) // 2, size, size)


def three_crops(
    frames: UInt8[np.ndarray, "*t h w 3"], size: int
) -> tuple[UInt8[np.ndarray, "*t size size 3"], ...]:
    """Three squares along the longer side, in mmaction2's order: left/top, right/bottom, middle.

    The shorter side should be `size`. Views, not copies. The offset of the last crop is twice the
    middle's, as in mmaction2, so that it may end one pixel before the edge.
    """
    height, width = frames.shape[-3:-1]
    _require_room(height, width, size)
    down, right = (height - size) // 2, (width - size) // 2
    corners = ((0, 0), (2 * down, 2 * right), (down, right))
    return tuple(crop(frames, top, left, size, size) for top, left in corners)


def ten_crops(
    frames: UInt8[np.ndarray, "*t h w 3"], size: int
) -> tuple[UInt8[np.ndarray, "*t size size 3"], ...]:
    """Squares in the four corners and the middle, each mirrored and as it is; the middle last.

    Corners are at multiples of a quarter of the room, as in mmaction2. Views, not copies.
    """
    height, width = frames.shape[-3:-1]
    _require_room(height, width, size)
    down, right = (height - size) // 4, (width - size) // 4
    places = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
    crops = [crop(frames, i * down, j * right, size, size) for i, j in places]
    return tuple(each for one in crops for each in (one[..., ::-1, :], one))


def multi_scale_crop(
    frames: UInt8[np.ndarray, "t h w 3"], rng: np.random.Generator, size: int = 224
) -> UInt8[np.ndarray, "t {size} {size} 3"]:
    """One random rectangle for the whole clip, resized to `size` x `size` (training).

    Each side is `floor(short side * s)` for s of `CROP_SCALES`, the two sides' scales at most one
    step apart, each allowed pair equally likely; a side less than 3 px from `size` becomes `size`;
    the position is uniform (mmaction2's `MultiScaleCrop`).
    """
    height, width = frames.shape[1:3]
    window = multi_scale_window(height, width, rng, size)
    return resize(crop(frames, *window), size, size)


def multi_scale_window(
    height: int, width: int, rng: np.random.Generator, size: int = 224
) -> tuple[int, int, int, int]:
    """The rectangle that `multi_scale_crop` cuts from frames: top, left, height, width."""
    crop_height, crop_width = _multi_scale_size(min(height, width), rng, size)
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width


def _multi_scale_size(short_side: int, rng: np.random.Generator, size: int) -> tuple[int, int]:
    sides = [int(short_side * scale) for scale in CROP_SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_height, crop_width = pairs[rng.integers(len(pairs))]
    return min(crop_height, short_side), min(crop_width, short_side)


@runtime_checkable
class Frames(Protocol):
    """Frames that can be read by their numbers."""

    @property
    def num_frames(self) -> int:
        """Frames of the video."""

    def frames(
        self, indices: Int[np.ndarray, " t"], *, short_side: int | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of these numbers, RGB, upright."""


@runtime_checkable
class FrameSource(Frames, Protocol):
    """A video whose frames can be read: `video.Video` or `video.FrameSequence`."""

    @property
    def times(self) -> Float[np.ndarray, " frames"]:
        """When each frame is shown, in seconds from the first, ascending."""


class AtRate:
    """A video as if it had another frame rate: frame k is that nearest to `k / fps` seconds.

    Of two that are equally near, it is the earlier one. At the video's own even rate frame k is
    frame k.

    Args:
      video: the frames; at any rate, which may vary.
      fps: frames per second.
    """

    def __init__(self, video: FrameSource, fps: float) -> None:
        self._video, self._fps = video, fps
        times = video.times
        last = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
        self._changes = (times[1:] + times[:-1]) / 2 + 1e-6  # when the next frame is nearer
        self.num_frames = max(round((float(times[-1]) + last) * fps), 1)

    def frames(
        self, indices: Int[np.ndarray, " t"], *, short_side: int | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of these numbers, RGB, upright."""
        numbers = np.searchsorted(self._changes, np.asarray(indices) / self._fps)
        return self._video.frames(numbers, short_side=short_side)


def at_rate(video: FrameSource, fps: float | None) -> Frames:
    """A video as if it had so many frames per second; None: as it is."""
    return video if fps is None else AtRate(video, fps)


@dataclasses.dataclass(frozen=True)
class TrainingClip:
    """How a training clip is cut from a video.

    Attributes:
      num_frames: frames of the clip.
      frame_interval: distance between its frames; None takes one random frame from each of
        `num_frames` equal parts of the video.
      short_side: of the frames after resizing, before the crop.
      size: side of the square clip.
      crop: "multi_scale" as in the published recipe, or "center".
      target_fps: take the clip in time, as if the video had so many frames per second (`AtRate`);
        None counts its frames, whatever its rate, as in the published recipe.
    """

    num_frames: int = 16
    frame_interval: int | None = 4
    short_side: int = 256
    size: int = 224
    crop: Literal["multi_scale", "center"] = "multi_scale"
    target_fps: float | None = None

    def cut(self, video: FrameSource, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
        """Read one random clip of a video.

        Raises:
          VideoError: the video cannot be read.
        """
        source = at_rate(video, self.target_fps)
        if self.frame_interval is None:
            indices = uniform_indices(source.num_frames, self.num_frames, rng=rng)[0]
        else:
            indices = training_indices(
                source.num_frames, self.num_frames, self.frame_interval, rng=rng
            )
        frames = source.frames(indices, short_side=self.short_side)
        if self.crop == "multi_scale":
            return multi_scale_crop(frames, rng, self.size)
        return center_crop(frames, self.size)


@dataclasses.dataclass(frozen=True)
class ViewProtocol:
    """Which views of a video are scored. A view is one (clip, crop) pair.

    Attributes:
      num_clips: clips per video.
      num_crops: 1 (centre), 3 (along the longer side) or 10 (corners and centre, also mirrored).
      short_side: the frames' shorter side after resizing.
      crop_size: side of the square crop.
      num_frames: frames of a clip.
      frame_interval: distance between neighbouring frames; None spreads the clip's frames over the
        whole video instead (one per segment, as on Something-Something).
      target_fps: as in `TrainingClip`.
    """

    num_clips: int
    num_crops: int
    short_side: int
    crop_size: int
    num_frames: int = 16
    frame_interval: int | None = 4
    target_fps: float | None = None

    def __post_init__(self) -> None:
        if self.num_crops not in NUM_CROPS:
            raise ValueError(f"num_crops must be 1 (centre), 3 or 10, got {self.num_crops}")

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.num_clips * self.num_crops

    def indices(self, num_video_frames: int) -> Int[np.ndarray, "clips t"]:
        """Frame numbers of the clips."""
        if self.frame_interval is None:
            return uniform_indices(num_video_frames, self.num_frames, self.num_clips)
        return test_indices(num_video_frames, self.num_clips, self.num_frames, self.frame_interval)


# The Kinetics configs' validation and test protocols, and HMDB51's test (released code).
VALIDATION = ViewProtocol(num_clips=1, num_crops=1, short_side=256, crop_size=224)
KINETICS_TEST = ViewProtocol(num_clips=10, num_crops=3, short_side=224, crop_size=224)
HMDB51_TEST = ViewProtocol(num_clips=2, num_crops=3, short_side=286, crop_size=286)


def views(video: FrameSource, protocol: ViewProtocol) -> UInt8[np.ndarray, "views t size size 3"]:
    """The views of a video; view number = crop * num_clips + clip.

    Each frame is decoded and resized once, however many views share it.
    """
    source = at_rate(video, protocol.target_fps)
    indices = protocol.indices(source.num_frames)
    distinct, inverse = np.unique(indices, return_inverse=True)
    frames = source.frames(distinct, short_side=protocol.short_side)
    crops = _crops(frames, protocol)
    out = np.empty((len(crops), *indices.shape, *crops[0].shape[1:]), np.uint8)
    for crop, crop_views in zip(crops, out, strict=True):
        for place in np.ndindex(indices.shape):  # one copy each; fancy indexing would make two
            crop_views[place] = crop[inverse.reshape(indices.shape)[place]]
    return out.reshape(-1, *out.shape[2:])


def _crops(frames: np.ndarray, protocol: ViewProtocol) -> tuple[np.ndarray, ...]:
    if protocol.num_crops == 1:
        return (center_crop(frames, protocol.crop_size),)
    return (three_crops if protocol.num_crops == 3 else ten_crops)(frames, protocol.crop_size)


def resize(
    frames: UInt8[np.ndarray, "*t h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "*t h2 w2 3"]:
    """Resize to these sides, whatever the aspect ratio; OpenCV bilinear on uint8."""
    if frames.shape[-3:-1] == (height, width):
        return frames
    resized = np.empty((*frames.shape[:-3], height, width, 3), np.uint8)
    flat_in = frames.reshape(-1, *frames.shape[-3:]) if frames.ndim != 4 else frames
    flat_out = resized.reshape(-1, height, width, 3)
    for before, after in zip(flat_in, flat_out, strict=True):
        cv2.resize(before, (width, height), dst=after, interpolation=cv2.INTER_LINEAR)
    return resized


def crop(frames: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A rectangle of frames; a view, not a copy."""
    return frames[..., top : top + height, left : left + width, :]


def _require_frames(num_video_frames: int) -> None:
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames must be at least 1, got {num_video_frames}")


def _require_room(height: int, width: int, size: int) -> None:
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} x {size} is larger than frames of {width} x {height}")
