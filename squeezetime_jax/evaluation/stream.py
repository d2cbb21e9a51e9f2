"""Scores of frames as they arrive: from a program, a camera, a network stream or a file.

A window of the latest frames is scored at every hop. Its clip is the same as a test clip of a file:
the same interval, in frames or in time, the same resize and centre crop.
"""

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms, video
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.video import TimedFrame, VideoError
from squeezetime_jax.errors import count
from squeezetime_jax.evaluation.reading import INTERVAL
from squeezetime_jax.evaluation.views import RuntimeScorer, Sampling, Scorer

_CAMERA = re.compile(r"camera(?::(\d+))?|/dev/video(\d+)", re.IGNORECASE)
# Protocols whose frames arrive in real time: those that arrive while the network works are dropped.
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
_TIMEOUT_SECONDS = 10.0
_ROUNDING = 1e-6  # seconds
_SMOOTHING = 0.5  # of `recognise`: weight of the newest window in the running mean


@dataclasses.dataclass(frozen=True)
class Moment:
    """Scores of a window.

    Attributes:
      frame: number of the window's last frame, from 0.
      seconds: time of that frame in the stream.
      scores: (classes,), summing to 1.
    """

    frame: int
    seconds: float
    scores: Float[np.ndarray, " classes"]


class Stream:
    """Takes frames one at a time and gives scores at every hop.

    It keeps the window's frames, resized and cropped, and no others.

    Examples:
      >>> import numpy as np
      >>> import squeezetime_jax as st
      >>> from flax import nnx
      >>> from squeezetime_jax.evaluation.views import Sampling
      >>> model = st.SqueezeTime(st.SqueezeTimeConfig.tiny(), nnx.Rngs(0))
      >>> model.eval()
      >>> small = Sampling(one_crop_side=32, crop_size=32, frame_interval=2)
      >>> stream = st.Stream(model, sampling=small, hop=2)
      >>> frames = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), np.uint8)
      >>> [moment.frame for moment in map(stream.push, frames) if moment]
      [6, 8, 10]

    Args:
      model: a network of the register in evaluation mode, or its scorer.
      sampling: sizes of the clip and its frame interval; by default those that the network expects.
        It is required with a `RuntimeScorer`.
      num_frames: frames of a clip; by default the network's. It is required with a `RuntimeScorer`.
      hop: frames from one scored window to the next, at the rate of `sampling.fps` if it has one;
        by default a quarter of the window.
      smoothing: weight of the newest window in the running mean of the scores; 1: no mean.

    Raises:
      ValueError: an argument is invalid.
    """

    def __init__(
        self,
        model: Any,
        *,
        sampling: Sampling | None = None,
        num_frames: int | None = None,
        hop: int | None = None,
        smoothing: float = 1.0,
    ) -> None:
        if isinstance(model, RuntimeScorer):
            if sampling is None or num_frames is None:
                raise ValueError("sampling and num_frames are required with a RuntimeScorer")
        else:
            model = model if isinstance(model, Scorer) else Scorer(model)
            sampling = sampling or model.sampling
            num_frames = num_frames or model.config.num_frames
        if hop is not None and hop < 1:
            raise ValueError(f"hop must be at least 1 frame, got {hop}")
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing must be above 0 and at most 1, got {smoothing}")
        self._scorer = model
        self._ring = _Ring(sampling.protocol("1x1", num_frames))
        self._hop = hop or max(self.window // 4, 1)
        self._smoothing = smoothing
        self._due = self.window
        self._scores: np.ndarray | None = None

    @property
    def window(self) -> int:
        """Number of frames from the first to the last of a clip, at the rate of the sampling."""
        return len(self._ring.frames)

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return self._ring.num_added

    @property
    def is_full(self) -> bool:
        """Whether there were enough frames for a clip."""
        return self._ring.count >= self.window

    def push(
        self, frame: UInt8[np.ndarray, "h w 3"], seconds: float | None = None
    ) -> Moment | None:
        """Add the next frame; score the window if a hop is complete.

        Args:
          frame: RGB, 0..255, upright, of any size.
          seconds: its time in the stream. If the sampling has a rate, frames are taken by their
            times; without one, a frame comes `1 / sampling.fps` seconds after the one before.

        Returns:
          The window's scores, or None between two hops.
        """
        self._ring.add(self._ring.prepare(frame), seconds)
        return self._score(*self._ring.clip()) if self._ring.count >= self._due else None

    def follow(
        self, frames: Iterable[tuple[float, UInt8[np.ndarray, "h w 3"]]], *, live: bool
    ) -> Iterator[Moment]:
        """Score a source of frames to its end.

        Args:
          frames: (seconds, RGB frame).
          live: whether frames arrive in real time. They are then read in another thread, and the
            window moves on while the network works: a network that is slower than the source skips
            windows and scores the latest. Otherwise every hop is scored, and the source waits.

        Raises:
          Exception: any that the source raises.
        """
        if not live:
            moments = (self.push(frame, seconds) for seconds, frame in frames)
            yield from (moment for moment in moments if moment)
            return
        reader = _Reader(frames, self._ring)
        try:
            while (clip := reader.clip(self._due)) is not None:
                yield self._score(*clip)
        finally:
            reader.stop()

    def _score(self, clip: np.ndarray, count: int, number: int, seconds: float) -> Moment:
        self._due = count + self._hop
        scores = np.asarray(self._scorer.scores(clip[None, None])[0])
        if self._scores is not None:
            scores = self._smoothing * scores + (1 - self._smoothing) * self._scores
        self._scores = scores
        return Moment(number, seconds, scores)


class _Ring:
    """The window's frames, at the rate of the protocol; a new frame replaces the oldest.

    Place k of an even grid of times gets the frame that is nearest to it, as in a file
    (`transforms.AtRate`), so that several places may get one frame, or a frame none.

    Attributes:
      frames: the window.
      count: places that have their frame.
      num_added: frames of the source.
    """

    def __init__(self, protocol: ViewProtocol) -> None:
        self._protocol = protocol
        self._interval = protocol.frame_interval or INTERVAL
        self._fps = protocol.target_fps
        span = (protocol.num_frames - 1) * self._interval + 1
        self.frames = np.empty((span, protocol.crop_size, protocol.crop_size, 3), np.uint8)
        self.count = self.num_added = 0
        self._start = self._seconds = 0.0
        self._last: np.ndarray | None = None

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "size size 3"]:
        resized = transforms.resize_short_side(image, self._protocol.short_side)
        return transforms.center_crop(resized, self._protocol.crop_size)

    def add(self, frame: UInt8[np.ndarray, "size size 3"], seconds: float | None) -> None:
        """Add a frame at its time; None: one step of the grid after the last."""
        self.num_added += 1
        before, last = self._seconds, self._last
        if seconds is None:
            seconds = before + 1 / self._fps if self._fps and last is not None else before
        self._seconds, self._last = seconds, frame
        if self._fps is None:
            self._put(frame)
        elif last is None or not 0 < seconds - before < self.frames.shape[0] / self._fps:
            # The first frame; or the source began anew, or paused for longer than the window.
            self._start = seconds - self.count / self._fps
            self._put(frame)
        else:
            while (time := self._start + self.count / self._fps) <= seconds + _ROUNDING:
                self._put(frame if seconds - time < time - before - _ROUNDING else last)

    def _put(self, frame: np.ndarray) -> None:
        self.frames[self.count % len(self.frames)] = frame
        self.count += 1

    def clip(self) -> tuple[UInt8[np.ndarray, "t size size 3"], int, int, float]:
        """The window's clip, its count of places, and number and seconds of the latest frame."""
        span = len(self.frames)
        places = (self.count + np.arange(0, span, self._interval)) % span
        return self.frames[places], self.count, self.num_added - 1, self._seconds


