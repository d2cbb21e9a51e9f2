"""What the packets of a video file say, and where it is kept between two openings of the file.

The index of a long file is kept in memory, and on disk under the user's cache folder, so that a
clip of a film does not read the whole film. A stored index belongs to a path, a size and a time of
change. It is checked when it is read (a checksum, its shape), and what is derived from it is
computed again; the reader of the packets compares positions in the file with it.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Bool, Int32, Int64

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole

NO_TIME = -(1 << 63)
"""A time stamp that is missing (FFmpeg's number)."""

# An index is kept in memory from so many packets on; on disk from so many packets or bytes on.
_IN_MEMORY_PACKETS, _ON_DISK_PACKETS, _ON_DISK_BYTES = 1_000, 10_000, 256 << 20
# All indices in the memory of a process, and on disk. The last used are kept.
_MEMORY_LIMIT, _DISK_LIMIT = 64 << 20, 1 << 30
_VERSION = f"1 {av.library_versions}"


class Packets(NamedTuple):
    """What is read of each packet, in the order of the file.

    Attributes:
      pts: presentation time, in the stream's unit; `NO_TIME` if missing.
      dts: decoding time, likewise.
      pos: position in the file, in bytes; -1 if unknown.
      is_key: whether it is a keyframe.
      is_shown: whether it shows a frame.
    """

    pts: Int64[np.ndarray, " packets"]
    dts: Int64[np.ndarray, " packets"]
    pos: Int64[np.ndarray, " packets"]
    is_key: Bool[np.ndarray, " packets"]
    is_shown: Bool[np.ndarray, " packets"]


@dataclasses.dataclass(frozen=True)
class Index:
    """What the packets say; about 35 bytes a packet.

    Attributes:
      packets: as read.
      keys: numbers of the keyframe packets, ascending.
      num_shown: packets that show a frame; None where several may share one.
      order: packet number of frame k, in the order of showing; None if time stamps do not say.
      rank: frame number of each packet; -1 for packets that show nothing.
      steady: the frames are evenly spaced, so that their order is certain. If false, the order
        holds as long as the decoder, given some packets more, does not contradict it.
    """

    packets: Packets
    keys: Int32[np.ndarray, " keys"]
    num_shown: int | None
    order: Int32[np.ndarray, " frames"] | None
    rank: Int32[np.ndarray, " packets"]
    steady: bool

    @classmethod
    def of(
        cls, packets: Packets, times_are_right: Callable[[np.ndarray], bool], *, is_reordered: bool
    ) -> "Index":
        """The index of packets.

        Args:
          packets: at least one.
          times_are_right: whether the presentation times of the shown packets are usable.
          is_reordered: whether the decoder may show frames in another order than stored.
        """
        shown = np.flatnonzero(packets.is_shown)
        known = packets.pts[shown]
        known = known[known != NO_TIME]
        places = np.argsort(known, kind="stable")
        gaps = np.diff(known[places])
        unique = 0 < len(shown) == len(known) and bool(np.all(gaps > 0))
        order = None
        if unique and times_are_right(known):
            order = shown[places].astype(np.int32)
        rank = np.full(len(packets.pts), -1, np.int32)
        if order is not None:
            rank[order] = np.arange(len(order), dtype=np.int32)
        return cls(
            packets,
            keys=np.flatnonzero(packets.is_key).astype(np.int32),
            num_shown=len(shown) if unique else None,
            order=order,
            rank=rank,
            # Evenly spaced, except for rounding to the container's unit.
            steady=not is_reordered or not gaps.size or bool(gaps.max() <= 2 * gaps.min()),
        )

    def __len__(self) -> int:
        return len(self.packets.pts)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        arrays = (*self.packets, self.keys, self.rank)
        return sum(a.nbytes for a in arrays) + (0 if self.order is None else self.order.nbytes)

    def key_for(self, packet: int) -> int:
        """The last keyframe at or before the packet that is also shown no later than it.

        Frames stored after a keyframe but shown before it may refer to what came earlier.
        """
        for key in self.keys[: np.searchsorted(self.keys, packet, "right")][::-1]:
            if 0 <= self.rank[key] <= self.rank[packet]:
                return int(key)
        return 0

    def find(self, pts: int | None, pos: int | None) -> int | None:
        """The number of the packet with this time and position; None if that is not one packet."""
        time = NO_TIME if pts is None else pts
        found = np.flatnonzero((self.packets.pos == pos) & (self.packets.pts == time))
        return int(found[0]) if pos is not None and len(found) == 1 else None


class Key(NamedTuple):
    """A file as it is now.

    Attributes:
      path: absolute.
      size: in bytes.
      changed: time of the last change, in nanoseconds.
    """

    path: str
    size: int
    changed: int


def key(path: str | os.PathLike[str]) -> Key:
    """The key of a file's index.

    Raises:
      OSError: there is no such file.
    """
    status = os.stat(path)
    return Key(os.path.abspath(path), status.st_size, status.st_mtime_ns)


class _Memory:
    """The indices that were used last, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: collections.OrderedDict[Key, Index] = collections.OrderedDict()
        self._size = 0

    def get(self, key: Key) -> Index | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Key, index: Index) -> None:
        self.remove(key)
        with self._lock:
            self._found[key] = index
            self._size += index.num_bytes
            while self._size > _MEMORY_LIMIT and len(self._found) > 1:
                _, oldest = self._found.popitem(last=False)
                self._size -= oldest.num_bytes

    def clear(self) -> None:
        with self._lock:
            self._found.clear()
            self._size = 0

    def remove(self, key: Key) -> None:
        with self._lock:
            if key in self._found:
                self._size -= self._found.pop(key).num_bytes


_memory = _Memory()


def load(key: Key, build: Callable[[Packets], Index]) -> Index | None:
    """The stored index of a file; None if there is none, or it is damaged.

    Args:
      key: of the file as it is now.
      build: makes the index of packets.
    """
    index = _memory.get(key)
    if index is None and (packets := _read(_file(key))) is not None:
        index = build(packets)
        _memory.put(key, index)
    return index


def store(key: Key, index: Index, num_bytes: int) -> None:
    """Keep the index of a long file; that of a short one is read again as fast.

    Args:
      key: of the file as it was before it was read.
      index: of its packets.
      num_bytes: of its packets together.
    """
    if is_long(index):
        _memory.put(key, index)
    if len(index) >= _ON_DISK_PACKETS or num_bytes >= _ON_DISK_BYTES:
        with contextlib.suppress(OSError, UserError):  # a full disk, or a home that is read-only
            _write(_file(key), index.packets)


def is_long(index: Index) -> bool:
    """Whether the index of a file is kept in memory."""
    return len(index) >= _IN_MEMORY_PACKETS


def forget(key: Key) -> None:
    """Remove an index that is not that of the file."""
    _memory.remove(key)
    with contextlib.suppress(OSError):
        _file(key).unlink(missing_ok=True)


def forget_memory() -> None:
    """Leave to the disk what it has, as in a new process."""
    _memory.clear()


def folder() -> Path:
    """Where indices are on disk: under `XDG_CACHE_HOME`, else `~/.cache`."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "squeezetime_jax" / "video-indices"


def _file(key: Key) -> Path:
    text = "\n".join((_VERSION, *map(str, key)))
    return folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


def _write(file: Path, packets: Packets) -> None:
    """One int64 array: rows pts, dts, pos and flags; in the first column, the rest's checksum."""
    table = np.zeros((4, 1 + len(packets.pts)), np.int64)
    for row, values in zip(table, packets[:3], strict=False):
        row[1:] = values
    table[3, 1:] = packets.is_key + 2 * packets.is_shown.astype(np.int64)
    table[0, 0] = _checksum(table)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _make_room(file.parent, table.nbytes)
    content = io.BytesIO()
    np.save(content, table, allow_pickle=False)
    write_whole(file, content.getvalue())


def _read(file: Path) -> Packets | None:
    try:
        table = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    if table.dtype != np.int64 or table.ndim != 2 or len(table) != 4 or table.shape[1] < 2:
        return None
    if table[0, 0] != _checksum(table):
        return None
    pts, dts, pos, flags = table[:, 1:]
    return Packets(pts, dts, pos, (flags & 1).astype(bool), (flags & 2).astype(bool))


def _checksum(table: np.ndarray) -> int:
    return zlib.crc32(table[:, 1:].tobytes())


def _make_room(folder: Path, needed: int) -> None:
    """Remove the oldest indices until another fits."""
    files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in folder.glob("*.npy"))
    total = needed + sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= _DISK_LIMIT:
            return
        file.unlink(missing_ok=True)
        total -= size
