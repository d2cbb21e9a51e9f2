"""Mean average precision over temporal overlaps, as ActivityNet's evaluator computes it.

Facts of the arithmetic: the reference's evaluation code (AFSD, github.com/TencentYoutuResearch),
itself a copy of ActivityNet's. Ambiguous instances are not in the ground truth: a detection of one
is a false positive.
"""

import collections
import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from squeezetime_jax.data.tables import PathLike
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.average_precision import average_precision
from squeezetime_jax.tasks.localization.annotations import (
    Instances,
    read_detections,
    read_ground_truth,
)

THUMOS14_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""The overlaps that THUMOS14's figures are averaged over."""

_AT_ONCE = 4096  # detections whose overlaps are in memory together


@dataclasses.dataclass(frozen=True)
class TemporalMap:
    """The mean average precision of the detections of a set of videos.

    Attributes:
      thresholds: least overlaps (intersection over union in time) of a correct detection.
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

    def table(self) -> str:
        """Percent by class and threshold, the mean in the last line."""
        width = max(len(name) for name in ("average precision, %", *self.classes))
        lines = [("average precision, %", [*(f"{t:g}" for t in self.thresholds), "average"])]
        for name, row in (
            *zip(self.classes, self.average_precision, strict=True),
            ("mean", self.per_threshold),
        ):
            lines.append((name, [f"{100 * value:.2f}" for value in (*row, row.mean())]))
        return "\n".join(
            f"{name:{width}}" + "".join(f"{word:>9}" for word in words) for name, words in lines
        )

    def figure(self) -> Any:
        """A Matplotlib figure: the average precision of each class at each threshold."""
        from squeezetime_jax.evaluation.pictures import new_figure  # takes a second to import

        values = np.vstack([self.average_precision, self.per_threshold])
        names = [*self.classes, "mean"]
        figure = new_figure(2.5 + 0.9 * len(self.thresholds), 1.6 + 0.32 * len(names))
        axes = figure.subplots()
        image = axes.imshow(100 * values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colour)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(self.thresholds)), [f"{t:g}" for t in self.thresholds])
        title = f"average precision, %; average {100 * self.average:.2f}"
        axes.set(xlabel="overlap", title=title)
        figure.colorbar(image, ax=axes, shrink=0.7)
        return figure


def score_files(
    ground_truth: PathLike,
    detections: PathLike,
    *,
    subset: str = "test",
    thresholds: str = "0.3,0.4,0.5,0.6,0.7",
    as_json: bool = False,
) -> None:
    """Print the scores of a JSON file of detections: `squeezetime temporal-map`.

    Args:
      ground_truth: JSON file in ActivityNet's format.
      detections: likewise.
      subset: of the ground truth.
      thresholds: overlaps, by default THUMOS14's.
      as_json: one JSON object instead of a table.

    Raises:
      UserError: a file or the thresholds are invalid.
    """
    overlaps = parse_thresholds(thresholds)
    truth, videos = read_ground_truth(ground_truth, subset)
    found = read_detections(detections)
    result = temporal_map(truth, found, videos, overlaps)
    if as_json:
        print(json.dumps(result.to_json()))
        return
    print(result.table())
    others = sum(video not in videos for video in found.videos)
    print(
        f"detections: {len(found.videos)}, of which {others} of other videos left out; instances:"
        f" {len(truth.videos)} in {len(videos)} video{'s' if len(videos) > 1 else ''}"
    )


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Overlaps from text such as "0.3,0.5".

    Raises:
      UserError: a word is not a number in (0, 1], or a number is repeated.
    """
    try:
        thresholds = tuple(float(word) for word in text.split(","))
    except ValueError:
        thresholds = ()
    in_range = bool(thresholds) and all(0 < t <= 1 for t in thresholds)
    if not in_range or len(set(thresholds)) < len(thresholds):
        raise UserError(f"--tiou: expected different numbers in (0, 1], as 0.3,0.5, got {text!r}")
    return thresholds


def temporal_map(
    truth: Instances,
    detections: Instances,
    videos: Collection[str],
    thresholds: Sequence[float] = THUMOS14_THRESHOLDS,
) -> TemporalMap:
    """Score detections against ground truth.

    Detections of other videos, and of labels that the ground truth does not have, are left out. A
    class without a detection has an average precision of 0.

    Args:
      truth: at least one instance.
      detections: with scores.
      videos: those that are scored, including ones without an instance.
      thresholds: overlaps, each above 0.
    """
    classes = tuple(dict.fromkeys(truth.labels))
    true_rows, found_rows = (_rows_by_label(each, videos) for each in (truth, detections))
    precisions = [
        _class_precision(truth, true_rows[name], detections, found_rows[name], thresholds)
        for name in classes
    ]
    return TemporalMap(tuple(thresholds), classes, np.stack(precisions))


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
    is_hit = np.zeros((len(thresholds), len(order)), bool)
    for video, pairs in ranked.items():
        if video in by_video:
            ranks, rows = (list(column) for column in zip(*pairs, strict=True))
            segments = detections.segments[rows]
            is_hit[:, ranks] = _match(truth.segments[by_video[video]], segments, thresholds)
    return average_precision(is_hit, len(true_rows))


def _match(
    truth: Float[np.ndarray, "gt 2"],
    found: Float[np.ndarray, "n 2"],
    thresholds: Sequence[float],
) -> Bool[np.ndarray, "thresholds n"]:
    """Which detections of one class in one video, best first, find an instance still free.

    A detection takes the free instance that it overlaps most: unlike PASCAL VOC's, a duplicate may
    still find the second-best one.
    """
    is_hit = np.zeros((len(thresholds), len(found)), bool)
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
                        is_hit[level, first + row] = True
                        break
    return is_hit


def overlap(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union in time of every pair of segments; 0 where both are empty."""
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(end - start, 0)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
