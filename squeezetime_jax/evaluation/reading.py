"""Views of many videos: read by this process or by others, and scored in full batches.

Other processes import this module, which therefore does without JAX.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms, workers
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.machine import available_cpus

Row = TypeVar("Row")

# Frame interval of windows of a network whose clips are spread over the whole video.
INTERVAL = 4

# Fewer videos are read by this process: the others take a second or two to start.
_FEW = 16
# A decoder gets so many seconds, and more for each megabyte of the file, before it counts as hung.
_SECONDS, _SECONDS_PER_MB = 300.0, 0.1
# Views that wait for the network, in bytes; more are not read ahead.
_WAITING_BYTES = 2 << 30
# Windows that one process reads at once: so many spans of a clip, within these limits.
_SPANS, _MIN_WINDOWS, _MAX_WINDOWS = 8, 16, 128


@dataclasses.dataclass(frozen=True)
class Reading:
    """The views of a video, or why there are none.

    Attributes:
      path: as the user gave it.
      views: (views, t, size, size, 3), 0..255; None if the video cannot be read.
      error: the reason, in one line.
      seconds: time of each frame of the middle clip.
    """

    path: str
    views: UInt8[np.ndarray, "views t h w 3"] | None
    error: str = ""
    seconds: Float[np.ndarray, " t"] | None = None


def read_videos(
    paths: Sequence[str], protocol: ViewProtocol, processes: int | None = None
) -> Iterator[Reading]:
    """Read videos in order, many at once in processes of their own.

    A video that crashes its decoder, or keeps it busy for minutes, costs only itself.

    Args:
      paths: the files.
      protocol: which views.
      processes: how many; 0: none, this process reads; None: one per available processor where
        there are many videos.
    """
    if processes is None:
        processes = available_cpus() if len(paths) >= _FEW else 0
    if not processes:
        yield from read_ahead(paths, protocol)
        return
    size = protocol.num_views * protocol.num_frames * protocol.crop_size**2 * 3
    ahead = max(min(4 * processes, _WAITING_BYTES // size), processes + 1)
    read = functools.partial(_read, protocol=protocol, threads=1)
    for path, found in workers.each(read, paths, processes, seconds=seconds_for, ahead=ahead):
        yield Reading(path, None, str(found)) if isinstance(found, UserError) else found


def read_ahead(paths: Iterable[str], protocol: ViewProtocol) -> Iterator[Reading]:
    """Read videos in order, each by all processors while the one before is scored."""

    def read(path: str) -> Reading:
        try:
            threads = available_cpus()
            limit = seconds_for(path)
            return workers.limited(_read, path, protocol, threads, name=path, seconds=limit)
        except UserError as error:
            return Reading(path, None, f"{error}")

    readings = map(read, paths)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, readings, None)
        while (reading := coming.result()) is not None:
            coming = pool.submit(next, readings, None)
            yield reading


def _read(path: str, protocol: ViewProtocol, threads: int) -> Reading:
    try:
        with Video(path, threads=threads) as video:
            views = transforms.views(video, protocol)
            return Reading(path, views, seconds=_middle_clip(video, protocol))
    except UserError as error:
        return Reading(path, None, str(error))


def _middle_clip(video: Video, protocol: ViewProtocol) -> Float[np.ndarray, " t"]:
    """When the frames of the middle clip are shown, in seconds."""
    clips = protocol.indices(transforms.at_rate(video, protocol.target_fps).num_frames)
    frames = clips[protocol.num_clips // 2]
    return frames / protocol.target_fps if protocol.target_fps else video.times[frames]


def seconds_for(path: str) -> float:
    """The time limit of reading from a file; a decoder that takes longer hangs."""
    try:
        size = os.stat(path).st_size
    except OSError:
        size = 0
    return _SECONDS + _SECONDS_PER_MB * size / 1e6


@dataclasses.dataclass(frozen=True)
class Step:
    """The distance of the windows of a long video.

    Attributes:
      length: in seconds or in frames.
      in_frames: in which.
    """

    length: float
    in_frames: bool = False

    @classmethod
    def parse(cls, text: str) -> "Step":
        """Seconds ("0.5") or frames ("8f").

        Raises:
          UserError: it is neither.
        """
        number, in_frames = text.removesuffix("f"), text.endswith("f")
        try:
            length = float(int(number) if in_frames else float(number))
        except ValueError:
            length = 0.0
        if not 0 < length < 1e6:
            raise UserError(
                f"--every {text}: expected seconds, such as 0.5, or a number of frames, such as 8f"
            )
        return cls(length, in_frames)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Some consecutive windows of a video: clips at a fixed step.

    Attributes:
      path: of the video.
      first: number of the first of them.
      total: windows of the whole video.
      frames: the frames of all of them, each once, (m, size, size, 3).
      places: (windows, t), where in `frames` the frames of each window are.
      seconds: (windows,), when the first frame of each is shown.
      span: seconds from the first frame of a window to its last.
    """

    path: str
    first: int
    total: int
    frames: UInt8[np.ndarray, "m size size 3"]
    places: np.ndarray
    seconds: Float[np.ndarray, " windows"]
    span: float


