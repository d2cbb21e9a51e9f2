"""Recognition of what a camera sees, of a network stream, or of a file played through."""

import contextlib
import re
from collections.abc import Iterator

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data.packets import VideoError
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.evaluation.stream import Moment, Stream
from squeezetime_jax.evaluation.views import RuntimeScorer, Sampling, Scorer

_CAMERA = re.compile(r"camera(?::(\d+))?|/dev/video(\d+)", re.IGNORECASE)
# Where frames come at the pace of the world: those that come while the network works are let go.
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
_TIMEOUT_SECONDS = 10.0
_SMOOTHING = 0.5  # share of the newest window in the running mean


def recognise(
    scorer: Scorer | RuntimeScorer, location: str, protocol: ViewProtocol
) -> Iterator[Moment]:
    """Score a stream's windows as its frames arrive, smoothed over time; ends with the stream.

    Args:
      scorer: the network.
      location: `camera`, `camera:1`, `/dev/video1`, or a URL that FFmpeg opens.
      protocol: sizes of the clip; its number of views is taken for one.

    Raises:
      VideoError: the stream cannot be opened, or breaks before one window is full.
    """
    stream = Stream(
        scorer,
        sampling=Sampling.of(protocol),
        num_frames=protocol.num_frames,
        smoothing=_SMOOTHING,
    )
    yield from stream.follow(_frames(location), live=_is_live(location))
    if stream.num_frames < stream.window:
        raise VideoError(
            f"{location}: ended after {stream.num_frames} frames, fewer than the {stream.window}"
            " of a clip; give a longer stream, or the file without `file://`"
        )


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
