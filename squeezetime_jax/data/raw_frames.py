"""Videos as folders of numbered pictures, as Something-Something V1 and Jester come."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from squeezetime_jax.data.packets import VideoError
from squeezetime_jax.data.video import FrameSequence

SUFFIXES = frozenset((".jpg", ".jpeg"))


def is_frame(name: str) -> bool:
    """Whether a file's name is that of a numbered picture, such as 00001.jpg or img_00001.jpg."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" in SUFFIXES and stem[-1:].isdecimal() and not name.startswith(".")


def open_frames(folder: Path, name: str) -> FrameSequence:
    """Random access to the frames of a folder, in the order of their names; a context manager.

    Raises:
      VideoError: the folder has no numbered pictures.
    """
    files = sorted(
        (file for file in folder.iterdir() if is_frame(file.name)), key=lambda f: _order(f.name)
    )
    if not files:
        raise VideoError(
            f"{name}: no frame found in this folder; expected numbered pictures, such as 00001.jpg"
        )
    return FrameSequence(_Files(files, name), name)


def _order(name: str) -> tuple[str, int]:
    """Text before the number, and the number: frame 10 comes after frame 9."""
    stem = name.rpartition(".")[0]
    text = stem.rstrip("0123456789")
    return text, int(stem[len(text) :])


class _Files(Sequence[bytes]):
    """The contents of files, read when they are needed."""

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self._files, self._name = files, name

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> "_Files": ...

    def __getitem__(self, index: int | slice) -> "bytes | _Files":
        if isinstance(index, slice):
            return _Files(self._files[index], self._name)
        try:
            return self._files[index].read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise VideoError(f"{self._name}: {self._files[index].name}: {reason}") from None
