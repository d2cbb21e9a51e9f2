"""The numbered packets of a video file: what is known of a video without decoding it.

Files are untrusted: only containers of video are opened (no play lists, scripts, text or network),
frames are limited to `MAX_PIXELS`, and packets may not add up to many times the file's size.
"""

import bisect
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.logging
import numpy as np

from squeezetime_jax.errors import UserError

av.logging.set_level(av.logging.PANIC)

# The largest accepted frame: DCI 4K. Larger ones are refused before anything is allocated.
MAX_PIXELS = 4096 * 2304

# Demuxers of video files. Left out are those that open other files (hls, concat), draw text (tty),
# read still pictures, and those of formats that no data set uses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,ogg,gif"
_OPTIONS = {
    "format_whitelist": _CONTAINERS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}
# MP4's tables in which one number stands for many samples: a size for all of them (stsz, whose
# version and flags are 0), and the defaults of a fragment (trun). Two patterns, each with a fixed
# beginning, are ten times as fast as one with an alternative.
_COUNTS = (
    re.compile(rb"stsz\0\0\0\0(?P<size>....)(?P<samples>....)", re.DOTALL),
    re.compile(rb"trun[\0\1]\0[\0-\x0f][\0\1\4\5](?P<samples>....)", re.DOTALL),
)
# These tables are searched in so much of a file's start and of its end.
_SCAN_BYTES = 16 << 20
# Packets of a file up to this size stay in memory; those of larger files are read again.
_KEEP_BYTES = 64 << 20

Source = str | os.PathLike[str] | bytes
_Stamp = tuple[int | None, int | None, int | None]


class VideoError(UserError):
    """A video that cannot be used; the message names the file and the reason."""


@dataclasses.dataclass(frozen=True)
class Index:
    """What the packets say, in the order of the file.

    Attributes:
      stamps: (presentation time, decoding time, byte position) of each packet.
      keys: numbers of the keyframe packets, ascending.
      num_shown: packets that show a frame; None where several may share one.
      order: packet number of frame k, in the order of showing; None if time stamps do not say.
      rank: frame number of each packet; -1 for packets that show nothing.
      steady: the frames are evenly spaced, so that their order is certain. If false, the order
        holds as long as the decoder, given some packets more, does not contradict it.
    """

    stamps: list[_Stamp]
    keys: list[int]
    num_shown: int | None
    order: list[int] | None
    rank: list[int]
    steady: bool

    def key_for(self, packet: int) -> int:
        """The last keyframe at or before the packet that is also shown no later than it.

        Frames stored after a keyframe but shown before it may refer to what came earlier.
        """
        for place in range(bisect.bisect_right(self.keys, packet) - 1, -1, -1):
            if 0 <= self.rank[self.keys[place]] <= self.rank[packet]:
                return self.keys[place]
        return 0


