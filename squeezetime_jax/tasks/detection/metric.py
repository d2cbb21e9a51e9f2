"""Frame mAP at an IoU of 0.5, in mmaction2's arithmetic or ActivityNet's.

A detection is right where it overlaps a box of its action in its frame by at least a half, and no
detection of a higher score has taken that box. The average precision of an action is the area under
its precision-recall curve with precision made monotone (VOC 2010 and later).

Where the two protocols differ, mmaction2 (the default) leaves out detections on frames without
ground truth, leaves actions without a single detection out of the mean, and counts the ground
truth of excluded frames among what was to be found; ActivityNet's counts the first as wrong, the
second as 0, and drops the third.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from squeezetime_jax.tasks.detection.annotations import BoxRows, Frame

Protocol = Literal["mmaction2", "official"]
PROTOCOLS: tuple[Protocol, ...] = ("mmaction2", "official")

IOU = 0.5

GROUPS = {
    "person_movement": range(1, 15),
    "object_manipulation": range(15, 64),
    "person_interaction": range(64, 10**9),
}
"""AVA's three groups of actions, by id."""


@dataclass(frozen=True)
class FrameMap:
    """What a set of detections is worth.

    Attributes:
      actions: id -> name, of the actions that count.
      average_precision: by action id; NaN: there was nothing to find, or (mmaction2) no detection.
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
        """Mean of the average precisions that there are, in [0, 1]; NaN if there is none."""
        return _mean(self.average_precision.values())

    def groups(self) -> dict[str, float]:
        """The same for each of AVA's groups of actions."""
        return {
            name: _mean(ap for action, ap in self.average_precision.items() if action in ids)
            for name, ids in GROUPS.items()
        }

    def to_json(self) -> dict[str, Any]:
        """`overall`, `groups` and `classes` as shares in [0, 1], None for what there is not."""
        names = unique_names(self.actions)
        return {
            "overall": _or_none(self.overall),
            "groups": {name: _or_none(value) for name, value in self.groups().items()},
            "classes": {
                names[action]: _or_none(ap) for action, ap in self.average_precision.items()
            },
            "ground_truth": {names[k]: count for k, count in self.num_ground_truth.items()},
            "detections": {names[k]: count for k, count in self.num_detections.items()},
            "protocol": self.protocol,
            "iou": IOU,
        }


def unique_names(actions: Mapping[int, str]) -> dict[int, str]:
    """The names by id, with the id behind those that occur twice."""
    names = list(actions.values())
    return {k: f"{name} ({k})" if names.count(name) > 1 else name for k, name in actions.items()}


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
      ground_truth: what there is to find; rows of other actions are left out.
      detections: what was found, `last` being the scores; rows of other actions are left out.
      actions: id -> name of the actions that count.
      excluded: frames that do not count.
      protocol: whose arithmetic.
    """
    numbers = {frame: n for n, frame in enumerate(ground_truth.frames)}
    for frame in detections.frames:
        numbers.setdefault(frame, len(numbers))
    out = np.zeros(len(numbers), bool)
    out[[numbers[frame] for frame in excluded if frame in numbers]] = True
    truth = _Sorted.of(ground_truth, numbers, actions)
    found = _Sorted.of(detections, numbers, actions)
    counted = truth
    if protocol == "official":
        counted = truth = truth.where(~out[truth.frame])
        found = found.where(~out[found.frame])
    else:
        has_truth = np.zeros(len(numbers), bool)
        has_truth[truth.frame] = True
        found = found.where((has_truth & ~out)[found.frame])
    right = _is_right(truth, found)
    to_find = {k: int(np.count_nonzero(counted.action == k)) for k in actions}
    precision, counts = {}, {}
    order = np.argsort(found.action, kind="stable")
    ends = np.searchsorted(found.action[order], list(actions), "right")
    starts = np.searchsorted(found.action[order], list(actions), "left")
    for action, start, end in zip(actions, starts, ends, strict=True):
        rows = order[start:end]
        counts[action] = len(rows)
        precision[action] = (
            math.nan
            if not to_find[action] or (not len(rows) and protocol == "mmaction2")
            else average_precision(found.score[rows], right[rows], to_find[action])
        )
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


def _is_right(truth: _Sorted, found: _Sorted) -> Bool[np.ndarray, " rows"]:
    """Whether each detection takes a box: its best one, the first of equals, not taken before."""
    right = np.zeros(len(found.frame), bool)
    order = np.argsort(truth.group, kind="stable")
    groups = truth.group[order]
    starts = np.searchsorted(groups, found.group, "left")
    counts = np.searchsorted(groups, found.group, "right") - starts
    rows = np.flatnonzero(counts)
    if not len(rows):
        return right
    counts = counts[rows]
    # Every detection beside every box of its frame and action, one after the other.
    firsts = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(firsts, counts)
    candidates = order[np.repeat(starts[rows], counts) + within]
    overlaps = _iou(found.boxes[np.repeat(rows, counts)], truth.boxes[candidates])
    best = np.maximum.reduceat(overlaps, firsts)
    is_best = np.flatnonzero(overlaps == np.repeat(best, counts))
    chosen = candidates[is_best[np.searchsorted(is_best, firsts)]]
    hits = best >= IOU
    # Rows come by falling score, so the first to choose a box is the one to take it.
    _, takes = np.unique(chosen[hits], return_index=True)
    right[rows[hits][takes]] = True
    return right


def _iou(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Overlap over union, pair by pair: areas in float32, the rest in float64 (mmaction2)."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inside = np.maximum(sides.astype(np.float64), 0.0)
    shared = inside[:, 1] * inside[:, 0]
    areas = [(box[:, 3] - box[:, 1]) * (box[:, 2] - box[:, 0]) for box in (a, b)]
    union = (areas[1] + areas[0]).astype(np.float64) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def average_precision(
    scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], num_ground_truth: int
) -> float:
    """Area under the precision-recall curve, precision made monotone from the right.

    Args:
      scores: of the detections.
      right: whether each takes a box.
      num_ground_truth: boxes to be found, at least 1.
    """
    order = np.argsort(scores)[::-1]  # the reference's call, to the order of equal scores
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = np.concatenate([[0.0], hits / num_ground_truth])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision))


def _mean(values: Any) -> float:
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
