"""Text, CSV and JSON files that other programs wrote; errors name the file and the place in it."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeezetime_jax.errors import UserError

PathLike = str | os.PathLike[str]

_MAX_SHOWN = 80


def expected(place: str, expectation: str, got: Any) -> UserError:
    """The error for something that is not as a file format has it.

    Args:
      place: the file, and the line or the field.
      expectation: what the format has there.
      got: what is there instead.
    """
    return UserError(f"{place}: expected {expectation}, got {repr(got)[:_MAX_SHOWN]}")


def number(
    place: str,
    value: Any,
    *,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    name: str = "",
) -> float:
    """A finite number in [low, high], from a number or its text.

    Args:
      place: what errors begin with.
      value: the number or text.
      low: least number allowed.
      high: largest number allowed.
      name: of the column, for the error.

    Raises:
      UserError: it is not such a number.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and low <= found <= high):
        limits = f" in [{low:g}, {high:g}]" if high < math.inf else ""
        limits = limits or (f" of at least {low:g}" if low > -math.inf else "")
        raise expected(f"{place}, {name}" if name else place, f"a finite number{limits}", value)
    return found


def read_text(path: PathLike) -> str:
    """The contents of a UTF-8 text file, without a byte order mark.

    Raises:
      UserError: there is no such file, or it is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read as text ({reason}); check the path") from None


def read_lines(path: PathLike) -> Iterator[tuple[str, str]]:
    """(place, line) of each line that is not blank; the place is for errors.

    Raises:
      UserError: as `read_text`.
    """
    for line_number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path}, line {line_number}", line.strip()


def read_csv(path: PathLike) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each line that is not blank; the place is for errors.

    Raises:
      UserError: as `read_text`; or a line is not CSV.
    """
    reader = csv.reader(io.StringIO(read_text(path)))
    try:
        for fields in reader:
            if len(fields) > 1 or (fields and fields[0].strip()):
                yield f"{path}, line {reader.line_num}", fields
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: invalid CSV ({error})") from None


def read_json(path: PathLike) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
      UserError: there is no such file, it is not JSON, it holds NaN or Infinity, or something else
        than an object.
    """

    def refuse(word: str) -> None:
        raise UserError(f"{path}: expected finite numbers, got {word}")

    try:
        content = json.loads(read_text(path), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: invalid JSON ({error.msg})"
        ) from None
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: invalid JSON ({reason})") from None
    if not isinstance(content, dict):
        raise expected(str(path), "one JSON object", content)
    return content


def field(place: str, entry: Any, name: str, kind: type) -> Any:
    """A field of a JSON object.

    Args:
      place: of the object, for errors.
      entry: the object.
      name: of the field.
      kind: `dict`, `list` or `str`.

    Raises:
      UserError: the entry is not an object, lacks the field, or the field is of another kind.
    """
    if not isinstance(entry, dict):
        raise expected(place, "an object", entry)
    if name not in entry:
        raise expected(place, f"a field {name!r}", sorted(entry)[:5])
    if not isinstance(entry[name], kind):
        kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
        raise expected(f"{place}, field {name}", kinds[kind], entry[name])
    return entry[name]
