"""The numbered packets of a video file: what is known of a video without decoding it.

Files are untrusted: only containers of video are opened (no play lists, scripts, text or network),
frames are limited to `MAX_PIXELS`, and packets may not add up to many times the file's size.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.container
import av.logging
import numpy as np
from jaxtyping import Float

from squeezetime_jax.data import index_cache
from squeezetime_jax.data.index_cache import NO_TIME, Index, Packets
from squeezetime_jax.errors import UserError

av.logging.set_level(av.logging.PANIC)

# The largest accepted frame: DCI 4K. Larger ones are refused before anything is allocated.
MAX_PIXELS = 4096 * 2304

# Demuxers of video files. Left out are those that open other files (hls, concat), draw text (tty),
# read still pictures, and those of formats that no data set uses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,ogg,gif"
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
# MP4's tables in which one number stands for many samples: a size for all of them (stsz, whose
# version and flags are 0), and the defaults of a fragment (trun). Two patterns, each with a fixed
# beginning, are ten times as fast as one with an alternative.
_COUNTS = (
    re.compile(rb"stsz\0\0\0\0(?P<size>....)(?P<samples>....)", re.DOTALL),
    re.compile(rb"trun[\0\1]\0[\0-\x0f][\0\1\4\5](?P<samples>....)", re.DOTALL),
)
# What FFmpeg says of a frame beyond its limit.
_TOO_LARGE = re.compile(r"Picture size (\d+)x(\d+) exceeds \D*(\d+)")
# These tables are searched in so much of a file's start and of its end.
_SCAN_BYTES = 16 << 20
# Packets of a file up to this size stay in memory; those of larger files are read again.
_KEEP_BYTES = 64 << 20

# So many long files stay open in a process between two clips.
_OPEN_FILES = 8
# The rate of videos that say neither when a frame is shown nor how many there are in a second.
ASSUMED_FPS = 30.0

Source = str | os.PathLike[str] | bytes


class VideoError(UserError):
    """A video that cannot be used; the message names the file and the reason."""


class _FrameTooLargeError(Exception):
    """Frames of more pixels than the limit."""

    def __init__(self, width: int, height: int, limit: int) -> None:
        self._size, self._limit = (width, height), limit

    def named(self, name: str) -> VideoError:
        """The error of a file."""
        width, height = self._size
        return VideoError(
            f"{name}: frames of {width} x {height} exceed the limit of {self._limit:,} pixels;"
            f" store smaller copies with `squeezetime prepare --max-pixels {width * height}`"
        )


class StaleIndexError(Exception):
    """The stored index of a file is not that of its packets."""


class PacketFile:
    """An open file: its index, its packets by number, its decoder.

    Args:
      source: a path, or the bytes of a file.
      name: its name in errors.
      threads: of the decoder.
      max_pixels: the largest accepted frame, width times height.

    Raises:
      VideoError: it has no video, too large frames, or packets of many times its size.
    """

    def __init__(
        self, source: Source, name: str, threads: int = 1, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._source = source
        self._name = name
        self._threads = threads
        self._max_pixels = max_pixels
        self._kept: list[av.Packet] | None = None
        self._key = None if isinstance(source, bytes) else index_cache.key(source)
        self._open_key = self._key, threads, max_pixels
        opened = _open_files.take(self._open_key) if self._key else None
        self._open(opened)
        found = index_cache.load(self._key, self._index_of) if self._key else None
        if opened and not found:  # it has been read to somewhere
            self._container.close()
            self._open()
        self._is_stored = found is not None
        self.index = found or self._read_index()

    def read_index_again(self) -> None:
        """Replace an index that turned out not to be the file's."""
        assert self._key is not None
        index_cache.forget(self._key)
        self._container.close()
        self._open()
        self._is_stored = False
        self.index = self._read_index()

    def close(self) -> None:
        """Close the file and free its packets; a long file stays open for the next clip."""
        self._kept = None
        if self._key and index_cache.is_long(self.index):
            opened = _OpenFile(self._container, self.stream, self.reorder_depth)
            _open_files.keep(self._open_key, opened)
        else:
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
        found = len(self.index)
        if found < promised * 0.95 - 1:
            return f"{found} frames of the {promised} that the header announces"
        times = self.index.packets.pts
        times = times[times != NO_TIME]
        if times.size and self.stream.time_base:
            lasts = float(int(times.max() - times.min()) * self.stream.time_base)
            if lasts < self.duration * (0.95 if self.stream.duration else 0.75) - 1:
                return f"{lasts:.1f} s of the {self.duration:.1f} s that the header announces"
        return ""

    def times(self, num_frames: int) -> Float[np.ndarray, " frames"]:
        """Seconds from the first frame to each, ascending; evenly spaced if the file does not say.

        Args:
          num_frames: of the video.
        """
        if self.index.order is None or not self.stream.time_base:
            rate = self.stream.average_rate
            return np.arange(num_frames) / (float(rate) if rate else ASSUMED_FPS)
        stamps = self.index.packets.pts[self.index.order]
        return (stamps - stamps[0]) * float(self.stream.time_base)

    def read(self, start: int, stop: int) -> Iterator[tuple[int, av.Packet]]:
        """Packets `start` to `stop - 1` with their numbers, or from an earlier one on."""
        if self._kept is not None:
            yield from enumerate(self._kept[start:stop], start)
            return
        for number, packet in self._seek(start):
            if number >= stop:
                return
            yield number, packet

    def _open(self, opened: "_OpenFile | None" = None) -> None:
        if opened is None:
            container = open_container(self._source, self._max_pixels)
            stream = video_stream(container, self._name, self._threads, self._max_pixels)
            opened = _OpenFile(container, stream, stream.codec_context.reorder_depth)
        self._container, self.stream, self.reorder_depth = opened

    def _read_index(self) -> Index:
        limit = 8 * _size(self._source) + (1 << 20)
        total = 0
        columns = pts, dts, pos = array("q"), array("q"), array("q")
        is_key, is_shown = bytearray(), bytearray()
        is_vp8 = self.decoder.name == "vp8"
        self._kept = []
        for packet in demux(self._container, self.stream):
            total += packet.size
            if total > limit:
                raise VideoError(
                    f"{self._name}: damaged header: the packets add up to more than {limit} bytes,"
                    " many times the file's size; re-encode or remove the file"
                )
            pts.append(NO_TIME if packet.pts is None else packet.pts)
            dts.append(NO_TIME if packet.dts is None else packet.dts)
            pos.append(-1 if packet.pos is None else packet.pos)
            is_key.append(packet.is_keyframe)
            is_shown.append(not (packet.is_discard or (is_vp8 and _is_hidden_vp8(packet))))
            if self._kept is not None:
                self._kept.append(packet)
                if total > _KEEP_BYTES:
                    self._kept = None
        if not is_key:
            raise VideoError(f"{self._name}: no video data in it; replace or remove the file")
        packets = Packets(
            *(np.frombuffer(column, np.int64) for column in columns),
            *(np.frombuffer(flags, bool) for flags in (is_key, is_shown)),
        )
        index = self._index_of(packets)
        if self._key:
            index_cache.store(self._key, index, total)
        return index

    def _index_of(self, packets: Packets) -> Index:
        return Index.of(packets, self._times_are_right, is_reordered=bool(self.reorder_depth))

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
        packets = self.index.packets
        for time in (int(packets.pts[start]), int(packets.dts[start])):
            if time == NO_TIME:
                continue
            with contextlib.suppress(av.FFmpegError):
                self._container.seek(time, stream=self.stream)
                rest = demux(self._container, self.stream)
                first = next(rest, None)
                if first is None:
                    continue
                number = self.index.find(first.pts, first.pos)
                if number is not None and number <= start:
                    return _numbered(number, first, rest)
                if number is None and self._is_stored:
                    raise StaleIndexError
        self._container.close()
        self._open()
        return enumerate(demux(self._container, self.stream))


