"""An untrusted zip archive: its kind recognised, its sizes checked, its entries read one by one.

Only stored (not compressed) entries are taken, as PyTorch writes them; so all of them together
are no larger than the file, and memory is bounded by its size.
"""

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np

from squeezetime_jax.errors import UserError

CHUNK = 2**20  # bytes read or written at a time
_MAX_READ = 4 * 2**20  # one read; so also the largest directory: some 40,000 entries
_MIN_HEADER = 30  # bytes before each entry
# What the standard library raises on a damaged archive.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
)


class CheckpointError(UserError):
    """A checkpoint cannot be read, written or made to fit."""


class Archive:
    """A zip archive, opened.

    Attributes:
      path: the file.
      size: its size in bytes.
      entries: each entry's size in bytes, by name.

    Raises:
      CheckpointError: the path is no zip archive, or one that is truncated, encrypted,
        compressed or claims more than it contains.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file = _open(self.path)
        self.size = self._file.size
        try:
            self._zip = self._open_zip()
            self._infos = self._checked_entries()
        except BaseException:
            self._file.close()
            raise
        self.entries = {name: info.file_size for name, info in self._infos.items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, name: str) -> np.ndarray:
        """Read an entry's bytes, as uint8, and compare their checksum.

        Raises:
          CheckpointError: the bytes are damaged.
        """
        info = self._infos[name]
        whole = np.empty(info.file_size, np.uint8)
        try:
            with self._zip.open(info) as entry:
                for start in range(0, info.file_size, CHUNK):
                    size = min(CHUNK, info.file_size - start)
                    part = entry.read(size)
                    if len(part) != size:
                        raise EOFError("bytes are missing")
                    whole[start : start + size] = np.frombuffer(part, np.uint8)
        except _ZIP_ERRORS as error:
            raise CheckpointError(
                f"{self.path}: damaged: the entry {name[:80]!r} cannot be read "
                f"({_one_line(error)}); download or save it again"
            ) from None
        return whole

    def _open_zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except _ZIP_ERRORS as error:
            raise CheckpointError(
                f"{self.path}: truncated or damaged ({self.size:,} bytes; the directory at the "
                f"archive's end is unusable: {_one_line(error)}); download or copy it again"
            ) from None

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        for info in infos:
            if info.flag_bits & 0x1:
                raise CheckpointError(
                    f"{self.path}: encrypted (entry {info.filename[:80]!r}); "
                    "unpack it with its password, then pack it with `zip -0 -r`"
                )
            if info.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{self.path}: re-zipped: {info.filename[:80]!r} is compressed, expected "
                    "stored; unpack it and pack it with `zip -0 -r`, or download the file anew"
                )
        claimed = sum(info.file_size + _MIN_HEADER for info in infos)
        if claimed > self.size or any(info.file_size != info.compress_size for info in infos):
            raise CheckpointError(
                f"{self.path}: damaged: its entries claim {claimed:,} bytes or more, the file has "
                f"{self.size:,}; download it again"
            )
        by_name = {info.filename: info for info in infos}
        if len(by_name) != len(infos):
            raise CheckpointError(
                f"{self.path}: damaged: two of its entries have one name; download it again"
            )
        return by_name


class _CautiousFile(io.FileIO):
    """A file that refuses a read too large to be honest, before memory is taken for it."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        requested = self.size - self.tell() if size is None or size < 0 else size
        if requested > _MAX_READ:
            raise zipfile.BadZipFile(f"it claims {requested:,} bytes")
        return super().read(size) or b""


def _open(path: str) -> _CautiousFile:
    """Open a zip archive; for any other file, an error says what it is."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(
                f"{path}: a directory, expected a file; {_directory_advice(path)}"
            )
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path}: a device or pipe; give the path of a .pth file")
        file = _CautiousFile(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path!s}: cannot be opened: {reason}; check the path") from None
    try:
        head = file.read(512)
        if not head.startswith(b"PK\3\4"):
            raise CheckpointError(f"{path}: {_what_it_is(head)}")
    except BaseException:
        file.close()
        raise
    return file


def _directory_advice(path: str) -> str:
    if any(Path(path).glob("data.pkl")) or any(Path(path).glob("*/data.pkl")):
        return "it is an unpacked .pth: pack it with `zip -0 -r`, or download the file anew"
    return "give the path of a .pth file"


def _what_it_is(head: bytes) -> str:
    """Words for a file that is no zip archive, from its first bytes, and what to do with it."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty; download or save it again"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<!--")):
        return "an HTML page, not weights: a login or error page was saved; download the file again"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights; fetch the file itself with `git lfs pull`"
    if head[257:262] == b"ustar" or head[2:13] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P":
        return (
            "PyTorch's legacy format (before 1.6), expected the zip format; if you trust it, load "
            "and save it again with a later PyTorch"
        )
    if head[6:9] == b"\0\0{":
        return "a safetensors file; read it with `safetensors`, give the arrays to from_state_dict"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"(\xb5/\xfd")):
        return "a compressed file, expected a .pth; unpack it first"
    if head[4:8] == b"TFL3":
        return "an exported LiteRT (TFLite) model, expected weights; `squeezetime predict` reads it"
    if head.startswith(b"PK\5\6"):
        return "an empty zip archive; download or save it again"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a bare pickle, expected PyTorch's zip format; save its arrays with torch.save"
    return f"not a PyTorch file: it starts with {head[:8]!r}; give a .pth in the zip format"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
