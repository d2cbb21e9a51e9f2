"""Exactly the asked-for frames of an encoded video, upright RGB.

A video is opened in two steps. First all packets are read without decoding, which is cheap and
tells how many frames there are, in which order they are shown and which packets are keyframes,
whatever the header claims. Then a request decodes only the packets between a keyframe and each
wanted frame, and leaves out those no other frame refers to.

Inside the decoder a packet's time stamp is replaced by its number, so that a decoded frame says
which packet it came from: seeking needs no arithmetic on time stamps, and variable frame rates,
negative starts and odd time bases make no difference. Where time stamps are missing, repeated or at
odds with the decoder's order, frames are counted from the start instead.

A frame that cannot be decoded is replaced by the nearest decodable one before it (else after it),
as a player holds its picture; a video without any decodable frame is a `VideoError`. Files are
untrusted: only video containers are opened (no play lists, no scripts, no text, no network), sizes
are limited to `MAX_PIXELS`, and a file's packets may not add up to many times the file.
"""

import bisect
import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import av
import av.logging
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Int, UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.errors import UserError

av.logging.set_level(av.logging.PANIC)

# The largest accepted frame: DCI 4K. Larger declared sizes are refused before anything is allocated.
MAX_PIXELS = 4096 * 2304

# Demuxers of video files. Left out are those that open other files (hls, concat), that draw text
# (tty) or that read still pictures.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv", "mpeg", "mpegts", "ogg", "mxf",
    "nut", "ivf", "rm", "dv", "gif",
)  # fmt: skip
_OPTIONS = {
    "format_whitelist": ",".join(_CONTAINERS),
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}
# Packets of a file up to this size stay in memory between the two passes; larger files are read again.
_KEEP_BYTES = 64 << 20

Source = str | os.PathLike[str] | bytes


class VideoError(UserError):
    """A video that cannot be used; the message names the file and the reason."""


class _OutOfOrderError(Exception):
    """Frames leave the decoder in another order than their time stamps say."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
      name: the file, as the user gave it.
      num_frames: frames, counted, not taken from the header.
      width: of the upright frame, in pixels.
      height: of the upright frame, in pixels.
      fps: frames per second on average; 0.0 where the file does not tell.
      duration: seconds; 0.0 where the file does not tell.
      codec: FFmpeg's name of the codec.
      rotation: degrees by which the stored frames are turned to stand upright, counter-clockwise: 0,
        90, 180 or 270.
    """

    name: str
    num_frames: int
    width: int
    height: int
    fps: float
    duration: float
    codec: str
    rotation: int


@dataclasses.dataclass(frozen=True)
class _Index:
    """What the packets tell, in the order of the file.

    Attributes:
      times: (presentation, decoding) time stamps and byte position: what a packet is recognised by.
      keys: numbers of the keyframe packets, ascending.
      num_shown: packets that show a frame; None where several may share one.
      order: packet number of frame k, in the order of showing; None where time stamps do not tell.
      rank: frame number of each packet; -1 for packets that show nothing.
    """

    times: list[tuple[int | None, int | None, int | None]]
    keys: list[int]
    num_shown: int | None
    order: list[int] | None
    rank: list[int]