class _OpenFile(NamedTuple):
    container: av.container.InputContainer
    stream: av.VideoStream
    reorder_depth: int


class _OpenFiles:
    """Long files that are open and not in use; opening a film reads tables of all of its frames."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: list[tuple[Any, _OpenFile]] = []

    def take(self, key: Any) -> _OpenFile | None:
        """An open file, which is then in use; None if there is none."""
        place = (os.getpid(), key)  # a forked process would share the place in the file
        with self._lock:
            for number, (found, _) in enumerate(self._files):
                if found == place:
                    return self._files.pop(number)[1]
        return None

    def keep(self, key: Any, opened: _OpenFile) -> None:
        """Keep a file open; the one that was kept first is closed if there are too many."""
        with self._lock:
            self._files.append(((os.getpid(), key), opened))
            oldest = self._files.pop(0)[1] if len(self._files) > _OPEN_FILES else None
        if oldest:
            oldest.container.close()


_open_files = _OpenFiles()


def open_container(source: Source, max_pixels: int = MAX_PIXELS) -> av.container.InputContainer:
    """Open a file for reading, with every safeguard.

    Raises:
      OSError, ValueError: it cannot be opened.
    """
    if isinstance(source, bytes):
        _refuse_sample_counts(source)
    else:
        status = Path(source).stat()
        _refuse_sample_counts_of_file(os.fspath(source), status.st_size, status.st_mtime_ns)
    # Without the scheme, FFmpeg would take "take:2.mp4" for an address.
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{os.fspath(source)}"
    options = _OPTIONS | {"max_pixels": str(max_pixels)}
    try:
        return av.open(file, "r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(_what_it_is(source) or error.strerror) from error


def video_stream(
    container: av.container.InputContainer, name: str, threads: int, max_pixels: int = MAX_PIXELS
) -> av.VideoStream:
    """The container's main video stream, ready to decode.

    Raises:
      VideoError: there is none, or its frames are too large.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
        raise VideoError(f"{name}: no video stream that can be decoded; replace or remove the file")
    if stream.width * stream.height > max_pixels:
        raise _FrameTooLargeError(stream.width, stream.height, max_pixels).named(name)
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    # Slices, not frames: frame threads hold back frames, and may hang when left early.
    stream.thread_type = "NONE" if threads == 1 else "SLICE"
    stream.thread_count = threads
    # Opened before it is told to skip frames: dav1d keeps the first setting.
    stream.codec_context.open(strict=False)
    return stream


