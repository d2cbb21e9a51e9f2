"""Frame mAP at an IoU of 0.5, in mmaction2's arithmetic or ActivityNet's.

A detection is right where it overlaps a box of its action in its frame by at least a half, and no
detection of a higher score has taken that box. The average precision of an action is the area under
its precision-recall curve with precision made monotone (VOC 2010 and later).

Where the two protocols differ, mmaction2 (the default) leaves out detections on frames without
ground truth, leaves actions without a single detection out of the mean, and counts the ground
truth of excluded frames among the boxes to be found; ActivityNet's counts the first as wrong, the
second as 0, and drops the third.
"""

import json
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from squeezetime_jax.data.tables import PathLike
from squeezetime_jax.evaluation.average_precision import average_precision
from squeezetime_jax.tasks.detection.annotations import (
    BoxRows,
    Frame,
    read_actions,
    read_detections,
    read_excluded,
    read_ground_truth,
)

Protocol = Literal["mmaction2", "official"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

IOU = 0.5

GROUPS = {
    "person_movement": range(1, 15),
    "object_manipulation": range(15, 64),
    "person_interaction": range(64, 10**9),
}
"""AVA's three groups of actions, by id."""


@dataclass(frozen=True)
class FrameMap:
    """The frame mAP of a set of detections.

    Attributes:
      actions: id -> name, of the actions that count.
      average_precision: by action id; NaN: no ground truth, or (mmaction2) no detection.
      num_ground_truth: boxes to be found, by action id.
      num_detections: detections that counted, by action id.
      protocol: whose arithmetic.
    """

    actions: Mapping[int, str]
    average_precision: Mapping[int, float]
    num_ground_truth: Mapping[int, int]
    num_detections: Mapping[int, int]
    protocol: str

    @property
    def overall(self) -> float:
        """Mean of the average precisions that are not NaN, in [0, 1]; NaN if all are."""
        return _mean(self.average_precision.values())

    def groups(self) -> dict[str, float]:
        """The same for each of AVA's groups of actions."""
        return {
            name: _mean(ap for action, ap in self.average_precision.items() if action in ids)
            for name, ids in GROUPS.items()
        }

    def to_json(self) -> dict[str, Any]:
        """`overall`, `groups` and `classes` as shares in [0, 1], None in place of NaN."""
        names = unique_names(self.actions)
        return {
            "overall": _or_none(self.overall),
            "groups": {name: _or_none(value) for name, value in self.groups().items()},
            "classes": {names[k]: _or_none(ap) for k, ap in self.average_precision.items()},
            "ground_truth": {names[k]: count for k, count in self.num_ground_truth.items()},
            "detections": {names[k]: count for k, count in self.num_detections.items()},
            "protocol": self.protocol,
            "iou": IOU,
        }

    def table(self) -> str:
        """The result as text: a line per action, the groups, the mean."""
        lines = ["     AP   boxes  found  action"]
        for action, name in self.actions.items():
            ap = percent(self.average_precision[action])
            counts = f"{self.num_ground_truth[action]:7} {self.num_detections[action]:6}"
            lines.append(f"{ap:>7} {counts}  {name}")
        lines += [f"{percent(value):>7}  {name}" for name, value in self.groups().items()]
        lines.append(f"{percent(self.overall):>7}  frame mAP at IoU 0.5 ({self.protocol})")
        return "\n".join(lines)

    def figure(self) -> Any:
        """A Matplotlib figure: the average precisions as bars, the highest at the top."""
        from squeezetime_jax.evaluation.pictures import new_figure  # takes a second to import

        known = {k: ap for k, ap in self.average_precision.items() if not math.isnan(ap)}
        order = sorted(known, key=known.__getitem__)
        figure = new_figure(8.0, 1.2 + 0.2 * len(order))
        axes = figure.subplots()
        axes.barh(range(len(order)), [100 * known[k] for k in order], color="#44719c")
        axes.set_yticks(range(len(order)), [self.actions[k] for k in order], fontsize=7)
        axes.set(xlabel="average precision at IoU 0.5, %", xlim=(0, 100))
        axes.set(ylim=(-0.6, len(order) - 0.4))
        axes.set_title(f"frame mAP {percent(self.overall)}", fontsize=11)
        return figure


def unique_names(actions: Mapping[int, str]) -> dict[int, str]:
    """The names by id, with the id appended to those that occur twice."""
    names = list(actions.values())
    return {k: f"{name} ({k})" if names.count(name) > 1 else name for k, name in actions.items()}


def percent(share: float) -> str:
    """A share in percent, a dash for NaN."""
    return "-" if math.isnan(share) else f"{100 * share:.2f} %"


def score_files(
    ground_truth: PathLike,
    detections: PathLike,
    labels: PathLike,
    *,
    exclude: PathLike | None = None,
    protocol: Protocol = "mmaction2",
    as_json: bool = False,
) -> None:
    """Print the frame mAP of a csv file of detections: `squeezetime frame-map`.

    Args:
      ground_truth: csv file of annotated boxes.
      detections: csv file of detected boxes.
      labels: list of the actions that count.
      exclude: csv file of frames that do not count.
      protocol: whose arithmetic.
      as_json: one JSON object instead of a table.

    Raises:
      UserError: a file cannot be read.
    """
    actions = read_actions(labels)
    truth, found = read_ground_truth(ground_truth), read_detections(detections)
    excluded = read_excluded(exclude) if exclude else set()
    for path, rows in ((ground_truth, truth), (detections, found)):
        others = sum(action not in actions for action in rows.action.tolist())
        if others:
            print(f"{path}: {others} rows left out, {labels} lacks their actions", file=sys.stderr)
    result = frame_map(truth, found, actions, excluded=excluded, protocol=protocol)
    print(json.dumps(result.to_json()) if as_json else result.table())


def frame_map(
    ground_truth: BoxRows,
    detections: BoxRows,
    actions: Mapping[int, str],
    *,
    excluded: Collection[Frame] = (),
    protocol: Protocol = "mmaction2",
) -> FrameMap:
    """Score detections.

    Args:
      ground_truth: the boxes to be found; rows of other actions are left out.
      detections: the boxes found, `last` being the scores; rows of other actions are left out.
      actions: id -> name of the actions that count.
      excluded: frames that do not count.
      protocol: whose arithmetic.
    """
    numbers = {frame: n for n, frame in enumerate(ground_truth.frames)}
    for frame in detections.frames:
        numbers.setdefault(frame, len(numbers))
    is_excluded = np.zeros(len(numbers), bool)
    is_excluded[[numbers[frame] for frame in excluded if frame in numbers]] = True
    truth = _Sorted.of(ground_truth, numbers, actions)
    found = _Sorted.of(detections, numbers, actions)
    if protocol == "official":
        truth = truth.where(~is_excluded[truth.frame])
        found = found.where(~is_excluded[found.frame])
    else:
        has_truth = np.zeros(len(numbers), bool)
        has_truth[truth.frame] = True
        found = found.where((has_truth & ~is_excluded)[found.frame])
    is_hit = _match(truth, found)
    to_find = {k: int(np.count_nonzero(truth.action == k)) for k in actions}
    precision, counts = {}, {}
    by_action = np.argsort(found.action, kind="stable")
    ends = np.searchsorted(found.action[by_action], list(actions), "right")
    starts = np.searchsorted(found.action[by_action], list(actions), "left")
    for action, start, end in zip(actions, starts, ends, strict=True):
        rows = by_action[start:end]
        counts[action] = len(rows)
        precision[action] = math.nan
        if to_find[action] and (len(rows) or protocol == "official"):
            order = np.argsort(found.score[rows])[::-1]  # the reference's call: ties as there
            (precision[action],) = average_precision(is_hit[rows][None, order], to_find[action])
    return FrameMap(dict(actions), precision, to_find, counts, protocol)


@dataclass(frozen=True)
class _Sorted:
    """Rows by frame, within a frame by falling score, rows of equal score in the file's order."""

    frame: Int[np.ndarray, " rows"]
    action: Int[np.ndarray, " rows"]
    boxes: Float32[np.ndarray, "rows 4"]
    score: Float32[np.ndarray, " rows"]

    @classmethod
    def of(cls, rows: BoxRows, numbers: Mapping[Frame, int], actions: Collection[int]) -> "_Sorted":
        kept = np.isin(rows.action, list(actions))
        renumber = np.array([numbers[frame] for frame in rows.frames], np.int64)
        frame = renumber[rows.frame[kept]] if len(rows) else np.zeros(0, np.int64)
        order = np.lexsort((-rows.last[kept], frame))
        # The reference matches in float32; at the threshold it shows.
        return cls(
            frame[order],
            rows.action[kept][order],
            rows.boxes[kept][order].astype(np.float32),
            rows.last[kept][order].astype(np.float32),
        )

    def where(self, kept: Bool[np.ndarray, " rows"]) -> "_Sorted":
        return _Sorted(self.frame[kept], self.action[kept], self.boxes[kept], self.score[kept])

    @property
    def group(self) -> Int[np.ndarray, " rows"]:
        """One number for each frame and action."""
        return self.frame * (10**9 + 1) + self.action


def _match(truth: _Sorted, found: _Sorted) -> Bool[np.ndarray, " rows"]:
    """Whether each detection takes a box: its best one, the first of equals, not taken before."""
    is_hit = np.zeros(len(found.frame), bool)
    order = np.argsort(truth.group, kind="stable")
    groups = truth.group[order]
    starts = np.searchsorted(groups, found.group, "left")
    counts = np.searchsorted(groups, found.group, "right") - starts
    rows = np.flatnonzero(counts)
    if not len(rows):
        return is_hit
    counts = counts[rows]
    # Every detection beside every box of its frame and action, one after the other.
    firsts = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(firsts, counts)
    candidates = order[np.repeat(starts[rows], counts) + within]
    overlaps = _iou(found.boxes[np.repeat(rows, counts)], truth.boxes[candidates])
    best = np.maximum.reduceat(overlaps, firsts)
    is_best = np.flatnonzero(overlaps == np.repeat(best, counts))
    chosen = candidates[is_best[np.searchsorted(is_best, firsts)]]
    enough = best >= IOU
    # Rows come by falling score, so the first to choose a box is the one to take it.
    _, takes = np.unique(chosen[enough], return_index=True)
    is_hit[rows[enough][takes]] = True
    return is_hit


def _iou(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Overlap over union, pair by pair: areas in float32, the rest in float64 (mmaction2)."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inside = np.maximum(sides.astype(np.float64), 0.0)
    shared = inside[:, 1] * inside[:, 0]
    areas = [(box[:, 3] - box[:, 1]) * (box[:, 2] - box[:, 0]) for box in (a, b)]
    union = (areas[1] + areas[0]).astype(np.float64) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _mean(values: Any) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