class PacketFile:
    """An open file: its index, its packets by number, its decoder.

    Args:
      source: a path, or the bytes of a file.
      name: its name in errors.
      threads: of the decoder.

    Raises:
      VideoError: it has no video, too large frames, or packets of many times its size.
    """

    def __init__(self, source: Source, name: str, threads: int = 1) -> None:
        self._source = source
        self._name = name
        self._threads = threads
        self._kept: list[av.Packet] | None = []
        self._open()
        self.index = self._read_index()

    def close(self) -> None:
        """Close the file and free its packets."""
        self._kept = None
        self._container.close()

    @property
    def decoder(self) -> av.VideoCodecContext:
        """The decoder of the video stream."""
        return self.stream.codec_context

    def reset_decoder(self) -> None:
        """Reset the decoder, except for how deep it reorders."""
        self.decoder.flush_buffers()
        self.decoder.reorder_depth = self.reorder_depth

    @property
    def duration(self) -> float:
        """Seconds, by the header; 0.0 if it does not say."""
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else 0.0

    @property
    def missing(self) -> str:
        """What the header announces and the file lacks; empty if nothing is missing.

        5 % may be missing; 25 % if the header says only how long the whole file is, which may be
        longer than its video.
        """
        is_mp4 = self._container.format.name.startswith("mov")
        promised = len(self.stream.index_entries) if is_mp4 else self.stream.frames
        found = len(self.index.stamps)
        if found < promised * 0.95 - 1:
            return f"{found} frames of the {promised} that the header announces"
        times = [pts for pts, _, _ in self.index.stamps if pts is not None]
        if times and self.stream.time_base:
            lasts = float((max(times) - min(times)) * self.stream.time_base)
            if lasts < self.duration * (0.95 if self.stream.duration else 0.75) - 1:
                return f"{lasts:.1f} s of the {self.duration:.1f} s that the header announces"
        return ""

    def read(self, start: int, stop: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets `start` to `stop - 1` with their numbers, or from an earlier one on."""
        if self._kept is not None:
            yield from enumerate(self._kept[start:stop], start)
            return
        for number, packet in self._seek(start):
            if number >= stop:
                return
            yield number, packet

    def _open(self) -> None:
        self._container = open_container(self._source)
        self.stream = video_stream(self._container, self._name, self._threads)
        self.reorder_depth = self.decoder.reorder_depth

    def _read_index(self) -> Index:
        limit = 8 * _size(self._source) + (1 << 20)
        total = 0
        stamps: list[_Stamp] = []
        keys: list[int] = []
        shown: list[int] = []
        is_vp8 = self.decoder.name == "vp8"
        for number, packet in enumerate(demux(self._container, self.stream)):
            total += packet.size
            if total > limit:
                raise VideoError(
                    f"{self._name}: damaged header: the packets add up to more than {limit} bytes,"
                    " many times the file's size; re-encode or remove the file"
                )
            stamps.append((packet.pts, packet.dts, packet.pos))
            if packet.is_keyframe:
                keys.append(number)
            if not packet.is_discard and not (is_vp8 and _is_hidden_vp8(packet)):
                shown.append(number)
            if self._kept is not None:
                self._kept.append(packet)
                if total > _KEEP_BYTES:
                    self._kept = None
        if not stamps:
            raise VideoError(f"{self._name}: no video data in it; replace or remove the file")
        known = [time for number in shown if (time := stamps[number][0]) is not None]
        unique = 0 < len(shown) == len(set(known))
        pts = np.array(known, np.int64)
        order = None
        if unique and self._times_are_right(pts):
            order = np.array(shown)[np.argsort(pts)].tolist()
        rank = [-1] * len(stamps)
        for place, number in enumerate(order or ()):
            rank[number] = place
        count = len(shown) if unique else None
        return Index(stamps, keys, count, order, rank, not self.reorder_depth or _is_steady(pts))

    def _times_are_right(self, pts: np.ndarray) -> bool:
        """Whether the presentation times are usable.

        AVI has none; FFmpeg makes them up, wrongly if frames are reordered. If the decoder reorders
        and yet the times ascend in the file's order, they are decoding times; times that would
        reorder more than the decoder does are wrong.
        """
        if not self.reorder_depth:
            return bool(np.all(pts[1:] > pts[:-1]))
        if self._container.format.name == "avi":
            return False
        return _reorders_at_most(pts, self.reorder_depth)

    def _seek(self, start: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets from `start`, or from an earlier one if the container seeks imprecisely."""
        pts, dts, _ = self.index.stamps[start]
        for time in (pts, dts):
            if time is None:
                continue
            with contextlib.suppress(av.FFmpegError):
                self._container.seek(time, stream=self.stream)
                packets = demux(self._container, self.stream)
                first = next(packets, None)
                if first is None:
                    continue
                number = self._numbers.get((first.pts, first.pos))
                if number is not None and number <= start:
                    return _numbered(number, first, packets)
        self._container.close()
        self._open()
        return enumerate(demux(self._container, self.stream))

    @functools.cached_property
    def _numbers(self) -> dict[tuple[int | None, int | None], int]:
        """Packet numbers by time and position in the file, where these are unique."""
        numbers: dict[tuple[int | None, int | None], int] = {}
        repeated = set()
        for number, (pts, _, pos) in enumerate(self.index.stamps):
            if (pts, pos) in numbers or pos is None:
                repeated.add((pts, pos))
            numbers[pts, pos] = number
        return {stamp: number for stamp, number in numbers.items() if stamp not in repeated}


def open_container(source: Source) -> av.container.InputContainer:
    """Open a file for reading, with every safeguard.

    Raises:
      OSError, ValueError: it cannot be opened.
    """
    size = _size(source)
    head, tail = _ends(source, size)
    _refuse_sample_counts((head, tail), size)
    # Without the scheme, FFmpeg would take "take:2.mp4" for an address.
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{os.fspath(source)}"
    try:
        return av.open(file, "r", options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(_what_it_is(head) or error.strerror) from error


def video_stream(container: av.container.InputContainer, name: str, threads: int) -> av.VideoStream:
    """The container's main video stream, ready to decode.

    Raises:
      VideoError: there is none, or its frames are too large.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise VideoError(f"{name}: no video stream that can be decoded; replace or remove the file")
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(
            f"{name}: frames of {stream.width} x {stream.height} exceed the limit of 4096 x 2304"
            " pixels; scale the video down first"
        )
    # Slices, not frames: frame threads hold back frames, and may hang when left early.
    stream.thread_type = "NONE" if threads == 1 else "SLICE"
    stream.thread_count = threads
    # Opened before it is told to skip frames: dav1d keeps the first setting.
    stream.codec_context.open(strict=False)
    return stream


def demux(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets, up to the first that cannot be read."""
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size or packet.dts is not None:  # PyAV ends with an empty packet
                yield packet


def decode_packet(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that the decoder gives for a packet (None: the end); none if it is damaged."""
    try:
        return decoder.decode(packet)
    except av.FFmpegError:
        return []


def _refuse_sample_counts(ends: tuple[bytes, bytes], file_size: int) -> None:
    """Refuse counts beyond the file's bytes, for which FFmpeg would take memory at once."""
    for part, counts in itertools.product(ends, _COUNTS):
        for match in counts.finditer(part):
            found = {field: int.from_bytes(value) for field, value in match.groupdict().items()}
            if found.get("size", 1) * found["samples"] > file_size:
                raise ValueError("a table of samples exceeds the file's size")


def _what_it_is(head: bytes) -> str:
    """What a file is that is not a readable video, by its first bytes; empty if unknown."""
    if not head:
        return "the file is empty"
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return "it is a picture"
    if head[:100].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page"
    if head[4:8] == b"ftyp":
        return "an MP4 file that is truncated or damaged"
    return ""


def _ends(source: Source, size: int) -> tuple[bytes, bytes]:
    """The first and the last bytes of a source."""
    if isinstance(source, bytes):
        return source[:_SCAN_BYTES], source[_SCAN_BYTES:][-_SCAN_BYTES:]
    with open(source, "rb") as file:
        head = file.read(_SCAN_BYTES)
        file.seek(max(size - _SCAN_BYTES, len(head)))
        return head, file.read(_SCAN_BYTES)


@contextlib.contextmanager
def errors_name(name: str) -> Iterator[None]:
    """Turn the errors that a broken file causes in the libraries into a `VideoError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such file; check the list and its root folder") from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise VideoError(
            f"{name}: not readable as a video ({reason}); replace or remove the file"
        ) from error


def source_name(source: Source, name: str | None) -> str:
    """The name of a source in errors: the given name, else the path."""
    return name or ("<bytes>" if isinstance(source, bytes) else os.fspath(source))


def _is_hidden_vp8(packet: av.Packet) -> bool:
    """VP8 stores reference-only frames as packets of their own: `show_frame` is bit 4."""
    return packet.size > 0 and not memoryview(packet)[0] & 0x10


def _reorders_at_most(pts: np.ndarray, depth: int) -> bool:
    """Whether some frames are shown before earlier stored ones, and none before over `depth`."""
    overtaken = np.zeros(len(pts), np.int64)
    reach = min(2 * depth + 1, len(pts) - 1)
    for distance in range(1, reach + 1):
        overtaken[distance:] += pts[distance:] < pts[:-distance]
    latest = np.maximum.accumulate(pts)
    further = latest[: len(pts) - reach - 1] > pts[reach + 1 :]
    return bool(0 < overtaken.max() <= depth and not further.any())


def _is_steady(pts: np.ndarray) -> bool:
    """Whether times are evenly spaced, except for rounding to the container's unit."""
    gaps = np.diff(np.sort(pts))
    return not gaps.size or bool(gaps.max() <= 2 * gaps.min())


def _numbered(
    number: int, first: av.Packet, rest: Iterator[av.Packet]
) -> Iterator[tuple[int, av.Packet]]:
    yield number, first
    yield from enumerate(rest, number + 1)


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size
