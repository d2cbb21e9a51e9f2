"""Small encoded videos whose frames tell their number, for the tests of decoding."""

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# (container, codec, encoder's options, time stamps kept in the container)
B_FRAMES = {"g": "12", "bf": "3", "preset": "veryfast"}
ENCODINGS = {
    "mp4-h264": ("mp4", "libx264", B_FRAMES),
    "mp4-h264-open-gop": ("mp4", "libx264", B_FRAMES | {"x264-params": "open-gop=1"}),
    "mp4-mpeg4": ("mp4", "mpeg4", {"g": "10", "bf": "2"}),
    "mp4-vp9": ("mp4", "libvpx-vp9", {"g": "10", "cpu-used": "8", "deadline": "realtime"}),
    "mp4-av1": ("mp4", "libsvtav1", {"g": "10", "preset": "12"}),
    "avi-h264": ("avi", "libx264", B_FRAMES),
    "avi-mpeg4": ("avi", "mpeg4", {"g": "10", "bf": "2"}),
    "avi-mpeg4-plain": ("avi", "mpeg4", {"g": "10"}),
    "avi-mjpeg": ("avi", "mjpeg", {}),
    "mkv-h264": ("matroska", "libx264", B_FRAMES),
    "mkv-mpeg4": ("matroska", "mpeg4", {"g": "10", "bf": "2"}),
    "mkv-vp9": ("matroska", "libvpx-vp9", {"g": "10", "cpu-used": "8", "lag-in-frames": "16"}),
    "mkv-av1": ("matroska", "libsvtav1", {"g": "10", "preset": "12"}),
    "webm-vp8": ("webm", "libvpx", {"g": "10", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    "webm-vp9": ("webm", "libvpx-vp9", {"g": "10", "cpu-used": "8", "lag-in-frames": "16"}),
    "webm-av1": ("webm", "libsvtav1", {"g": "10", "preset": "12"}),
    "ts-h264": ("mpegts", "libx264", B_FRAMES),
    "flv-h264": ("flv", "libx264", B_FRAMES),
}


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames of a textured picture that moves, so that neighbours differ and B-frames pay."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (16, 16, 3), np.uint8)
    texture = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    y, x = np.mgrid[:height, :width]
    frames = np.stack([texture[(y + n) % 256, (x + 3 * n) % 256] for n in range(count)])
    bar = np.arange(width) * count // width
    for number, frame in enumerate(frames):
        frame[: height // 4] = np.where(bar <= number, 255, 0)[:, None]
    return frames


def encode(
    frames: np.ndarray,
    container: str = "mp4",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    *,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    container_options: dict[str, str] | None = None,
    audio: str = "",
    rotation: int = 0,
) -> bytes:
    """The bytes of a video file; `pts` in units of `time_base`, by default 25 frames a second."""
    file = Path(tempfile.mkstemp()[1])  # some options of the containers read it once more
    with av.open(str(file), "w", format=container, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=25, options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if pts is not None:
            stream.codec_context.time_base = time_base
        sound = out.add_stream(audio, rate=8000) if audio else None
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if pts is not None:
                picture.pts, picture.time_base = pts[number], time_base
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            out.mux(sound.encode(silence))
            out.mux(sound.encode(None))
    data = file.read_bytes()
    file.unlink()
    return data


def read_plainly(data: bytes) -> np.ndarray:
    """All frames by FFmpeg's own reading from the start: what frame k is."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def gigantic() -> dict[str, bytes]:
    """Small files that claim enormous frames: most where the decoder looks for the size."""
    frames = moving_frames(3)
    raw = encode(frames, "avi", "rawvideo")
    mjpeg = encode(frames[:1], *ENCODINGS["avi-mjpeg"])
    webm = encode(frames, *ENCODINGS["webm-vp9"])
    vp8 = encode(frames, *ENCODINGS["webm-vp8"])
    mp4 = encode(frames, *ENCODINGS["mp4-mpeg4"])
    side = (100_000).to_bytes(4, "little")
    size = webm.index(bytes([0xB0, 0x81, 64, 0xBA, 0x81, 48]))
    pixel_width = bytes([0xB0, 0x84]) + (100_000_000).to_bytes(4)
    return {
        "avi-raw": replaced(raw, raw.index(b"strf") + 12, side * 2),
        "avi-mjpeg-header": replaced(mjpeg, mjpeg.index(b"strf") + 12, side * 2),
        "mjpeg": replaced(mjpeg, mjpeg.index(b"\xff\xc0") + 5, b"\xff\xf0\xff\xf0"),
        "webm": replaced(webm, size, pixel_width),
        "vp8": replaced(vp8, vp8.index(b"\x9d\x01\x2a") + 3, b"\xff\x3f\xff\x3f"),
        "mp4": replaced(mp4, mp4.index(b"mp4v", mp4.index(b"stsd")) + 28, b"\xff\xff\xff\xff"),
        "gif": b"GIF89a" + b"\xff\xff\xff\xff\x80\0\0" + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\2\x4c\1\0;",
    }  # fmt: skip


def replaced(data: bytes, place: int, new: bytes) -> bytes:
    """The data with new bytes at a place."""
    return data[:place] + new + data[place + len(new) :]