_Piece = tuple[str, int]


class _Pieces:
    """(path, first window) of what is to be read; grows when the length of a video is known."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = iter(paths)
        self.found: collections.deque[_Piece] = collections.deque()

    def __iter__(self) -> "_Pieces":
        return self

    def __next__(self) -> _Piece:
        return self.found.popleft() if self.found else (next(self._paths), 0)


def read_windows(
    paths: Iterable[str], protocol: ViewProtocol, step: Step, processes: int | None = None
) -> Iterator[Windows | Reading]:
    """The windows of videos, in parts that fit in memory; parts of several videos may take turns.

    Window i begins `i * step` after the first frame, and all lie within the video; a video that is
    shorter than a window has one, which repeats the last frame.

    Args:
      paths: the files.
      protocol: sizes, interval and rate of the clips; each has one centre crop.
      step: from one window to the next.
      processes: how many; 0: none, this process reads; None: one per available processor.

    Yields:
      Windows, or a `Reading` with the error of a video that cannot be read.
    """
    pieces = _Pieces(paths)
    read = functools.partial(_read_piece, protocol=protocol, step=step)
    if processes == 0:
        results: Iterable = workers.here(read, pieces)
    else:
        limit = seconds_for
        results = workers.each(
            read,
            pieces,
            processes or available_cpus(),
            name=lambda piece: piece[0],
            seconds=lambda piece: limit(piece[0]),
            ahead=2 * (processes or available_cpus()),
        )
    for (path, first), found in results:
        if isinstance(found, UserError):
            yield Reading(path, None, str(found))
            continue
        if first == 0:
            size = len(found.places)
            pieces.found.extend((path, start) for start in range(size, found.total, size))
        yield found


def _read_piece(piece: _Piece, protocol: ViewProtocol, step: Step) -> Windows:
    path, first = piece
    with Video(path) as video:
        source = transforms.at_rate(video, protocol.target_fps)
        rate = protocol.target_fps or _mean_rate(video)
        interval = protocol.frame_interval or INTERVAL
        stride = step.length if step.in_frames else step.length * rate
        reach = (protocol.num_frames - 1) * interval  # from a clip's first frame to its last
        total = int(max(source.num_frames - 1 - reach, 0) / stride + 1e-6) + 1
        count = round(np.clip(_SPANS * reach / stride, _MIN_WINDOWS, _MAX_WINDOWS))
        starts = np.round(np.arange(first, min(first + count, total)) * stride).astype(np.int64)
        numbers = starts[:, None] + interval * np.arange(protocol.num_frames)
        numbers = np.minimum(numbers, source.num_frames - 1)
        distinct, places = np.unique(numbers, return_inverse=True)
        frames = source.frames(distinct, short_side=protocol.short_side)
        return Windows(
            path,
            first,
            total,
            np.ascontiguousarray(transforms.center_crop(frames, protocol.crop_size)),
            places.reshape(numbers.shape),
            starts / rate,
            reach / rate,
        )


def _mean_rate(video: Video) -> float:
    last = float(video.times[-1])
    return (video.num_frames - 1) / last if last > 0 else 30.0


def in_batches(
    rows: Iterable[tuple[Row, UInt8[np.ndarray, "views t h w 3"] | None]],
    compute: Callable[[np.ndarray], Any],
    size: int,
) -> Iterator[tuple[Row, Any]]:
    """The network's outputs of rows, computed in batches of one size.

    Args:
      rows: what a row is, and its views, all of one shape; None: there is nothing to compute.
      compute: outputs (n, ...) of views (n, views, t, h, w, 3), RGB, 0..255.
      size: rows of a batch. The last is filled with zeros, if there was another, so that no program
        is compiled for its size alone.

    Yields:
      What a row is, and its output or None, in order.
    """
    waiting: list[tuple[Row, np.ndarray | None]] = []
    was_full = False

    def flush() -> Iterator[tuple[Row, Any]]:
        views = [view for _, view in waiting if view is not None]
        if views and was_full:
            views += [np.zeros_like(views[0])] * (size - len(views))
        outputs = iter(np.asarray(compute(np.stack(views))) if views else ())
        for key, view in waiting:
            yield key, None if view is None else next(outputs)

    for row in rows:
        waiting.append(row)
        is_full = sum(view is not None for _, view in waiting) == size
        if is_full or size == 1:
            yield from flush()
            was_full = was_full or is_full
            waiting = []
    if waiting:
        yield from flush()
