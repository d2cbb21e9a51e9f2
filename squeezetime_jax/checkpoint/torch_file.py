"""Reads and writes PyTorch's zip format (`.pth`), without PyTorch and without trust in the file.

The format (PyTorch 1.6 and later): an uncompressed zip archive with `NAME/data.pkl`, a pickle in
which a tensor is a call of `torch._utils._rebuild_tensor_v2` on a storage's persistent id;
`NAME/data/KEY`, each storage's bytes; `NAME/byteorder`; `NAME/version`.
"""

import contextlib
import math
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from squeezetime_jax.checkpoint.archive import CHUNK, Archive, CheckpointError
from squeezetime_jax.checkpoint.inert_pickle import Global, Inert, PickleError, loads

_DTYPES = {
    "Float": np.dtype(np.float32),
    "Double": np.dtype(np.float64),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}
_DTYPE_OF_STORAGE = {f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()}
_STORAGE_OF_DTYPE = {dtype: f"{name}Storage" for name, dtype in _DTYPES.items()}

_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_NDIM = 8
MAX_CLAIM = 4  # times the file's size: what all its tensors together may unfold to
_ALIGNMENT = 64  # PyTorch's, so that a mapped file gives aligned tensors


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype
    numel: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file; `TorchFile.read` fetches it.

    Attributes:
      shape: PyTorch's axis order.
      dtype: NumPy's name for the elements' type (bfloat16 is `ml_dtypes`').
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _key: str
    _offset: int  # elements, as are the strides
    _strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile:
    """A `.pth` file, opened: `contents` is there at once, tensors are read when asked for.

    Attributes:
      path: the file.
      size: its size in bytes.
      contents: what `torch.load` would return, as plain `dict`, `list`, `tuple`, numbers and
        text; a tensor is a `StoredTensor`, anything else an `inert_pickle.Inert`.

    Raises:
      CheckpointError: the path is not a PyTorch file of the zip format, or the file is damaged, or
        it declares more than it contains.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._archive = Archive(path)
        self.path = self._archive.path
        self.size = self._archive.size
        self._storages: dict[str, np.ndarray] = {}
        self._views: Counter[str] = Counter()  # tensors of each storage
        self._claimed = 0
        try:
            self._prefix = self._find_prefix()
            self._check_byte_order()
            self.contents = self._unpickle()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was read stays valid."""
        self._storages.clear()
        self._archive.close()

    def read(self, tensor: StoredTensor) -> np.ndarray:
        """Read one tensor, its checksum compared: a read-only view of its storage.

        Raises:
          CheckpointError: the storage's bytes fail their checksum or are not there.
        """
        raw = self._storages.get(tensor._key)
        if raw is None:
            raw = self._archive.read(f"{self._prefix}data/{tensor._key}")
            if raw.nbytes > tensor.nbytes or self._views[tensor._key] > 1:
                self._storages[tensor._key] = raw  # other tensors may be views of it
        itemsize = tensor.dtype.itemsize
        view = np.ndarray(
            tensor.shape,
            tensor.dtype,
            buffer=raw.data,
            offset=tensor._offset * itemsize if math.prod(tensor.shape) else 0,
            strides=tuple(stride * itemsize for stride in tensor._strides),
        )
        view.flags.writeable = False
        return view

    def _find_prefix(self) -> str:
        """The archive's own folder, with its slash: where data.pkl lies."""
        names = self._archive.entries
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if pickles:
            return min(pickles, key=len).removesuffix("data.pkl")
        if any(name.endswith(".npy") for name in names):
            what = "a NumPy .npz file; give dict(numpy.load(path)) to from_state_dict"
        else:
            what = (
                "a zip archive, but not PyTorch's (no data.pkl); give a file that torch.save wrote"
            )
        raise CheckpointError(f"{self.path}: {what}")

    def _check_byte_order(self) -> None:
        name = f"{self._prefix}byteorder"
        if name not in self._archive.entries:  # PyTorch before 2.0, little-endian
            return
        order = self._archive.read(name)[:16].tobytes()
        if order.strip() != b"little":
            raise CheckpointError(
                f"{self.path}: wrong-endian: its byte order is {order.decode('latin1')!r}, "
                "expected 'little'; load and save it again with PyTorch on a little-endian machine"
            )

    def _unpickle(self) -> Any:
        name = f"{self._prefix}data.pkl"
        size = self._archive.entries[name]
        if size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.path}: its data.pkl has {size:,} bytes, at most {_MAX_PICKLE_BYTES:,} are "
                "read; save the state dict alone"
            )
        functions = {
            "collections.OrderedDict": _ordered_dict,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
        }
        try:
            return loads(self._archive.read(name).tobytes(), functions, self._storage)
        except PickleError as error:
            raise CheckpointError(
                f"{self.path}: damaged: its data.pkl is {error}; download or save it again"
            ) from None

    def _storage(self, identity: Any) -> _Storage | Inert:
        match identity:
            case ("storage", Global(name), str(key), _, int(numel)) if key.isprintable():
                pass
            case _:
                raise PickleError("not PyTorch's: a persistent id without a storage")
        dtype = _DTYPE_OF_STORAGE.get(name)
        if dtype is None:
            return Inert(f"a tensor of {name}")
        held = self._archive.entries.get(f"{self._prefix}data/{key}")
        if held != numel * dtype.itemsize:
            raise PickleError(
                f"inconsistent with the archive: storage {key[:20]!r} is {numel} {dtype} there and "
                f"{'missing' if held is None else f'{held} bytes'} in the archive"
            )
        return _Storage(key, dtype, numel)

    def _rebuild_tensor(self, args: tuple[Any, ...]) -> StoredTensor | Inert:
        match args[:4]:
            case (Inert() as unknown, *_):
                return unknown
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides)):
                pass
            case _:
                raise PickleError("not PyTorch's: a tensor without storage, shape or stride")
        if len(shape) > _MAX_NDIM or len(shape) != len(strides):
            raise PickleError(f"inconsistent: a tensor has {len(shape)} axes")
        if not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *strides)):
            raise PickleError("inconsistent: a tensor's shape or stride is not a size")
        numel = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if numel > storage.numel or (numel and last >= storage.numel):
            raise PickleError(
                f"inconsistent with the archive: a tensor of shape {shape} and stride {strides} "
                f"claims more than its storage's {storage.numel} elements"
            )
        tensor = StoredTensor(shape, storage.dtype, storage.key, offset, strides)
        self._views[storage.key] += 1
        self._claimed += tensor.nbytes
        if self._claimed > MAX_CLAIM * self.size:
            raise PickleError(
                "inconsistent with the archive: its tensors claim several times the file's size"
            )
        return tensor


