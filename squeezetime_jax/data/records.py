"""The record of a prepared video: what `prepare` writes and training reads.

A TFDS example {"video", "label", "name"} in one of two storage forms:

- `video`: "video" is the bytes of an mp4 file: H.264 with a keyframe every 32 frames, of the others
  three in four with nothing referring to them, and no deblocking, so that a clip of every fourth
  frame costs about a third of the decoding;
- `jpeg`: "video" is the list of the frames' JPEG bytes.

Both have the frames at the chosen short side (never enlarged), one after the other: a frame has the
same number as in the source (undecodable frames are left out), and is shown at the same time after
the first: by the mp4's time stamps, or a comment in each JPEG (`jpeg.with_time`).
"""

import io
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data import jpeg, packets, raw_frames, transforms
from squeezetime_jax.data.video import FrameSequence, Source, TimedFrame, Video, timed_stream

FORMS = ("video", "jpeg")
# What the data set is called inside; a folder of shards is read by its path, not by this name.
DATASET_NAME = "prepared"
VERSION = "1.0.0"

_H264 = {
    "preset": "faster",
    "crf": "19",
    "tune": "fastdecode",
    "g": "32",
    "bf": "3",
    "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0",
}
_JPEG_QUALITY = 90
# Frames a second for the encoder, and the unit of the mp4's time stamps, in seconds.
_RATE, _TICK = 30, Fraction(1, 90_000)

StoredVideo = bytes | Sequence[bytes]


def features(form: str, class_names: Sequence[str] | int) -> Any:
    """The `tfds.features.FeaturesDict` of a record.

    Args:
      form: one of `FORMS`.
      class_names: the names in the order of the labels, or how many classes there are.
    """
    import tensorflow_datasets as tfds  # slow to import, and encoding processes do not need it

    video = tfds.features.Text()
    names = {"num_classes" if isinstance(class_names, int) else "names": class_names}
    return tfds.features.FeaturesDict(
        {
            "video": video if form == "video" else tfds.features.Sequence(video),
            "label": tfds.features.ClassLabel(**names),
            "name": tfds.features.Text(),
        }
    )


def class_names(label: Any) -> tuple[str, ...]:
    """The names of a `tfds.features.ClassLabel`; none where the classes are only numbered."""
    numbers = tuple(str(k) for k in range(label.num_classes))
    return () if tuple(label.names) == numbers else tuple(label.names)


def open_record(stored: StoredVideo, name: str) -> Video | FrameSequence:
    """Random access to the frames of a record's "video" in either form; a context manager."""
    return Video(stored, name) if isinstance(stored, bytes) else FrameSequence(stored, name)


def encode(
    source: Source | Sequence[bytes],
    form: str = "video",
    short_side: int = 256,
    name: str | None = None,
    *,
    max_pixels: int = packets.MAX_PIXELS,
) -> StoredVideo:
    """A video in a storage form.

    Args:
      source: a path (of a file, or of a folder of numbered pictures), a file's bytes, or the JPEG
        bytes of the frames.
      form: one of `FORMS`.
      short_side: of the stored frames; smaller videos keep their size.
      name: name of the source in errors; by default its path.
      max_pixels: the largest accepted frame of the source, width times height.

    Raises:
      VideoError: the source cannot be read.
    """
    frames = (
        (seconds, transforms.resize_short_side(frame, min(short_side, *frame.shape[:2])))
        for seconds, frame in _frames(source, name, max_pixels)
    )
    if form == "video":
        return _encode_h264(frames)
    return [jpeg.with_time(encode_jpeg(frame), seconds) for seconds, frame in frames]


def _frames(
    source: Source | Sequence[bytes], name: str | None, max_pixels: int
) -> Iterator[TimedFrame]:
    """All frames of a video of any kind, with their times."""
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        pictures = raw_frames.open_frames(Path(source), name or os.fspath(source))
    elif isinstance(source, str | bytes | os.PathLike):
        yield from timed_stream(source, name, max_pixels=max_pixels)
        return
    else:
        pictures = FrameSequence(source, name or "<frames>")
    for number, seconds in enumerate(pictures.times):
        yield float(seconds), pictures.frames([number])[0]


def num_bytes(stored: StoredVideo) -> int:
    """Size of a stored video."""
    return len(stored) if isinstance(stored, bytes) else sum(map(len, stored))


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """An RGB frame as the `jpeg` form stores it."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _encode_h264(frames: Iterator[TimedFrame]) -> bytes:
    file = io.BytesIO()
    times: list[int] = []  # of the frames so far, in units of _TICK
    with av.open(file, "w", format="mp4") as container:
        encoder: av.VideoStream | None = None
        for seconds, frame in frames:
            if encoder is None:
                # Encoded as if there were 30 frames a second, so that the quality is the same for
                # all rates; the time stamps are set afterwards.
                encoder = container.add_stream("libx264", rate=_RATE, options=_H264)
                encoder.height, encoder.width = (_even(side) for side in frame.shape[:2])
                encoder.pix_fmt = "yuv420p"
                encoder.codec_context.thread_count = 1
                encoder.codec_context.time_base = Fraction(1, _RATE)
                encoder.time_base = _TICK
            size = (encoder.width, encoder.height)
            if frame.shape[1::-1] != size:  # H.264 needs even sides
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = len(times), Fraction(1, _RATE)
            times.append(max(round(seconds / _TICK), times[-1] + 1 if times else 0))
            container.mux(_stamped(encoder.encode(picture), times))
        if encoder is not None:
            container.mux(_stamped(encoder.encode(None), times))
    return file.getvalue()


def _stamped(packets: list[av.Packet], times: list[int]) -> list[av.Packet]:
    """Packets whose time stamps are numbers of frames, with the times of these frames."""
    gap = (times[-1] - times[0]) // (len(times) - 1) if len(times) > 1 else round(1 / _RATE / _TICK)

    def time(number: int) -> int:
        return times[number] if number >= 0 else times[0] + number * gap

    for packet in packets:
        assert packet.pts is not None
        assert packet.dts is not None
        following = packet.pts + 1
        end = times[following] if following < len(times) else times[packet.pts] + gap
        packet.duration = end - times[packet.pts]
        packet.pts, packet.dts = time(packet.pts), time(packet.dts)
        packet.time_base = _TICK
    return packets


def _even(side: int) -> int:
    return max(side // 2 * 2, 2)
