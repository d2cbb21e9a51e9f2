"""One small video of each odd kind, and what becomes of it, as docs/data.md says."""

import io
from collections.abc import Callable
from typing import NamedTuple

import av
import numpy as np
import videos

from squeezetime_jax.data.pixels import HLG, PQ

BIG = (7680, 4320)
PICTURES = videos.moving_frames(8)


class Odd(NamedTuple):
    """An odd video.

    Attributes:
      name: in the table of docs/data.md.
      suffix: of its file.
      make: writes it.
      outcome: in the table; "refused" or not decides what the tests expect.
      reason: of a refusal; a regular expression.
    """

    name: str
    suffix: str
    make: Callable[[], bytes]
    outcome: str
    reason: str = ""


def stored(codec, container, pixels, options=None, *, pictures=PICTURES, colour=None, **how):
    """A video of RGB pictures in any pixel format."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=how.get("container_options", {})) as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if colour:
            context = stream.codec_context
            context.color_trc, context.color_primaries, context.colorspace = colour, 9, 9
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def interlaced():
    """The lines of two fields, 1/50 s apart: combs wherever something moves."""
    pictures = videos.moving_frames(16, 96, 128)
    woven = pictures[::2].copy()
    woven[:, 1::2] = np.roll(woven, 12, axis=2)[:, 1::2]
    options = {"x264-params": "interlaced=1:tff=1:log-level=none", "crf": "10"}
    return stored("libx264", "matroska", "yuv420p", options, pictures=woven)


def hdr(transfer):
    """Grey from black at the left to the brightest at the right."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pictures = np.broadcast_to(ramp[:, None], (4, 48, 64, 3)).copy()
    options = {"x265-params": "log-level=none"}
    kind = ("libx265", "mp4", "yuv420p10le", options)
    return stored(*kind, pictures=pictures, colour=transfer)


def huge(codec):
    """Two frames of 8K, grey."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream(codec, rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height = BIG
        stream.pix_fmt = "yuv420p"
        for number in range(2):
            frame = av.VideoFrame(*BIG, "yuv420p")
            frame.pts = number
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def sound_only():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    return file.getvalue()


def no_frame():
    """A header and no packet."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    return file.getvalue()


def cut(container):
    data = videos.encode(videos.moving_frames(50), container, options={"bf": "0"})
    return data[: len(data) // 2]


def portrait():
    return videos.encode(videos.moving_frames(8, 64, 36))


def turned():
    return videos.encode(PICTURES, rotation=90)


M2TS = {"mpegts_m2ts_mode": "1"}
TEN_BIT = ("libx265", "mp4", "yuv420p10le", {"x265-params": "log-level=none"})
ODD = (
    Odd("portrait", ".mp4", portrait, "read"),
    Odd("rotated by its header, as phones do", ".mp4", turned, "turned upright"),
    Odd("10 bits a colour", ".mp4", lambda: stored(*TEN_BIT), "read with 8 bits"),
    Odd("HDR, PQ", ".mp4", lambda: hdr(PQ), "tone-mapped to BT.709"),
    Odd("HDR, HLG", ".mp4", lambda: hdr(HLG), "tone-mapped to BT.709"),
    Odd("interlaced", ".mkv", interlaced, "de-interlaced, one frame for two fields"),
    Odd("with transparency", ".mov", lambda: stored("qtrle", "mov", "argb"), "read without it"),
    Odd("`.gif`", ".gif", lambda: stored("gif", "gif", "rgb8"), "read"),
    Odd("`.mts`", ".mts", lambda: stored("libx264", "mpegts", "yuv420p"), "read"),
    Odd("`.m2ts`", ".m2ts",
        lambda: stored("libx264", "mpegts", "yuv420p", container_options=M2TS), "read"),
    Odd("`.ogv`", ".ogv", lambda: stored("libvpx", "ogg", "yuv420p"), "read"),
    Odd("one frame", ".mp4", lambda: videos.encode(PICTURES[:1]), "read; a clip repeats it"),
    Odd("truncated `.ts`, `.flv`, `.mkv`", ".flv", lambda: cut("flv"),
        "what is there is read; `check` tells what is missing"),
    Odd("truncated `.mp4`", ".mp4", lambda: cut("mp4"), "refused", "truncated or damaged"),
    Odd("8K", ".mp4", lambda: huge("libx264"), "refused; `prepare --max-pixels` stores a copy",
        r"frames of 7680 x 4320 exceed the limit of 9,437,184 pixels"),
    Odd("8K that the header does not tell", ".mp4", lambda: huge("mpeg4"),
        "refused; `prepare --max-pixels` stores a copy",
        r"frames of 7680 x 4320 exceed the limit of 9,437,184 pixels"),
    Odd("no frame", ".mkv", no_frame, "refused", "no video|not readable as a video"),
    Odd("sound alone", ".mp4", sound_only, "refused", "no video stream that can be decoded"),
    Odd("empty file", ".mp4", bytes, "refused", "the file is empty"),
)  # fmt: skip