def _ordered_dict(args: tuple[Any, ...]) -> dict | Inert:
    return Inert("an ordered dict made of pairs") if args else {}


def _rebuild_parameter(args: tuple[Any, ...]) -> Any:
    return args[0] if args else Inert("a parameter of nothing")


def write_torch_file(path: str | os.PathLike[str], contents: Any) -> None:
    """Write a file that `torch.load(path, weights_only=True)` reads.

    The storages are streamed, one array at a time, and the file appears whole or not at all.

    Args:
      path: the file to write; one that is there is replaced.
      contents: nested `dict`, `list`, `tuple`, `str`, `bool`, `int`, `float`, `None` and
        NumPy arrays, which become tensors.

    Raises:
      CheckpointError: the file cannot be written.
      TypeError: a value is of another type.
    """
    target = Path(path)
    arrays: list[np.ndarray] = []
    pickled = b"\x80\x02" + b"".join(_opcodes(contents, arrays)) + b"."
    name = target.stem or "archive"
    try:
        with _replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            _write_entry(archive, f"{name}/data.pkl", pickled)
            _write_entry(archive, f"{name}/.format_version", b"1")
            _write_entry(archive, f"{name}/.storage_alignment", str(_ALIGNMENT).encode())
            _write_entry(archive, f"{name}/byteorder", b"little")
            for key, array in enumerate(arrays):
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                raw = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
                _write_entry(archive, f"{name}/data/{key}", raw.data)
            _write_entry(archive, f"{name}/version", b"3\n")
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces the target when it is complete on disk."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_entry(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.file_size = len(data)
    header = archive.start_dir + 30 + len(name.encode())  # the local header and the name
    padding = -(header + 4) % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    with archive.open(info, "w") as entry:
        for start in range(0, len(data), CHUNK):
            entry.write(data[start : start + CHUNK])


