"""AVA's text files: boxes with actions, excluded seconds, the list of actions.

A row of boxes is `video_id,second,x1,y1,x2,y2,action_id[,person_id or score]`, without a header,
coordinates as shares of the frame. A frame is named by its video and its whole second.
"""

import csv
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from squeezetime_jax.errors import UserError

Frame = tuple[str, int]
"""A video and a whole second of it: what AVA annotates."""

_MAX_SHOWN = 80
# How far a detection may stick out of the frame, in shares of it: a regressed box may, a little.
_OUTSIDE = 0.1


@dataclass(frozen=True)
class BoxRows:
    """The rows of a file, column by column.

    Attributes:
      frames: the distinct frames, in the order of their first rows.
      frame: of each row, as an index into `frames`.
      boxes: x1, y1, x2, y2 as shares of the frame.
      action: action id of each row; 0 where the file has no action there.
      last: the eighth column, a person's id or a score; 1 where there is none.
      line: of each row, from 1.
    """

    frames: list[Frame]
    frame: Int64[np.ndarray, " rows"]
    boxes: Float64[np.ndarray, "rows 4"]
    action: Int64[np.ndarray, " rows"]
    last: Float64[np.ndarray, " rows"]
    line: Int64[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.frame)


def read_ground_truth(path: str | Path, *, max_action: int | None = None) -> BoxRows:
    """Read annotated boxes.

    Args:
      path: the csv file; the eighth column, if there, is the person's id.
      max_action: the largest action id there may be.

    Raises:
      UserError: with file and line: a row has another number of columns, a column is no number, a
        box is not within the frame or has no corners in order, an action id is not in range.
    """
    return _read_rows(path, 0.0, max_action)


def read_detections(path: str | Path) -> BoxRows:
    """Read detected boxes; the eighth column is the score, 1 where there is none.

    Raises:
      UserError: as `read_ground_truth`; but a box may stick out of the frame by a tenth of it.
    """
    return _read_rows(path, _OUTSIDE, None)


def read_boxes(path: str | Path) -> BoxRows:
    """Read boxes that nobody has labelled: rows as `read_ground_truth`, cut off after the box.

    Raises:
      UserError: as `read_ground_truth`.
    """
    return _read_rows(path, 0.0, None, columns=(6, 7, 8))


def _read_rows(
    path: str | Path,
    outside: float,
    max_action: int | None,
    columns: Collection[int] = (7, 8),
) -> BoxRows:
    numbers: dict[Frame, int] = {}
    frame, boxes, action, last, lines = [], [], [], [], []
    for line, row in _rows(path):
        if len(row) not in columns:
            wanted = " or ".join(map(str, columns))
            raise _bad(
                path, line, f"{len(row)} columns ({','.join(row)[:_MAX_SHOWN]})", f"{wanted}"
            )
        key = (row[0], _second(path, line, row[1]))
        box = [_number(path, line, word) for word in row[2:6]]
        _check_box(path, line, box, outside)
        frame.append(numbers.setdefault(key, len(numbers)))
        boxes.append(box)
        action.append(_action(path, line, row[6], max_action) if len(row) > 6 else 0)
        last.append(_number(path, line, row[7]) if len(row) == 8 else 1.0)
        lines.append(line)
    return BoxRows(
        frames=list(numbers),
        frame=np.array(frame, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        action=np.array(action, np.int64),
        last=np.array(last, np.float64),
        line=np.array(lines, np.int64),
    )


def read_excluded(path: str | Path) -> set[Frame]:
    """Read the frames that nobody agreed on: rows `video_id,second`; empty lines are left out.

    Raises:
      UserError: with file and line, for a row of another form.
    """
    excluded = set()
    for line, row in _rows(path):
        if len(row) != 2:
            raise _bad(path, line, f"{','.join(row)[:_MAX_SHOWN]!r}", "video_id,second")
        excluded.add((row[0], _second(path, line, row[1])))
    return excluded


def read_actions(path: str | Path) -> dict[int, str]:
    """Read a list of actions: id -> name, in the file's order.

    Args:
      path: either a protobuf text file with blocks `item { name: "..." id: N }` or `label { name:
        "..." label_id: N }` (AVA's own lists), or lines `N: name` (mmaction2's).

    Raises:
      UserError: with file and line, for a line of no such form, an id that is not from 1 up, or the
        same id twice.
    """
    actions: dict[int, str] = {}
    name = ""
    for line, text in enumerate(_text(path).splitlines(), 1):
        text = text.strip()
        if match := re.fullmatch(r'name:\s*"(.*)"', text):
            name = match[1]
        elif match := re.fullmatch(r"(?:id|label_id):\s*(-?\d{1,9})", text):
            _add_action(path, line, actions, int(match[1]), name)
            name = ""
        elif match := re.fullmatch(r"(\d{1,9}):\s*(.+)", text):
            _add_action(path, line, actions, int(match[1]), match[2])
        elif not re.fullmatch(r"(?:item|label)\s*\{|\}|#.*|label_type:\s*\w+|", text):
            raise _bad(path, line, repr(text[:_MAX_SHOWN]), 'name: "..." and id: N, or `N: name`')
    if not actions:
        raise UserError(f"{path}: names no action; wanted blocks item {{ name: ... id: ... }}")
    return actions


def _add_action(
    path: str | Path, line: int, actions: dict[int, str], number: int, name: str
) -> None:
    if number < 1 or number in actions:
        found = f"action id {number}" + (" a second time" if number in actions else "")
        raise _bad(path, line, found, "each id once, from 1 up")
    actions[number] = name or f"action {number}"


def _rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, with their numbers from 1."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if row and (len(row) > 1 or row[0].strip()):
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; mend the line") from None


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: not readable as a text file ({reason}); check the path")


def _bad(path: str | Path, line: int, found: Any, wanted: str) -> UserError:
    return UserError(f"{path}, line {line}: found {found}, wanted {wanted}; mend the line")


def _second(path: str | Path, line: int, word: str) -> int:
    number = _number(path, line, word)
    if number < 0 or number > 10**9:
        raise _bad(path, line, f"second {word[:_MAX_SHOWN]!r}", "a second from 0 up")
    return int(number)


def _number(path: str | Path, line: int, word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        raise _bad(path, line, repr(word[:_MAX_SHOWN]), "a number") from None
    if not math.isfinite(number):
        raise _bad(path, line, repr(word[:_MAX_SHOWN]), "a finite number")
    return number


def _check_box(path: str | Path, line: int, box: list[float], outside: float) -> None:
    x1, y1, x2, y2 = box
    if not (-outside <= x1 and -outside <= y1 and x2 <= 1 + outside and y2 <= 1 + outside):
        raise _bad(path, line, f"box {box}", "x1, y1, x2, y2 in [0, 1], as shares of the frame")
    if x1 > x2 or y1 > y2:
        raise _bad(path, line, f"box {box}", "x1 <= x2 and y1 <= y2")


def _action(path: str | Path, line: int, word: str, max_action: int | None) -> int:
    if not word.strip().isdecimal() or not 1 <= int(word) <= (max_action or 10**9):
        upper = f" to {max_action}" if max_action else ""
        raise _bad(path, line, f"action id {word[:_MAX_SHOWN]!r}", f"a label from 1{upper}")
    return int(word)
