"""The videos that `VIDEO...` on the command line stands for."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from squeezetime_jax.errors import UserError

STANDARD_INPUT = "-"
_STREAM = re.compile(r"(camera(:\d+)?|/dev/video\d+|[a-z][a-z0-9+.-]*://.+)", re.IGNORECASE)


def is_stream(word: str) -> bool:
    """Whether a word stands for a camera (`camera`, `camera:1`) or a URL."""
    return bool(_STREAM.fullmatch(word))


def expand(words: Sequence[str], standard_input: Iterable[str]) -> Iterator[str]:
    """Paths of videos in the order of the words, sorted within a folder or pattern.

    Standard input is read line by line, so that a program can send paths one after the other. A
    path that does not exist is passed on; reading it raises the error.

    Args:
      words: files, folders (with their subfolders), patterns of either, or `-` for standard input.
      standard_input: lines, one path each.

    Raises:
      UserError: a folder contains no video, or a pattern matches no file.
    """
    for word in words:
        if word == STANDARD_INPUT:
            yield from (line.strip() for line in standard_input if line.strip())
        elif Path(word).is_dir():
            yield from _in_folder(Path(word))
        elif not Path(word).exists() and glob.has_magic(word):
            found = sorted(glob.glob(word, recursive=True))
            if not found:
                raise UserError(f"{word}: no file matches this pattern; check it")
            for path in found:
                yield from _in_folder(Path(path)) if Path(path).is_dir() else [path]
        else:
            yield word


def _in_folder(folder: Path) -> list[str]:
    from squeezetime_jax.data.sources import VIDEO_SUFFIXES, is_video_file

    found = sorted(str(path) for path in folder.rglob("*") if is_video_file(path))
    if not found:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(
            f"{folder}: no video found in this folder; expected files that end in {suffixes}"
        )
    return found
