"""Scores of frames as they arrive.

A window of the latest frames slides along; at every hop the network scores the clip in it. The clip
is the same as a test clip of a file: the same interval, resize and centre crop.
"""

import dataclasses
import threading
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.evaluation.views import RuntimeScorer, Sampling, Scorer
from squeezetime_jax.model.squeezetime import SqueezeTime

_INTERVAL = 4  # where clips are spread over the whole video, which a stream has not


@dataclasses.dataclass(frozen=True)
class Moment:
    """Scores of the window that ends at a moment.

    Attributes:
      frame: number of the window's last frame, from 0.
      seconds: of the stream, at that frame.
      scores: (classes,), summing to 1.
    """

    frame: int
    seconds: float
    scores: Float[np.ndarray, " classes"]


class Stream:
    """Takes frames one at a time and gives scores at every hop.

    It holds the window's frames, resized and cropped, and no others.

    Example:
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
      model: the network; or a scorer that is there already.
      sampling: sizes of the clip and its frame interval; by default those of Kinetics.
      num_frames: frames of a clip; by default the model's, and wanted with a scorer.
      hop: frames from one scored window to the next; by default a quarter of the window.
      smoothing: share of the newest window in a running mean of the scores; 1: each by itself.
    """

    def __init__(
        self,
        model: SqueezeTime | Scorer | RuntimeScorer,
        *,
        sampling: Sampling | None = None,
        num_frames: int | None = None,
        hop: int | None = None,
        smoothing: float = 1.0,
    ) -> None:
        if num_frames is None:
            if isinstance(model, RuntimeScorer):
                raise ValueError("num_frames is None; wanted the frames of the runtime's clips")
            num_frames = model.config.num_frames
        if hop is not None and hop < 1:
            raise ValueError(f"hop is {hop}, wanted at least 1 frame")
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing is {smoothing}, wanted above 0 and at most 1")
        self._scorer = Scorer(model) if isinstance(model, SqueezeTime) else model
        self._ring = _Ring((sampling or Sampling()).protocol("1x1", num_frames))
        self._hop = hop or max(self.window // 4, 1)
        self._smoothing = smoothing
        self._due = self.window
        self._scores: np.ndarray | None = None

    @property
    def window(self) -> int:
        """Frames from the first to the last of a clip."""
        return len(self._ring.frames)

    @property
    def num_frames(self) -> int:
        """Frames taken in so far."""
        return self._ring.count

    def push(self, frame: UInt8[np.ndarray, "h w 3"], seconds: float = 0.0) -> Moment | None:
        """Take in the next frame, and score the window if it is due.

        Args:
          frame: RGB, 0..255, upright, of any size.
          seconds: of the stream, for the answer.
        """
        self._ring.add(self._ring.prepare(frame), seconds)
        return self._score(*self._ring.clip()) if self._ring.count >= self._due else None

    def follow(
        self, frames: Iterable[tuple[float, UInt8[np.ndarray, "h w 3"]]], *, live: bool
    ) -> Iterator[Moment]:
        """Score a source of frames to its end.

        Args:
          frames: (seconds, RGB frame).
          live: whether frames come at the pace of the world. They are then read in a thread of
            their own, and the window moves on while the network works: where it is slower than the
            source, windows in between are left out and the next one scored is the latest.
            Otherwise every hop is scored, and the source waits.

        Raises:
          Exception: what the source raises.
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

    def _score(self, clip: np.ndarray, number: int, seconds: float) -> Moment:
        self._due = number + 1 + self._hop
        scores = np.asarray(self._scorer.scores(clip[None, None])[0])
        if self._scores is not None:
            scores = self._smoothing * scores + (1 - self._smoothing) * self._scores
        self._scores = scores
        return Moment(number, seconds, scores)


class _Ring:
    """The latest frames of a stream, each in the place of the one that has left the window."""

    def __init__(self, protocol: ViewProtocol) -> None:
        self._protocol = protocol
        self._interval = protocol.frame_interval or _INTERVAL
        self._seconds = 0.0
        span = (protocol.num_frames - 1) * self._interval + 1
        self.frames = np.empty((span, protocol.crop_size, protocol.crop_size, 3), np.uint8)
        self.count = 0

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "size size 3"]:
        resized = transforms.resize_short_side(image, self._protocol.short_side)
        return transforms.center_crop(resized, self._protocol.crop_size)

    def add(self, frame: UInt8[np.ndarray, "size size 3"], seconds: float) -> None:
        self.frames[self.count % len(self.frames)] = frame
        self.count += 1
        self._seconds = seconds

    def clip(self) -> tuple[UInt8[np.ndarray, "t size size 3"], int, float]:
        """The frames that make a clip now; number and seconds of the last."""
        span = len(self.frames)
        places = (self.count + np.arange(0, span, self._interval)) % span
        return self.frames[places], self.count - 1, self._seconds


class _Reader:
    """Fills a ring from a source in a thread, so that a slow network never holds it up."""

    def __init__(self, frames: Iterable[tuple[float, np.ndarray]], ring: _Ring) -> None:
        self._frames, self._ring = frames, ring
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def clip(self, due: int) -> tuple[np.ndarray, int, float] | None:
        """The latest clip once so many frames have come; None if the source ends before."""
        with self._changed:
            self._changed.wait_for(lambda: self._ring.count >= due or self._ended)
            if self._ring.count >= due:
                return self._ring.clip()
        if self._error is not None:
            raise self._error
        return None

    def stop(self) -> None:
        """Leave the source alone from its next frame on."""
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
        except BaseException as error:  # to be raised where clips are asked for
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify()