class Video:
    """Random access to the frames of a file or of a file's bytes; a context manager.

    Args:
      source: a path, or the bytes of a file.
      name: what errors call it; by default the path.
      threads: decoder threads. One is best where many videos are read at once.

    Raises:
      VideoError: there is no such file, or it is no video, or its frames are too large.
    """

    def __init__(self, source: Source, name: str | None = None, *, threads: int = 1) -> None:
        self.name = name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
        self._source = source
        self._threads = threads
        self._packets: list[av.Packet] | None = []
        self._to_rgb = _RgbConverter()
        with _errors_name(self.name):
            self._open()
            self._index = self._read_index()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._packets = None
        self._container.close()

    @functools.cached_property
    def num_frames(self) -> int:
        """Frames of the video."""
        if self._index.num_shown is not None:
            return self._index.num_shown
        with _errors_name(self.name):
            count = sum(1 for _ in self._decode_all())
        if not count:
            raise VideoError(
                f"{self.name}: not one frame can be decoded; replace or remove the file"
            )
        return count

    @functools.cached_property
    def info(self) -> VideoInfo:
        """Facts about the video; decodes one frame."""
        with _errors_name(self.name):
            first = next(self._decode_all(), None)
            if first is None:
                raise VideoError(
                    f"{self.name}: not one frame can be decoded; replace or remove the file"
                )
            rotation = round(first.rotation / 90) * 90 % 360
            sideways = rotation % 180 == 90
            duration = _duration(self._container, self._stream)
            rate = self._stream.average_rate
            return VideoInfo(
                name=self.name,
                num_frames=self.num_frames,
                width=first.height if sideways else first.width,
                height=first.width if sideways else first.height,
                fps=float(rate) if rate else (self.num_frames / duration if duration else 0.0),
                duration=duration,
                codec=self._stream.codec_context.name,
                rotation=rotation,
            )

    @property
    def num_promised(self) -> int:
        """Frames that the header promises; 0 where it does not tell."""
        return self._stream.frames

    def count_broken(self) -> int:
        """Decode everything and count the frames that are missing or were mended by guessing."""
        with _errors_name(self.name):
            intact = sum(1 for frame in self._decode_all() if not frame.is_corrupt)
        return self.num_frames - intact

    def frames(
        self,
        indices: Sequence[int] | Int[np.ndarray, " t"],
        *,
        short_side: int | None = None,
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of these numbers, each decoded once.

        Args:
          indices: frame numbers in `[0, num_frames)`, any order, repeats allowed.
          short_side: resize each frame as it is decoded, by `transforms.resize_short_side`; the same
            numbers as resizing afterwards, without holding the full frames.

        Returns:
          RGB frames, upright. Frames of another size than the first one's are resized to it.

        Raises:
          VideoError: no wanted frame, nor a neighbour in its place, can be decoded.
          IndexError: a number out of range.
        """
        asked = np.asarray(indices, dtype=np.int64)
        _require_range(asked, self.num_frames, self.name)
        distinct, inverse = np.unique(asked, return_inverse=True)
        with _errors_name(self.name):
            images = self._images(distinct.tolist(), short_side)
        return _stack(images, distinct, inverse)

    def _images(self, wanted: list[int], short_side: int | None) -> dict[int, np.ndarray]:
        """Frame number -> image, for each of the ascending numbers."""
        try:
            images = self._first_of_each(self._decode_wanted(wanted), short_side)
        except _OutOfOrderError:
            self._index = dataclasses.replace(self._index, order=None)
            images = self._first_of_each(self._decode_wanted(wanted), short_side)
        missing = [number for number in wanted if number not in images]
        if missing:
            self._hold(images, missing, short_side)
        return images

    def _first_of_each(
        self, numbered: Iterator[tuple[int, av.VideoFrame]], short_side: int | None
    ) -> dict[int, np.ndarray]:
        images: dict[int, np.ndarray] = {}
        for number, frame in numbered:
            if number not in images:
                images[number] = self._to_rgb(frame, short_side)
        return images

    def _hold(
        self, images: dict[int, np.ndarray], missing: list[int], short_side: int | None
    ) -> None:
        """Fill undecodable frames from the last decodable one before, reading from the start."""
        waiting = list(missing)
        last: av.VideoFrame | None = None
        for number, frame in self._decode_numbered():
            while waiting and waiting[0] < number:
                images[waiting.pop(0)] = self._to_rgb(last or frame, short_side)
            last = frame
            if not waiting:
                return
        if last is None:
            raise VideoError(
                f"{self.name}: not one frame can be decoded; replace or remove the file"
            )
        for number in waiting:
            images[number] = self._to_rgb(last, short_side)

    # --- decoding -------------------------------------------------------------------------------

    def _decode_wanted(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of the wanted frames that decode, from the nearest keyframes."""
        order, rank = self._index.order, self._index.rank
        if order is None:
            remaining = set(wanted)
            for number, frame in self._decode_numbered():
                if number in remaining:
                    yield number, frame
                    remaining.discard(number)
                if not remaining:
                    return
            return
        packets = {order[number] for number in wanted}
        for start, stop in self._runs(packets):
            previous = -1
            for frame in self._decode_packets(start, stop, packets):
                number = -1 if frame.pts is None else rank[frame.pts]
                if number < previous:
                    raise _OutOfOrderError
                previous = number
                if frame.pts in packets:
                    yield number, frame

    def _runs(self, packets: set[int]) -> list[tuple[int, int]]:
        """Ranges of packets to decode, each from a keyframe, that cover the wanted packets."""
        runs: list[tuple[int, int]] = []
        for packet in sorted(packets):
            start = self._key_for(packet)
            if runs and start < runs[-1][1]:
                start = runs.pop()[0]
            runs.append((start, packet + 1))
        return runs

    def _key_for(self, packet: int) -> int:
        """The last keyframe at or before the packet that is also shown no later than it.

        Frames stored after a keyframe but shown before it may refer to what came earlier.
        """
        keys, rank = self._index.keys, self._index.rank
        for place in range(bisect.bisect_right(keys, packet) - 1, -1, -1):
            if 0 <= rank[keys[place]] <= rank[packet]:
                return keys[place]
        return 0

    def _decode_numbered(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of all frames that decode, from the start."""
        rank = self._index.rank
        for count, frame in enumerate(self._decode_all()):
            if self._index.order is None:
                yield count, frame
            elif frame.pts is not None and rank[frame.pts] >= 0:
                yield rank[frame.pts], frame

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        return self._decode_packets(0, len(self._index.times), None)

    def _decode_packets(
        self, start: int, stop: int, wanted: set[int] | None
    ) -> Iterator[av.VideoFrame]:
        """Frames from the packets of a range; `pts` of each is its packet's number.

        Where `wanted` is given, packets outside it that nothing refers to are not decoded.
        """
        context = self._stream.codec_context
        context.flush_buffers()
        skipping = "DEFAULT"
        context.skip_frame = skipping
        for number, packet in self._read(start, stop):
            wish = "DEFAULT" if wanted is None or number in wanted else "NONREF"
            if wish != skipping:
                context.skip_frame = skipping = wish
            packet.pts = packet.dts = number
            yield from _decode(context, packet)
        context.skip_frame = "DEFAULT"
        yield from _decode(context, None)

    # --- the container --------------------------------------------------------------------------

    def _open(self) -> None:
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        self._container = _open_container(source)
        self._stream = _video_stream(self._container, self.name)
        self._stream.thread_type = "NONE" if self._threads == 1 else "SLICE"
        self._stream.codec_context.thread_count = self._threads

    def _read_index(self) -> _Index:
        limit = 8 * _size(self._source) + (1 << 20)
        total = 0
        times: list[tuple[int | None, int | None, int | None]] = []
        keys: list[int] = []
        shown: list[int] = []
        hidden = self._stream.codec_context.name == "vp8"
        for number, packet in enumerate(_demux(self._container, self._stream)):
            total += packet.size
            if total > limit:
                raise VideoError(
                    f"{self.name}: its packets add up to over {limit} bytes, several times the file's"
                    " size; the header is broken: re-encode or remove it"
                )
            times.append((packet.pts, packet.dts, packet.pos))
            if packet.is_keyframe:
                keys.append(number)
            if not packet.is_discard and not (hidden and _is_hidden_vp8(packet)):
                shown.append(number)
            if self._packets is not None:
                self._packets.append(packet)
                if total > _KEEP_BYTES:
                    self._packets = None
        if not times:
            raise VideoError(f"{self.name}: holds no video data; replace or remove the file")
        pts = [times[number][0] for number in shown]
        unique = bool(pts) and None not in pts and len(set(pts)) == len(pts)
        order = _show_order(shown, pts) if unique and self._times_tell(pts) else None
        rank = [-1] * len(times)
        for place, number in enumerate(order or ()):
            rank[number] = place
        return _Index(times, keys, len(shown) if unique else None, order, rank)

    def _times_tell(self, pts: list[int | None]) -> bool:
        """Whether presentation times can be believed.

        AVI has none; FFmpeg makes them up, wrongly where frames are reordered. And where the decoder
        reorders, times that ascend in the order of the file are decoding times in disguise.
        """
        if not self._stream.codec_context.has_b_frames:
            return True
        return self._container.format.name != "avi" and pts != sorted(pts)

    def _read(self, start: int, stop: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets `start` to `stop - 1` with their numbers, or from an earlier keyframe on."""
        if self._packets is not None:
            yield from zip(range(start, stop), self._packets[start:stop], strict=True)
            return
        packets = self._seek(start)
        for number, packet in packets:
            if number >= stop:
                return
            yield number, packet

    def _seek(self, start: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets from `start`, or from somewhere before it where the container seeks badly."""
        pts, dts, _ = self._index.times[start]
        for time in (pts, dts):
            if time is None:
                continue
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(time, stream=self._stream)
                packets = _demux(self._container, self._stream)
                first = next(packets, None)
                number = self._number_of(first)
                if number is not None and number <= start:
                    return _numbered(number, first, packets)
        self._container.close()
        self._open()
        return enumerate(_demux(self._container, self._stream))

    def _number_of(self, packet: av.Packet | None) -> int | None:
        """The packet's number, if it can be told beyond doubt."""
        if packet is None:
            return None
        return self._unique_packets.get((packet.pts, packet.pos))

    @functools.cached_property
    def _unique_packets(self) -> dict[tuple[int | None, int | None], int]:
        seen: dict[tuple[int | None, int | None], int] = {}
        twice = set()
        for number, (pts, _, pos) in enumerate(self._index.times):
            if (pts, pos) in seen or pos is None:
                twice.add((pts, pos))
            seen[pts, pos] = number
        return {key: number for key, number in seen.items() if key not in twice}


class FrameSequence:
    """The same access to a video stored as one JPEG per frame.

    Args:
      jpegs: the encoded frames.
      name: what errors call it.
    """

    def __init__(self, jpegs: Sequence[bytes], name: str = "<frames>") -> None:
        self.name = name
        self._jpegs = jpegs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return len(self._jpegs)

    def frames(
        self,
        indices: Sequence[int] | Int[np.ndarray, " t"],
        *,
        short_side: int | None = None,
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """As `Video.frames`."""
        asked = np.asarray(indices, dtype=np.int64)
        _require_range(asked, self.num_frames, self.name)
        distinct, inverse = np.unique(asked, return_inverse=True)
        images = {number: self._image(number, short_side) for number in distinct.tolist()}
        return _stack(images, distinct, inverse)

    def _image(self, number: int, short_side: int | None) -> np.ndarray:
        encoded = np.frombuffer(self._jpegs[number], np.uint8)
        with _errors_name(self.name):
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
        if image is None:
            raise VideoError(
                f"{self.name}: frame {number} is no readable JPEG; prepare the video again"
            )
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return image if short_side is None else transforms.resize_short_side(image, short_side)


def probe(source: Source, name: str | None = None) -> VideoInfo:
    """Facts about a video, from its packets and its first frame.

    Raises:
      VideoError: it cannot be read as a video.
    """
    with Video(source, name) as video:
        return video.info


def decode(
    source: Source, indices: Sequence[int] | Int[np.ndarray, " t"], name: str | None = None
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of these numbers; see `Video.frames`."""
    with Video(source, name) as video:
        return video.frames(indices)


def stream(
    source: Source, name: str | None = None, *, threads: int = 1
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """All frames in order, one at a time, in memory that does not grow with the video.

    Undecodable frames are left out.

    Raises:
      VideoError: it cannot be read as a video, or no frame of it decodes.
    """
    name = name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))
    to_rgb = _RgbConverter()
    first: np.ndarray | None = None
    with _errors_name(name):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with _open_container(file) as container:
            video = _video_stream(container, name)
            video.thread_type = "NONE" if threads == 1 else "SLICE"
            video.codec_context.thread_count = threads
            for packet in _with_end(_demux(container, video)):
                for frame in _decode(video.codec_context, packet):
                    image = to_rgb(frame, None)
                    first = image if first is None else first
                    yield _like(image, first)
    if first is None:
        raise VideoError(f"{name}: not one frame can be decoded; replace or remove the file")


class _RgbConverter:
    """Decoded frame -> upright RGB array; keeps FFmpeg's converter between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, short_side: int | None) -> UInt8[np.ndarray, "h w 3"]:
        image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turns = round(frame.rotation / 90) % 4
        if turns:
            image = np.ascontiguousarray(np.rot90(image, turns))
        return image if short_side is None else transforms.resize_short_side(image, short_side)


def _open_container(source: object) -> av.container.InputContainer:
    return av.open(source, options=_OPTIONS, metadata_errors="replace")


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise VideoError(f"{name}: holds no video that can be decoded; replace or remove the file")
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(
            f"{name}: frames of {context.width} x {context.height}; at most {MAX_PIXELS} pixels are"
            " read: shrink the video first"
        )
    return stream


def _demux(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets; a broken rest of the file ends them."""
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size or packet.pts is not None or packet.dts is not None:
                yield packet


def _decode(context: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """What the packet (None: the end) brings out of the decoder; nothing if it is broken."""
    try:
        return context.decode(packet)
    except av.error.FFmpegError:
        return []


def _with_end(packets: Iterator[av.Packet]) -> Iterator[av.Packet | None]:
    yield from packets
    yield None


def _numbered(
    number: int, first: av.Packet | None, rest: Iterator[av.Packet]
) -> Iterator[tuple[int, av.Packet]]:
    if first is not None:
        yield number, first
        yield from enumerate(rest, number + 1)


def _show_order(shown: list[int], pts: list[int | None]) -> list[int]:
    """Packet numbers in the order of their presentation times."""
    return [number for _, number in sorted(zip(pts, shown, strict=True))]


def _is_hidden_vp8(packet: av.Packet) -> bool:
    """VP8 stores reference-only frames as packets of their own: `show_frame` is bit 4."""
    return packet.size > 0 and not memoryview(packet)[0] & 0x10


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size


def _stack(images: dict[int, np.ndarray], distinct: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """The images in the asked order, all of the first one's size."""
    first = images[int(distinct[0])]
    return np.stack([_like(images[int(distinct[place])], first) for place in inverse.ravel()])


def _like(image: np.ndarray, first: np.ndarray) -> np.ndarray:
    if image.shape == first.shape:
        return image
    height, width = first.shape[:2]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _require_range(asked: np.ndarray, num_frames: int, name: str) -> None:
    if not asked.size or asked.min() < 0 or asked.max() >= num_frames:
        raise IndexError(f"{name}: frames {asked.tolist()} asked of a video of {num_frames}")


@contextlib.contextmanager
def _errors_name(name: str) -> Iterator[None]:
    """Turn whatever a broken file does to the libraries into a `VideoError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such file; check the list and its root folder") from error
    except (av.error.FFmpegError, cv2.error, OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise VideoError(
            f"{name}: not readable as a video ({reason}); replace or remove the file"
        ) from error
