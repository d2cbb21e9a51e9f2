"""AVA's text files: boxes with actions, excluded seconds, the list of actions.

A row of boxes is `video_id,second,x1,y1,x2,y2,action_id[,person_id or score]`, without a header,
coordinates as shares of the frame. A frame is named by its video and its whole second.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from squeezetime_jax.data.tables import PathLike, expected, number, read_csv, read_lines
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole

Frame = tuple[str, int]
"""A video and a whole second of it: what AVA annotates."""

DECIMALS = 4
"""Of the numbers in a file of detections (mmaction2)."""

# How far a detection may reach beyond the frame, as a share of it: regressed boxes do, slightly.
_MARGIN = 0.1
_MAX_SECOND = 10**9
_MAX_ACTION = 10**9


@dataclass(frozen=True)
class BoxRows:
    """The rows of a file, column by column.

    Attributes:
      frames: the distinct frames, in the order of their first rows.
      frame: of each row, as an index into `frames`.
      boxes: x1, y1, x2, y2 as shares of the frame.
      action: action id of each row; 0 where the file has no action column.
      last: the eighth column, a person's id or a score; 1 where there is none.
    """

    frames: list[Frame]
    frame: Int64[np.ndarray, " rows"]
    boxes: Float64[np.ndarray, "rows 4"]
    action: Int64[np.ndarray, " rows"]
    last: Float64[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.frame)


def read_ground_truth(path: PathLike, *, max_action: int | None = None) -> BoxRows:
    """Read annotated boxes.

    Args:
      path: the csv file; the eighth column, if there is one, is the person's id.
      max_action: the largest action id allowed.

    Raises:
      UserError: with file and line: the number of columns is wrong, a column is not a number, a box
        is not within the frame or its corners are swapped, an action id is out of range.
    """
    return _read_rows(path, 0.0, max_action)


def read_detections(path: PathLike) -> BoxRows:
    """Read detected boxes; the eighth column is the score, 1 where there is none.

    Raises:
      UserError: as `read_ground_truth`; but a box may reach beyond the frame by a tenth of it.
    """
    return _read_rows(path, _MARGIN, None)


def read_boxes(path: PathLike) -> BoxRows:
    """Read boxes without actions: rows as for `read_ground_truth`, of which only six are needed.

    Raises:
      UserError: as `read_ground_truth`.
    """
    return _read_rows(path, 0.0, None, columns=(6, 7, 8))


def _read_rows(
    path: PathLike, margin: float, max_action: int | None, columns: Collection[int] = (7, 8)
) -> BoxRows:
    numbers: dict[Frame, int] = {}
    frame, boxes, action, last = [], [], [], []
    for place, row in read_csv(path):
        if len(row) not in columns:
            counts = " or ".join(map(str, columns))
            raise expected(place, f"{counts} columns", ",".join(row))
        key = (row[0], _second(place, row[1]))
        frame.append(numbers.setdefault(key, len(numbers)))
        boxes.append(_box(place, row[2:6], margin))
        action.append(_action(place, row[6], max_action) if len(row) > 6 else 0)
        last.append(number(place, row[7]) if len(row) == 8 else 1.0)
    return BoxRows(
        frames=list(numbers),
        frame=np.array(frame, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        action=np.array(action, np.int64),
        last=np.array(last, np.float64),
    )


def _second(place: str, word: str) -> int:
    return int(number(place, word, low=0, high=_MAX_SECOND, name="second"))


def _box(place: str, words: list[str], margin: float) -> list[float]:
    box = [number(place, word) for word in words]
    x1, y1, x2, y2 = box
    if min(box) < -margin or max(box) > 1 + margin:
        raise expected(place, "x1, y1, x2, y2 in [0, 1], as shares of the frame", box)
    if x1 > x2 or y1 > y2:
        raise expected(place, "a box with x1 <= x2 and y1 <= y2", box)
    return box


def _action(place: str, word: str, max_action: int | None) -> int:
    if not word.strip().isdecimal() or not 1 <= int(word) <= (max_action or _MAX_ACTION):
        limits = f"from 1 to {max_action}" if max_action else "of at least 1"
        raise expected(place, f"an action id {limits}", word)
    return int(word)


def write_detections(path: Path, rows: BoxRows) -> None:
    """Write detections as a csv file in AVA's format, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    with whole(path) as part, part.open("w") as file:
        for index, box, action, score in zip(
            rows.frame, rows.boxes, rows.action, rows.last, strict=True
        ):
            video, second = rows.frames[index]
            numbers = ",".join(f"{value:.{DECIMALS}f}" for value in box)
            file.write(f"{video},{second},{numbers},{action},{score:.{DECIMALS}f}\n")


def read_excluded(path: PathLike) -> set[Frame]:
    """Read the frames that do not count, because annotators disagreed: rows `video_id,second`.

    Raises:
      UserError: with file and line, for a row of another form.
    """
    excluded = set()
    for place, row in read_csv(path):
        if len(row) != 2:
            raise expected(place, "video_id,second", ",".join(row))
        excluded.add((row[0], _second(place, row[1])))
    return excluded


def read_actions(path: PathLike) -> dict[int, str]:
    """Read a list of actions: id -> name, in the file's order.

    Args:
      path: either a protobuf text file with blocks `item { name: "..." id: N }` or `label { name:
        "..." label_id: N }` (AVA's own lists), or lines `N: name` (mmaction2's).

    Raises:
      UserError: with file and line, for a line of another form, an id below 1, or a repeated id.
    """
    actions: dict[int, str] = {}
    name = ""
    for place, text in read_lines(path):
        if match := re.fullmatch(r'name:\s*"(.*)"', text):
            name = match[1]
        elif match := re.fullmatch(r"(?:id|label_id):\s*(-?\d{1,9})|(\d{1,9}):\s*(.+)", text):
            action = int(match[1] or match[2])
            if action < 1 or action in actions:
                raise expected(place, "an action id of at least 1, each once", action)
            actions[action] = match[3] or name or f"action {action}"
            name = ""
        elif not re.fullmatch(r"(?:item|label)\s*\{|\}|#.*|label_type:\s*\w+", text):
            raise expected(place, 'name: "..." and id: N, or `N: name`', text)
    if not actions:
        raise UserError(f"{path}: no action found; expected blocks item {{ name: ... id: ... }}")
    return actions
