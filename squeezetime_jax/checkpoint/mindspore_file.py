"""Reads and writes MindSpore's checkpoints (`.ckpt`) without MindSpore or trust in the file.

The format is one protobuf message:

    Checkpoint  { repeated Value value = 1 }
    Value       { string tag = 1; oneof { TensorProto tensor = 2; MapTensorProto maptensor = 3 } }
    TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }

A large tensor comes as several values of one tag in a row, whose contents are joined. A checksum of
17 bytes may follow the message (MindSpore 2.4 and later). A scalar has no dimensions, or the one
dimension 0 (1.x).

Every length is checked against what encloses it, so that memory never exceeds the file's size.
"""

import math
import mmap
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.files import whole

SUFFIX = ".ckpt"

_DTYPES = {
    "Float16": np.dtype(np.float16),
    "Float32": np.dtype(np.float32),
    "Float64": np.dtype(np.float64),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Int8": np.dtype(np.int8),
    "Int16": np.dtype(np.int16),
    "Int32": np.dtype(np.int32),
    "Int64": np.dtype(np.int64),
    "UInt8": np.dtype(np.uint8),
    "Uint8": np.dtype(np.uint8),  # MindSpore of about 1.5
    "UInt16": np.dtype(np.uint16),
    "UInt32": np.dtype(np.uint32),
    "UInt64": np.dtype(np.uint64),
    "Bool": np.dtype(np.bool_),
    "str": np.dtype("<U1"),
}
_TYPE_OF_DTYPE = {dtype: name for name, dtype in _DTYPES.items() if name not in ("Uint8", "str")}
_ENCRYPTED = re.compile(rb"[\xd8\xd9\xda]\x5e\x3a\x7f")
_CHECKSUM = b"crc_num"  # then the CRC-32 of all before it, as ten bytes, big-endian
_CHECKSUM_BYTES = len(_CHECKSUM) + 10

_MAX_ENTRIES, _MAX_SLICES = 100_000, 1000
_MAX_TAG = 1024  # bytes
_MAX_NDIM = 8
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types

