"""Annotation lists and label maps: the text files that name videos and classes."""

from pathlib import Path

from squeezetime_jax.errors import UserError


def read_list(path: str | Path) -> list[tuple[str, int]]:
    """The (path, label) pairs of an annotation list, a line `relative/path label` per video.

    The label is the last field; the path may hold spaces (mmaction2's format). Empty lines are left
    out.

    Raises:
      UserError: there is no such file, or a line is not of that form; the message gives its number.
    """
    pairs = []
    for number, line in _lines(path):
        name, label = [*line.rsplit(maxsplit=1), ""][:2]
        if not label.isdecimal():
            raise UserError(
                f"{path}, line {number}: found {line[:80]!r}, wanted `path label` with a label from"
                " 0 up; correct the line"
            )
        pairs.append((name, int(label)))
    if not pairs:
        raise UserError(f"{path}: names no video; wanted one line `path label` per video")
    return pairs


def read_class_names(path: str | Path) -> list[str]:
    """The names of a label map, one line per class in the order of the labels."""
    return [name for _, name in _lines(path)]


def _lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a text file ({error}); check the path") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