class _Reader:
    """Fills a ring from a source in a thread, so that the source never waits for the network."""

    def __init__(self, frames: Iterable[tuple[float, np.ndarray]], ring: _Ring) -> None:
        self._frames, self._ring = frames, ring
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def clip(self, due: int) -> tuple[np.ndarray, int, int, float] | None:
        """The latest clip as soon as `due` frames have arrived; None if the source ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring.count >= due or self._ended)
            if self._ring.count >= due:
                return self._ring.clip()
        if self._error is not None:
            raise self._error
        return None

    def stop(self) -> None:
        """Stop reading the source at its next frame."""
        self._ended = True

    def _read(self) -> None:
        try:
            for seconds, image in self._frames:
                frame = self._ring.prepare(image)
                with self._changed:
                    if self._ended:
                        return
                    self._ring.add(frame, seconds)
                    self._changed.notify()
        except BaseException as error:  # raised again by `clip`
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()


def recognise(
    scorer: Scorer | RuntimeScorer, location: str, protocol: ViewProtocol
) -> Iterator[Moment]:
    """Score the windows of a stream as its frames arrive, smoothed over time, until it ends.

    Args:
      scorer: the network.
      location: `camera`, `camera:1`, `/dev/video1`, or a URL that FFmpeg opens.
      protocol: sizes of the clip; the number of views is not used.

    Raises:
      VideoError: the stream cannot be opened, or ends before one window is full.
    """
    stream = Stream(
        scorer,
        sampling=Sampling.of(protocol),
        num_frames=protocol.num_frames,
        smoothing=_SMOOTHING,
    )
    is_live = bool(_CAMERA.fullmatch(location)) or location.split(":")[0].lower() in _LIVE
    yield from stream.follow(_frames(location), live=is_live)
    if not stream.is_full:
        rate = f" at {protocol.target_fps:g} a second" if protocol.target_fps else ""
        raise VideoError(
            f"{location}: ended after {count(stream.num_frames, 'frame')}, fewer than the"
            f" {stream.window} of a clip{rate}; give a longer stream, or the file without `file://`"
        )


def _frames(location: str) -> Iterator[TimedFrame]:
    """(seconds, RGB frame) of a stream."""
    camera = _CAMERA.fullmatch(location)
    if camera:
        yield from _camera_frames(location, int(camera[1] or camera[2] or 0))
        return
    yield from video.stream_address(location, timeout=_TIMEOUT_SECONDS)


def _camera_frames(location: str, number: int) -> Iterator[tuple[float, np.ndarray]]:
    # OpenCV, not PyAV: it opens cameras by number on Linux, macOS and Windows alike.
    with _silent_opencv():
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise VideoError(
                f"{location}: camera {number} not found; connect it, allow access to it, or give"
                " another number (camera:1), a file or a stream's URL"
            )
        start = cv2.getTickCount()
        while True:
            is_read, image = camera.read()
            if not is_read:
                raise VideoError(f"{location}: no more frames; check that it is still connected")
            seconds = (cv2.getTickCount() - start) / cv2.getTickFrequency()
            yield seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """Without OpenCV's own messages about a missing camera; ours is one line."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