# The optimiser's state and what `append_dict` adds: names that belong to no network.
_NOT_WEIGHTS = re.compile(
    r"(moments?|moment[12]|accum|stat)\..+|learning_rate|momentum|global_step|epoch_num|step_num"
    r"|beta[12]_power|current_iterator_step|last_overflow_iterator_step|scale_sense"
)
_PYTORCH_NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_MINDSPORE_NAMES = {"running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """Where an entry lies in a file.

    Attributes:
      shape: of the tensor; PyTorch's axis order.
      dtype: of its elements.
      parts: first byte and the byte after the last of each slice of its content.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: tuple[tuple[int, int], ...]


class MindSporeFile:
    """A `.ckpt` file, opened; entries are read when asked for.

    Attributes:
      path: the file.
      entries: name -> where it lies, in the file's order.

    Raises:
      CheckpointError: the path is not such a file, or the file is encrypted, damaged, or declares
        more than it holds.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error})") from error
        if _ENCRYPTED.match(self._bytes[:4]):
            raise CheckpointError(
                f"{self.path}: encrypted; decrypt it with MindSpore (load_checkpoint with dec_key,"
                " then save_checkpoint without enc_key)"
            )
        try:
            end = self._check_sum()
            self.entries = _entries(self._bytes, end)
        except _DamagedError as error:
            raise CheckpointError(
                f"{self.path}: not a MindSpore checkpoint, or damaged: {error}; download or save it"
                " again"
            ) from None

    def __enter__(self) -> "MindSporeFile":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._bytes, mmap.mmap):
            self._bytes.close()

    def read(self, name: str) -> np.ndarray:
        """Read one entry, as an array of its own.

        Args:
          name: one of `entries`.
        """
        entry = self.entries[name]
        content = b"".join(self._bytes[first:last] for first, last in entry.parts)
        return np.frombuffer(content, entry.dtype).reshape(entry.shape)

    def _check_sum(self) -> int:
        """Compare the checksum, if there is one; where the message ends."""
        end = len(self._bytes)
        tail = self._bytes[max(end - _CHECKSUM_BYTES, 0) :]
        if not tail.startswith(_CHECKSUM) or len(tail) < _CHECKSUM_BYTES:
            return end
        end -= _CHECKSUM_BYTES
        expected = int.from_bytes(tail[len(_CHECKSUM) :], "big")
        with memoryview(self._bytes) as view:
            found = zlib.crc32(view[:end])
        if found != expected:
            raise _DamagedError(f"its checksum is {found:08x}, expected {expected:08x}")
        return end


def is_mindspore_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is to be read as a MindSpore checkpoint: a `.ckpt` that is no zip archive."""
    try:
        with open(path, "rb") as file:
            return os.fspath(path).endswith(SUFFIX) and file.read(2) != b"PK"
    except OSError:
        return False  # whoever opens it says why


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a file's weights under the names of the PyTorch release.

    Shapes and axes are PyTorch's already. The last part of a name changes (`gamma` to `weight`, and
    so on), the classifier `fc` is `cls_head.fc_cls`, and everything else stands below
    `backbone.net`. A prefix `net.` that all weights share is dropped, as MindSpore's loader does.

    Returns:
      The weights by name, and the names that were left out: the optimiser's state, counters, texts.

    Raises:
      CheckpointError: as for `MindSporeFile`; or there is no weight.
    """
    with MindSporeFile(path) as file:
        names: list[str] = []
        left_out: list[str] = []
        for name, entry in file.entries.items():
            is_weight = entry.dtype.kind != "U" and not _NOT_WEIGHTS.fullmatch(name)
            (names if is_weight else left_out).append(name)
        if not names:
            raise CheckpointError(f"{file.path}: holds no weights, only {', '.join(left_out[:5])}")
        prefix = "net." if all(name.startswith("net.") for name in names) else ""
        return {_to_pytorch(name.removeprefix(prefix)): file.read(name) for name in names}, left_out


def write_weights(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
    """Write weights named as in the PyTorch release, whole or not at all.

    Args:
      path: the file.
      state_dict: the weights by name; counters (`num_batches_tracked`) have no counterpart and are
        left out.

    Raises:
      CheckpointError: an entry's type has no counterpart in the format.
    """
    norms = {
        name.removesuffix(".running_mean") for name in state_dict if name.endswith("running_mean")
    }
    with whole(Path(path)) as part, part.open("wb") as file:
        for name, values in state_dict.items():
            if not name.endswith("num_batches_tracked"):
                file.write(_value(_to_mindspore(name, norms), np.asarray(values)))


def _to_pytorch(name: str) -> str:
    *path, last = name.split(".")
    name = ".".join([*path, _PYTORCH_NAMES.get(last, last)])
    return (
        f"cls_head.fc_cls.{name.removeprefix('fc.')}" if path == ["fc"] else f"backbone.net.{name}"
    )


def _to_mindspore(name: str, norms: set[str]) -> str:
    path, _, last = name.rpartition(".")
    if path in norms:
        last = {"weight": "gamma", "bias": "beta"}.get(last, _MINDSPORE_NAMES.get(last, last))
    path = (
        path.replace("cls_head.fc_cls", "fc")
        .removeprefix("backbone.net.")
        .removeprefix("backbone.net")
    )
    return f"{path}.{last}" if path else last


class _DamagedError(Exception):
    """The bytes are not those of a checkpoint."""


def _entries(data: mmap.mmap | bytes, end: int) -> dict[str, StoredEntry]:
    """Name -> entry of the message in `data[:end]`."""
    found: dict[str, StoredEntry] = {}
    latest = ""
    for field, wire, first, last in _fields(data, 0, end):
        if field != 1:
            continue  # a later version's, as protobuf skips it
        if wire != _LENGTH:
            raise _DamagedError(f"byte {first}: a value without a length")
        tag, entry = _read_value(data, first, last)
        if tag in found:
            earlier = found[tag]
            if tag != latest or (earlier.shape, earlier.dtype) != (entry.shape, entry.dtype):
                raise _DamagedError(f"the entry {tag!r} occurs twice")
            entry = StoredEntry(entry.shape, entry.dtype, earlier.parts + entry.parts)
        found[tag] = entry
        latest = tag
        if len(found) > _MAX_ENTRIES or len(entry.parts) > _MAX_SLICES:
            raise _DamagedError(f"more than {_MAX_ENTRIES} entries or {_MAX_SLICES} slices of one")
    if not found:
        raise _DamagedError("no entries")
    return {tag: _checked(tag, entry) for tag, entry in found.items()}


def _read_value(data: mmap.mmap | bytes, start: int, end: int) -> tuple[str, StoredEntry]:
    tag = entry = None
    for field, wire, first, last in _fields(data, start, end):
        if field == 3:
            raise _DamagedError(
                f"{tag or 'an entry'!r} is a hash table (MapTensor), which is not supported"
            )
        if field not in (1, 2):
            continue
        if wire != _LENGTH or (tag if field == 1 else entry) is not None:
            raise _DamagedError(f"byte {first}: a value with two names or two tensors")
        if field == 1:
            tag = _text(data, first, last)
        else:
            entry = _read_tensor(data, first, last)
    if not tag or entry is None:
        raise _DamagedError(f"byte {start}: a value without a name or a tensor")
    return tag, entry


def _read_tensor(data: mmap.mmap | bytes, start: int, end: int) -> StoredEntry:
    dims: list[int] = []
    kind: str | None = None
    content: tuple[int, int] | None = None
    for field, wire, first, last in _fields(data, start, end):
        if field == 1 and wire == _VARINT:
            dims.append(_varint(data, first, last)[0])
        elif field == 1 and wire == _LENGTH:  # packed
            while first < last and len(dims) <= _MAX_NDIM:
                number, first = _varint(data, first, last)
                dims.append(number)
        elif field in (2, 3) and wire == _LENGTH:
            if (kind if field == 2 else content) is not None:
                raise _DamagedError(f"byte {first}: a tensor with two types or two contents")
            if field == 2:
                kind = _text(data, first, last)
            else:
                content = first, last
        elif field in (1, 2, 3):
            raise _DamagedError(f"byte {first}: a field of the wrong wire type")
        if len(dims) > _MAX_NDIM:
            raise _DamagedError(f"byte {start}: a tensor of more than {_MAX_NDIM} dimensions")
    if kind not in _DTYPES:
        raise _DamagedError(f"elements of type {kind!r}; known types are {', '.join(_DTYPES)}")
    if any(size >= 1 << 63 for size in dims):
        raise _DamagedError(f"byte {start}: a negative dimension")
    return StoredEntry(tuple(dims), _DTYPES[kind], (content or (end, end),))


def _checked(tag: str, entry: StoredEntry) -> StoredEntry:
    """The entry with the shape that its content has."""
    nbytes = sum(last - first for first, last in entry.parts)
    itemsize = entry.dtype.itemsize
    if not nbytes:
        raise _DamagedError(f"{tag!r} is empty")
    if entry.dtype == _DTYPES["str"]:
        if nbytes % itemsize:
            raise _DamagedError(
                f"{tag!r} is a text of {nbytes} bytes, not a multiple of {itemsize}"
            )
        return StoredEntry((), np.dtype(f"<U{nbytes // itemsize}"), entry.parts)
    count = math.prod(entry.shape)
    if entry.shape == (0,) and nbytes == itemsize:  # a scalar as 1.x writes it
        return StoredEntry((), entry.dtype, entry.parts)
    if count * itemsize != nbytes:
        raise _DamagedError(
            f"{tag!r} has {nbytes} bytes, expected {count * itemsize} for the shape {entry.shape}"
        )
    return entry


def _fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, first byte, byte after the last) of each field of a message."""
    place = start
    while place < end:
        key, place = _varint(data, place, end)
        field, wire = key >> 3, key & 7
        if not field:
            raise _DamagedError(f"byte {place}: a field of number 0")
        if wire == _VARINT:
            last = _varint(data, place, end)[1]
        elif wire == _LENGTH:
            length, place = _varint(data, place, end)
            last = place + length
        elif wire in (_FIXED64, _FIXED32):
            last = place + (8 if wire == _FIXED64 else 4)
        else:
            raise _DamagedError(f"byte {place}: wire type {wire} is not supported")
        if last > end:
            raise _DamagedError(
                f"byte {place}: a length that goes past the end; the file may be truncated"
            )
        yield field, wire, place, last
        place = last