def _opcodes(value: Any, arrays: list[np.ndarray]) -> Iterator[bytes]:
    """The protocol-2 opcodes that make the value; the arrays met on the way are collected."""
    if value is None:
        yield b"N"
    elif isinstance(value, bool):
        yield b"\x88" if value else b"\x89"
    elif isinstance(value, int):
        yield _integer(value)
    elif isinstance(value, float):
        yield struct.pack(">cd", b"G", value)
    elif isinstance(value, str):
        encoded = value.encode()
        yield struct.pack("<cI", b"X", len(encoded)) + encoded
    elif isinstance(value, dict):
        yield b"}("
        for key, item in value.items():
            yield from _opcodes(key, arrays)
            yield from _opcodes(item, arrays)
        yield b"u"
    elif isinstance(value, list | tuple):
        yield b"](" if isinstance(value, list) else b"("
        for item in value:
            yield from _opcodes(item, arrays)
        yield b"e" if isinstance(value, list) else b"t"
    elif isinstance(value, np.ndarray):
        yield _tensor(value, len(arrays))
        arrays.append(value)
    else:
        raise TypeError(f"{type(value).__name__} cannot be written to a PyTorch file")


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return struct.pack("<ci", b"J", value)
    size = value.bit_length() // 8 + 1
    return struct.pack("<cB", b"\x8a", size) + value.to_bytes(size, "little", signed=True)


def _tensor(array: np.ndarray, key: int) -> bytes:
    """A call of `_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)`."""
    storage_type = _STORAGE_OF_DTYPE.get(array.dtype)
    if storage_type is None:
        raise TypeError(f"an array of {array.dtype} cannot be written to a PyTorch file")
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    pickled_key = b"".join(_opcodes(str(key), []))
    return b"".join((
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        *_opcodes("storage", []), f"ctorch\n{storage_type}\n".encode(), pickled_key,
        *_opcodes("cpu", []), _integer(array.size), b"tQ",
        _integer(0), *_opcodes(array.shape, []), *_opcodes(tuple(strides), []),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ))  # fmt: skip


def state_dict_of(file: TorchFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The file's tensors by name, and what it holds besides them, with the rule that leaves it.

    Raises:
      CheckpointError: there is no state dict in the file, or it is damaged.
    """
    contents, left_out = file.contents, {}
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{file.path}: contains {_kind(contents)}, expected a state dict; save"
            " model.state_dict()"
        )
    for key in ("state_dict", "model"):
        if isinstance(contents.get(key), dict):
            left_out = {
                str(name): "beside the weights"
                for name, value in contents.items()
                if name != key and not isinstance(value, StoredTensor)
            }
            beside = {n: v for n, v in contents.items() if isinstance(v, StoredTensor)}
            contents = {**beside, **contents[key]}
            break
    tensors = {}
    for name, value in contents.items():
        if isinstance(value, StoredTensor):
            tensors[str(name)] = value
        else:
            left_out[str(name)] = f"{_kind(value)}, not a plain tensor"
    claimed = sum(tensor.nbytes for tensor in tensors.values())
    if claimed > MAX_CLAIM * file.size:
        raise CheckpointError(
            f"{file.path}: damaged: its weights share storage and claim {claimed:,} bytes of "
            f"{file.size:,}; save the state dict's clones"
        )
    if not tensors:
        raise CheckpointError(
            f"{file.path}: no tensors in it, or under 'state_dict' or 'model'; its entries are "
            f"{', '.join(str(name)[:40] for name in list(contents)[:5]) or 'none'}"
        )
    return tensors, left_out


def _kind(value: Any) -> str:
    return value.what if isinstance(value, Inert) else f"a {type(value).__name__}"
