"""The record of a prepared video: what `prepare` writes and training reads.

A TFDS example {"video", "label", "name"} in one of two storage forms:

- `video`: "video" is the bytes of an mp4 file: H.264 with a keyframe every 32 frames, of the others
  three in four with nothing referring to them, and no deblocking, so that a clip of every fourth
  frame costs about a third of the decoding;
- `jpeg`: "video" is the list of the frames' JPEG bytes.

Both have the frames at the chosen short side (never enlarged), one after the other: a frame has the
same number as in the source (undecodable frames are left out); time stamps are not kept.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.data.video import FrameSequence, Source, Video, stream

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
    source: Source, form: str = "video", short_side: int = 256, name: str | None = None
) -> StoredVideo:
    """A video in a storage form.

    Args:
      source: a path or a file's bytes.
      form: one of `FORMS`.
      short_side: of the stored frames; smaller videos keep their size.
      name: name of the source in errors; by default its path.

    Raises:
      VideoError: the source cannot be read.
    """
    frames = _shrunk(source, short_side, name)
    return _encode_h264(frames) if form == "video" else [encode_jpeg(frame) for frame in frames]


def encode_listed(root: Path, form: str, short_side: int, listed: tuple[str, int]) -> StoredVideo:
    """`encode` for a line (path, label) of an annotation list."""
    name, _ = listed
    return encode(root / name, form, short_side, name)


def num_bytes(stored: StoredVideo) -> int:
    """Size of a stored video."""
    return len(stored) if isinstance(stored, bytes) else sum(map(len, stored))


def _shrunk(source: Source, short_side: int, name: str | None) -> Iterator[np.ndarray]:
    for frame in stream(source, name):
        yield transforms.resize_short_side(frame, min(short_side, *frame.shape[:2]))


def encode_jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """An RGB frame as the `jpeg` form stores it."""
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _encode_h264(frames: Iterator[np.ndarray]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        encoder: av.VideoStream | None = None
        for frame in frames:
            if encoder is None:
                encoder = container.add_stream("libx264", rate=30, options=_H264)
                encoder.height, encoder.width = (_even(side) for side in frame.shape[:2])
                encoder.pix_fmt = "yuv420p"
                encoder.codec_context.thread_count = 1
            size = (encoder.width, encoder.height)
            if frame.shape[1::-1] != size:  # H.264 needs even sides
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
            container.mux(encoder.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if encoder is not None:
            container.mux(encoder.encode(None))
    return file.getvalue()


def _even(side: int) -> int:
    return max(side // 2 * 2, 2)