def _varint(data: mmap.mmap | bytes, place: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits, and the byte after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise _DamagedError(f"byte {place}: a number is cut off; the file may be truncated")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, place
    raise _DamagedError(f"byte {place}: a number of more than 64 bits")


def _text(data: mmap.mmap | bytes, first: int, last: int) -> str:
    if last - first > _MAX_TAG:
        raise _DamagedError(
            f"byte {first}: a name of {last - first} bytes, expected at most {_MAX_TAG}"
        )
    try:
        text = data[first:last].decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise _DamagedError(f"byte {first}: a name that is not printable text")
    return text


def _value(name: str, values: np.ndarray) -> bytes:
    """An entry as its bytes in a file."""
    kind = _TYPE_OF_DTYPE.get(values.dtype)
    if kind is None:
        raise CheckpointError(f"{name}: MindSpore's format has no type for {values.dtype}")
    dims = b"".join(b"\x08" + _to_varint(size) for size in values.shape)
    tensor = dims + _field(2, kind.encode()) + _field(3, values.tobytes())
    return _field(1, _field(1, name.encode()) + _field(2, tensor))


def _field(number: int, content: bytes) -> bytes:
    return _to_varint(number << 3 | _LENGTH) + _to_varint(len(content)) + content


def _to_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
