"""Annotation lists and label maps: text files that say which video has which class."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole

PathLike = str | os.PathLike[str]
Labelled = tuple[str, int]

# What the columns of a `.csv` file are called.
_PATHS = ("path", "video", "video_path", "file", "filename", "file_name", "video_id", "id", "name")
_LABELS = ("label", "class", "class_name", "label_name", "action", "label_id", "class_id")


def read_list(path: PathLike) -> tuple[list[Labelled], list[str]]:
    """The (path, label) pairs of an annotation list, and the class names if it has names.

    A line is `relative/path label`: the label is the last field, after a space, a tab or a comma,
    and the path may contain spaces (mmaction2's format). In a file that ends in `.csv`, fields are
    separated by commas or semicolons, and the label may be the name of the class (as in Jester and
    Something-Something V1); a first line with the names of the columns is understood. Empty lines
    are left out.

    Returns:
      The pairs, and the names in alphabetical order, which numbers them; no names where the labels
      are numbers.

    Raises:
      UserError: the file is not readable, or a line is not of that form; the message gives its
        number.
    """
    lines = _lines(path)
    is_csv = Path(path).suffix.lower() == ".csv"
    fields = _columns(path, lines) if is_csv else [_split(path, *line) for line in lines]
    if not fields:
        raise UserError(f"{path}: empty; expected a line `path label` for each video")
    if all(label.isdecimal() for _, label in fields):
        return [(name, int(label)) for name, label in fields], []
    names = sorted({label for _, label in fields})
    numbers = {name: number for number, name in enumerate(names)}
    return [(name, numbers[label]) for name, label in fields], names


def write_list(path: Path, videos: Sequence[Labelled], class_names: Sequence[str]) -> None:
    """Write an annotation list, as `read_list` reads it; with the names if it ends in `.csv`.

    Raises:
      UserError: the file cannot be written.
    """
    if path.suffix.lower() != ".csv":
        write_whole(path, "".join(f"{name} {label}\n" for name, label in videos))
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows((name, class_names[k] if class_names else k) for name, k in videos)
    write_whole(path, text.getvalue())


def read_class_names(path: PathLike) -> list[str]:
    """The names of a label map, one line per class in the order of the labels.

    Raises:
      UserError: the file is not readable, or a name occurs twice.
    """
    lines, seen = _lines(path), dict[str, int]()
    for number, name in lines:
        if name in seen:
            raise UserError(
                f"{path}, line {number}: {name!r} is in line {seen[name]} too; expected one line"
                " for each class"
            )
        seen[name] = number
    return [name for _, name in lines]


def _split(path: PathLike, number: int, line: str) -> tuple[str, str]:
    """Path and label, a number, of a line."""
    name, label = [*line.rsplit(maxsplit=1), ""][:2]
    if not label.isdecimal():
        name, _, label = line.rpartition(",")
    name, label = name.strip().removesuffix(","), label.strip()
    if not label.isdecimal() or not name:
        raise UserError(
            f"{path}, line {number}: expected `path label` with a label of 0 or more, got"
            f" {line[:80]!r}; class names instead of numbers are for files that end in .csv"
        )
    return name, label


def _columns(path: PathLike, lines: Sequence[tuple[int, str]]) -> list[tuple[str, str]]:
    """Path and label of each line of a `.csv` file."""
    separator = ";" if lines and ";" in lines[0][1] else ","
    rows = list(csv.reader([line for _, line in lines], delimiter=separator))
    if len(rows) != len(lines):
        raise UserError(f"{path}: a quotation mark is not closed; expected a video in each line")
    header = [field.strip().lower() for field in rows[0]] if rows else []
    columns = [[header.index(name) for name in known if name in header][:1]
               for known in (_PATHS, _LABELS)]  # fmt: skip
    has_header = all(columns)
    first, last = (columns[0][0], columns[1][0]) if has_header else (0, -1)
    fields = []
    for (number, line), row in list(zip(lines, rows, strict=True))[has_header:]:
        if not has_header and len(row) > 2:  # a path with commas
            row = [separator.join(row[:-1]), row[-1]]
        row = [field.strip() for field in row]
        if len(row) < 2 or len(row) <= max(first, last) or not (row[first] and row[last]):
            raise UserError(
                f"{path}, line {number}: expected `path{separator}label`, got {line[:80]!r}"
            )
        fields.append((row[first], row[last]))
    return fields


def _lines(path: PathLike) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file in UTF-8, got other bytes") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
