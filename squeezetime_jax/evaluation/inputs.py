"""What `VIDEO...` on the command line means: files, folders, patterns, a list on standard input."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from squeezetime_jax.errors import UserError

STANDARD_INPUT = "-"
_STREAM = re.compile(r"(camera(:\d+)?|/dev/video\d+|[a-z][a-z0-9+.-]*://.+)", re.IGNORECASE)


def is_stream(word: str) -> bool:
    """Whether a word means frames that arrive: `camera`, `camera:1` or a URL."""
    return bool(_STREAM.fullmatch(word))


def expand(words: Sequence[str], standard_input: Iterable[str]) -> Iterator[str]:
    """Paths of videos, in the order asked for; folders and patterns sorted.

    What `-` stands for is read line by line, so that a program can feed paths as they come. A path
    that names nothing is passed on: reading it says so.

    Args:
      words: files, folders (searched below too), patterns of either, or `-`.
      standard_input: lines, one path each.

    Raises:
      UserError: a folder holds no video, or a pattern fits nothing.
    """
    for word in words:
        if word == STANDARD_INPUT:
            yield from (line.strip() for line in standard_input if line.strip())
        elif Path(word).is_dir():
            yield from _in_folder(Path(word))
        elif not Path(word).exists() and glob.has_magic(word):
            found = sorted(glob.glob(word, recursive=True))
            if not found:
                raise UserError(f"{word}: no file fits the pattern; check it")
            for path in found:
                yield from _in_folder(Path(path)) if Path(path).is_dir() else [path]
        else:
            yield word


def _in_folder(folder: Path) -> list[str]:
    from squeezetime_jax.data.sources import VIDEO_SUFFIXES  # takes half a second to import

    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        suffixes = ", ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(f"{folder}: found no video in this folder; wanted files named {suffixes}")
    return found