def open_address(location: str, seconds: float) -> av.container.InputContainer:
    """Open an address that the user named: unlike paths in lists, it may be on the network.

    Args:
      location: a URL that FFmpeg opens.
      seconds: the longest wait for data.

    Raises:
      OSError, ValueError: it cannot be opened.
    """
    options = {"max_pixels": str(MAX_PIXELS)}
    return av.open(location, timeout=seconds, options=options, metadata_errors="replace")


def demux(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets, up to the first that cannot be read."""
    with contextlib.suppress(av.FFmpegError):
        while True:
            try:
                for packet in container.demux(stream):
                    if packet.size or packet.dts is not None:  # PyAV ends with an empty packet
                        yield packet
                return
            except IndexError:  # PyAV, over a packet of a stream that appeared after the header
                continue


def decode_packet(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that the decoder gives for a packet (None: the end); none if it is damaged."""
    try:
        return decoder.decode(packet)
    except av.FFmpegError as error:
        size = _TOO_LARGE.search(str(error))
        if size and not decoder.width:  # the header did not give the size
            raise _FrameTooLargeError(*map(int, size.groups())) from None
        return []


@functools.lru_cache(1024)  # of the files that were opened last; a film is opened for each clip
def _refuse_sample_counts_of_file(path: str, size: int, changed: int) -> None:
    _refuse_sample_counts(path)


def _refuse_sample_counts(source: Source) -> None:
    """Refuse counts beyond the file's bytes, for which FFmpeg would take memory at once."""
    file_size = _size(source)
    for part, counts in itertools.product(_ends(source, file_size), _COUNTS):
        for match in counts.finditer(part):
            found = {field: int.from_bytes(value) for field, value in match.groupdict().items()}
            if found.get("size", 1) * found["samples"] > file_size:
                raise ValueError("a table of samples exceeds the file's size")


def _what_it_is(source: Source) -> str:
    """What a file is that is not a readable video, by its first bytes; empty if unknown."""
    head, _ = _ends(source, _size(source))
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
        with size_limit(name):
            yield
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such file; check the list and its root folder") from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise VideoError(
            f"{name}: not readable as a video ({reason}); replace or remove the file"
        ) from error


@contextlib.contextmanager
def size_limit(name: str) -> Iterator[None]:
    """Name the file whose frames are too large."""
    try:
        yield
    except _FrameTooLargeError as error:
        raise error.named(name) from None


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


def _numbered(
    number: int, first: av.Packet, rest: Iterator[av.Packet]
) -> Iterator[tuple[int, av.Packet]]:
    yield number, first
    yield from enumerate(rest, number + 1)


def _size(source: Source) -> int:
    return len(source) if isinstance(source, bytes) else Path(source).stat().st_size
