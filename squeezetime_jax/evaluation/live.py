"""Recognition of frames as they arrive: a camera, a network stream, or a file played through.

A window of the latest frames slides along; every few frames the network scores the clip in it, and
the scores are smoothed over time. The clip is the same as a test clip of a file: the same interval,
resize and centre crop.
"""

import collections
import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator

import av
import cv2
import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.data.packets import VideoError
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.evaluation.views import Scorer

_CAMERA = re.compile(r"camera(?::(\d+))?|/dev/video(\d+)", re.IGNORECASE)
# Where frames come at the pace of the world: those that come while the network works are let go.
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
_TIMEOUT_SECONDS = 10.0
_SMOOTHING = 0.5  # share of the newest window in the running mean


@dataclasses.dataclass(frozen=True)
class Moment:
    """Scores of the window that ends at a moment.

    Attributes:
      frame: number of the window's last frame.
      seconds: of the stream, at that frame.
      scores: (classes,), smoothed over time.
    """

    frame: int
    seconds: float
    scores: Float[np.ndarray, " classes"]


def recognise(scorer: Scorer, location: str, protocol: ViewProtocol) -> Iterator[Moment]:
    """Score a stream's windows as its frames arrive; ends with the stream.

    Args:
      scorer: the network.
      location: `camera`, `camera:1`, `/dev/video1`, or a URL that FFmpeg opens.
      protocol: sizes of the clip; its number of views is taken for one.

    Raises:
      VideoError: the stream cannot be opened, or breaks before one window is full.
    """
    window = _Window(protocol)
    step = max(window.frames.maxlen // 4, 1)  # type: ignore[operator]
    scores: np.ndarray | None = None
    due = window.frames.maxlen
    assert due is not None
    for number, seconds in window.fill(location):
        if number + 1 < due:
            continue
        due = number + 1 + step
        now = np.asarray(scorer.scores(window.clip()[None, None])[0])
        scores = now if scores is None else _SMOOTHING * now + (1 - _SMOOTHING) * scores
        yield Moment(number, seconds, scores)
    if scores is None:
        raise VideoError(
            f"{location}: ended after {window.count} frames, fewer than the {window.frames.maxlen}"
            " of a clip; give a longer stream, or the file without `file://`"
        )


class _Window:
    """The latest frames, resized and cropped."""

    def __init__(self, protocol: ViewProtocol) -> None:
        self._protocol = protocol
        self._interval = protocol.frame_interval or 4
        span = (protocol.num_frames - 1) * self._interval + 1
        self.frames: collections.deque[np.ndarray] = collections.deque(maxlen=span)
        self.count = 0

    def clip(self) -> UInt8[np.ndarray, "t size size 3"]:
        """The frames that make a clip now."""
        return np.stack(list(self.frames)[:: self._interval])

    def fill(self, location: str) -> Iterator[tuple[int, float]]:
        """Take in the frames of a stream; (number, seconds) of each, or of the latest."""
        frames = _frames(location)
        if not _is_live(location):
            for number, (seconds, image) in enumerate(frames):
                self._take(image)
                yield number, seconds
            return
        with _Latest(frames) as latest:
            for images, seconds in latest:
                for image in images:
                    self._take(image)
                yield self.count - 1, seconds

    def _take(self, image: np.ndarray) -> None:
        resized = transforms.resize_short_side(image, self._protocol.short_side)
        self.frames.append(transforms.center_crop(resized, self._protocol.crop_size).copy())
        self.count += 1


class _Latest:
    """Reads a stream in a thread, so that a slow network never falls behind it.

    Gives all frames since the last time, at most as many as half a minute has.
    """

    def __init__(self, frames: Iterator[tuple[float, np.ndarray]]) -> None:
        self._frames = frames
        self._new: collections.deque[tuple[float, np.ndarray]] = collections.deque(maxlen=900)
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def __enter__(self) -> "_Latest":
        threading.Thread(target=self._read, name="stream", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True

    def _read(self) -> None:
        try:
            for item in self._frames:
                with self._changed:
                    self._new.append(item)
                    self._changed.notify()
                if self._ended:
                    return
        except BaseException as error:  # to be raised where frames are asked for
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], float]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._ended)
                taken = list(self._new)
                self._new.clear()
            if taken:
                yield [image for _, image in taken], taken[-1][0]
            elif self._error is not None:
                raise self._error
            else:
                return


def _is_live(location: str) -> bool:
    return bool(_CAMERA.fullmatch(location)) or location.split(":")[0].lower() in _LIVE


def _frames(location: str) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """(seconds, RGB frame) of a stream."""
    camera = _CAMERA.fullmatch(location)
    if camera:
        yield from _camera_frames(location, int(camera[1] or camera[2] or 0))
        return
    try:
        # The user named this address: unlike files from lists, it may be on the network.
        with av.open(location, timeout=_TIMEOUT_SECONDS) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            for frame in container.decode(stream):
                yield float(frame.time or 0.0), frame.to_ndarray(format="rgb24")
    except IndexError:
        raise VideoError(f"{location}: holds no video stream; check the address") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{location}: cannot be read ({reason}); check the address and that it is being served"
        ) from error


def _camera_frames(location: str, number: int) -> Iterator[tuple[float, np.ndarray]]:
    # OpenCV, not PyAV: it finds cameras by number on Linux, macOS and Windows alike.
    with _silent_opencv():
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise VideoError(
                f"{location}: found no camera number {number}; connect one, allow access to it, or"
                " give another number (camera:1), a file or a stream's URL"
            )
        start = cv2.getTickCount()
        while True:
            is_read, image = camera.read()
            if not is_read:
                raise VideoError(f"{location}: gives no more frames; is it still connected?")
            seconds = (cv2.getTickCount() - start) / cv2.getTickFrequency()
            yield seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """OpenCV writes lines of its own about a missing camera; ours says it in one."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
