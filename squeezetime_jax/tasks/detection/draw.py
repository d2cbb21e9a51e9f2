"""Boxes with what is done in them, drawn over frames."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data.video import Video, stream
from squeezetime_jax.files import whole, write_whole
from squeezetime_jax.tasks.detection.detect import Seen, lines_of

_COLOURS = ((255, 196, 0), (0, 200, 255), (120, 255, 90), (255, 110, 180))
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEAST_SIDE = 480  # smaller frames are enlarged, for the letters to be read
_MOST_LINES = 3


def draw(
    frame: UInt8[np.ndarray, "h w 3"],
    moment: Seen,
    names: Mapping[int, str],
    score: float,
) -> UInt8[np.ndarray, "fh fw 3"]:
    """A frame with its boxes and their likeliest actions; small frames are enlarged.

    Args:
      frame: RGB.
      moment: boxes and scores.
      names: of the actions.
      score: what an action's score has to exceed to be written.
    """
    factor = -(-_LEAST_SIDE // min(frame.shape[:2])) if min(frame.shape[:2]) < _LEAST_SIDE else 1
    picture = np.ascontiguousarray(frame.repeat(factor, 0).repeat(factor, 1))
    height, width = picture.shape[:2]
    letters = max(0.35, min(height, width) / 900)
    for number, (box, actions) in enumerate(
        zip(moment.boxes, moment.told(names, score), strict=True)
    ):
        colour = _COLOURS[number % len(_COLOURS)]
        x1, y1, x2, y2 = (box * [width - 1, height - 1, width - 1, height - 1]).round().astype(int)
        cv2.rectangle(picture, (int(x1), int(y1)), (int(x2), int(y2)), colour, 2)
        step = round(34 * letters)
        for line, text in enumerate(lines_of(actions)[:_MOST_LINES]):
            x, y = int(x1) + 4, min(int(y1) + (line + 1) * step, height - 4)
            (wide, high), below = cv2.getTextSize(text, _FONT, letters, 1)
            cv2.rectangle(picture, (x - 2, y - high - 2), (x + wide + 2, y + below), (0, 0, 0), -1)
            cv2.putText(picture, text, (x, y), _FONT, letters, colour, 1, cv2.LINE_AA)
    return picture


def write_pictures(
    folder: Path,
    video: str,
    seen: Sequence[Seen],
    names: Mapping[int, str],
    score: float,
    begins_at: float,
) -> None:
    """Write a JPEG of every second that is seen: `<folder>/<video>_<second>.jpg`.

    Raises:
      UserError: a file cannot be written.
    """
    with Video(video) as opened:
        fps = opened.info.fps
        for moment in seen:
            index = int((moment.second - begins_at) * fps + 0.5)
            frame = opened.frames([min(max(index, 0), opened.num_frames - 1)])[0]
            picture = draw(frame, moment, names, score)
            path = folder / f"{Path(video).stem}_{moment.second:g}.jpg"
            encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
            write_whole(path, encoded.tobytes())


def write_video(
    path: Path,
    video: str,
    seen: Sequence[Seen],
    names: Mapping[int, str],
    score: float,
    begins_at: float,
) -> None:
    """Write the video with every frame's boxes: those of the nearest second, within half a second.

    Raises:
      UserError: the file cannot be written.
    """
    with Video(video) as opened:
        fps = opened.info.fps
    nothing = Seen(0.0, np.zeros((0, 4)), np.zeros((0, 1)))
    with whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        encoder: av.VideoStream | None = None
        for number, frame in enumerate(stream(video)):
            second = begins_at + number / fps
            nearest = min(seen, key=lambda moment: abs(moment.second - second), default=nothing)
            is_near = abs(nearest.second - second) <= 0.5 + 1 / fps
            picture = draw(frame, nearest if is_near else nothing, names, score)
            picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            if encoder is None:
                rate = Fraction(fps).limit_denominator(1001)
                encoder = container.add_stream("libx264", rate=rate)
                encoder.height, encoder.width = picture.shape[:2]
                encoder.pix_fmt = "yuv420p"
            picture = np.ascontiguousarray(picture)
            container.mux(encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if encoder is not None:
            container.mux(encoder.encode(None))
