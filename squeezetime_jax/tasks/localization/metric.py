"""Mean average precision over temporal overlaps, as ActivityNet's evaluator counts it.

Facts of the arithmetic: the reference's evaluation code (AFSD, github.com/TencentYoutuResearch),
itself a copy of ActivityNet's. Ambiguous instances are no part of the ground truth: a detection of
one is a false positive.
"""

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from squeezetime_jax.tasks.localization.results import Instances

THUMOS14_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""The overlaps that THUMOS14's figures are averaged over."""

_AT_ONCE = 4096  # detections whose overlaps are held together


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the detections of a set of videos come to.

    Attributes:
      thresholds: the overlaps (intersection over union in time) from which a detection counts.
      classes: names, in order of first appearance in the ground truth.
      average_precision: of each class at each threshold, in [0, 1].
    """

    thresholds: tuple[float, ...]
    classes: tuple[str, ...]
    average_precision: Float[np.ndarray, "classes thresholds"]

    @property
    def per_threshold(self) -> Float[np.ndarray, " thresholds"]:
        """The mean over the classes."""
        return self.average_precision.mean(axis=0)

    @property
    def average(self) -> float:
        """The mean over classes and thresholds."""
        return float(self.per_threshold.mean())

    def to_json(self) -> dict[str, Any]:
        """`average`, `per_threshold` by threshold, `classes` by name and threshold."""
        return {
            "average": self.average,
            "per_threshold": self._by_threshold(self.per_threshold),
            "classes": {
                name: {"average": float(row.mean()), "per_threshold": self._by_threshold(row)}
                for name, row in zip(self.classes, self.average_precision, strict=True)
            },
        }

    def _by_threshold(self, values: Float[np.ndarray, " thresholds"]) -> dict[str, float]:
        return {f"{t:g}": float(v) for t, v in zip(self.thresholds, values, strict=True)}


def mean_average_precision(
    truth: Instances,
    detections: Instances,
    videos: Collection[str],
    thresholds: Sequence[float] = THUMOS14_THRESHOLDS,
) -> Scores:
    """Score detections against ground truth.

    Detections of other videos, and of labels that the ground truth does not have, are left out. A
    class without a detection has an average precision of 0.

    Args:
      truth: at least one instance.
      detections: with scores.
      videos: those that are scored, also the ones without an instance.
      thresholds: overlaps, each above 0.
    """
    classes = tuple(dict.fromkeys(truth.labels))
    true_rows, found_rows = (_rows_by_label(each, videos) for each in (truth, detections))
    precisions = [
        _class_precision(truth, true_rows[name], detections, found_rows[name], thresholds)
        for name in classes
    ]
    return Scores(tuple(thresholds), classes, np.stack(precisions))


def _rows_by_label(instances: Instances, videos: Collection[str]) -> dict[str, list[int]]:
    rows = collections.defaultdict(list)
    for row, (video, label) in enumerate(zip(instances.videos, instances.labels, strict=True)):
        if video in videos:
            rows[label].append(row)
    return rows


def _class_precision(
    truth: Instances,
    true_rows: list[int],
    detections: Instances,
    found_rows: list[int],
    thresholds: Sequence[float],
) -> Float[np.ndarray, " thresholds"]:
    """The average precision of one class at each threshold."""
    by_video = collections.defaultdict(list)
    for row in true_rows:
        by_video[truth.videos[row]].append(row)
    assert detections.scores is not None
    # From the highest score down; of equal scores the later one first (numpy's sort, reversed).
    order = np.argsort(detections.scores[found_rows], kind="stable")[::-1]
    ranked = collections.defaultdict(list)  # video -> (rank, row) of its detections
    for rank, place in enumerate(order):
        row = found_rows[place]
        ranked[detections.videos[row]].append((rank, row))
    hits = np.zeros((len(thresholds), len(order)), bool)
    for video, own in ranked.items():
        if video in by_video:
            ranks, rows = (list(column) for column in zip(*own, strict=True))
            segments = detections.segments[rows]
            hits[:, ranks] = _match(truth.segments[by_video[video]], segments, thresholds)
    return average_precision(hits, len(true_rows))


def _match(
    truth: Float[np.ndarray, "gt 2"],
    found: Float[np.ndarray, "n 2"],
    thresholds: Sequence[float],
) -> Bool[np.ndarray, "thresholds n"]:
    """Which detections of one class in one video, best first, find an instance still free.

    A detection takes the free instance that it overlaps most: unlike PASCAL VOC's, a duplicate may
    still find the second-best one.
    """
    hits = np.zeros((len(thresholds), len(found)), bool)
    free = [set(range(len(truth))) for _ in thresholds]
    for first in range(0, len(found), _AT_ONCE):
        overlaps = overlap(found[first : first + _AT_ONCE], truth)
        near, instances = np.nonzero(overlaps >= min(thresholds))
        candidates = collections.defaultdict(list)
        for row, instance in zip(near.tolist(), instances.tolist(), strict=True):
            candidates[row].append((float(overlaps[row, instance]), instance))
        for row in sorted(candidates):
            best_first = sorted(candidates[row], reverse=True)
            for level, threshold in enumerate(thresholds):
                for share, instance in best_first:
                    if share < threshold:
                        break
                    if instance in free[level]:
                        free[level].discard(instance)
                        hits[level, first + row] = True
                        break
    return hits


def overlap(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union in time of every pair of segments; 0 where both are empty."""
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(end - start, 0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def average_precision(
    hits: Bool[np.ndarray, "thresholds n"], num_instances: int
) -> Float[np.ndarray, " thresholds"]:
    """The area under the interpolated precision-recall curve, all points of it (VOC 2011).

    Args:
      hits: whether each detection, from the highest score down, is right.
      num_instances: instances that there are to find.
    """
    true: Int[np.ndarray, "thresholds n"] = np.cumsum(hits, axis=1)
    precision = true / np.arange(1, hits.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Recall rises by one instance at every hit, and nowhere else.
    recall = np.concatenate([np.zeros((len(hits), 1)), true / num_instances], axis=1)
    return np.sum(np.diff(recall, axis=1) * envelope, axis=1)
