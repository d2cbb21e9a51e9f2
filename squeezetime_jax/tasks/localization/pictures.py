"""Pictures of localisation: a timeline under a filmstrip, and scores by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from squeezetime_jax.evaluation.pictures import draw_filmstrip, new_figure, save_figure
from squeezetime_jax.tasks.localization.metric import Scores

__all__ = ["STRIP", "draw_classes", "draw_timeline", "save_figure"]

STRIP = 16
"""Frames of a filmstrip."""

_COLOURS = ("#44719c", "#2a7f4f", "#b5453a", "#8a6d3b", "#6a4c93", "#3b8a8a", "#a04a7d", "#5b5b5b")


def draw_timeline(
    title: str,
    strip: UInt8[np.ndarray, "n h w 3"],
    times: Sequence[float],
    seconds: float,
    detections: Sequence[dict[str, Any]],
) -> Figure:
    """Frames of a video, and below them what was found when, a row for each class.

    Args:
      title: such as the video's name.
      strip: frames, evenly over the video.
      times: of the frames, in seconds.
      seconds: the video's length.
      detections: `{"label", "score", "segment"}`; the higher the score, the more opaque.
    """
    labels = list(dict.fromkeys(each["label"] for each in detections))
    figure = new_figure(13.0, 2.6 + 0.34 * max(len(labels), 1))
    above, below = np.asarray(
        figure.subfigures(2, 1, height_ratios=(1.3, 1.1 + 0.34 * max(len(labels), 1)))
    )
    above.suptitle(title, fontsize=12)
    panels = np.atleast_1d(above.subplots(1, len(strip)))
    draw_filmstrip(panels, strip)
    for panel, time in zip(panels, times, strict=True):
        panel.set_xlabel(f"{time:.0f} s", fontsize=7, labelpad=2)
    axes = below.subplots()
    best = max((each["score"] for each in detections), default=1.0)
    for each in detections:
        start, end = each["segment"]
        row = labels.index(each["label"])
        colour, strength = _COLOURS[row % len(_COLOURS)], each["score"] / best
        axes.barh(
            row, end - start, left=start, height=0.7, color=colour, alpha=0.25 + 0.75 * strength
        )
        axes.text((start + end) / 2, row, f"{100 * each['score']:.0f}", ha="center", va="center",
                  color="white", fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set(xlim=(0, seconds), xlabel="seconds")
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_classes(scores: Scores) -> Figure:
    """The average precision of each class at each threshold, and the means."""
    values = np.vstack([scores.average_precision, scores.per_threshold])
    names = [*scores.classes, "mean"]
    figure = new_figure(2.5 + 0.9 * len(scores.thresholds), 1.6 + 0.32 * len(names))
    axes = figure.subplots()
    image = axes.imshow(100 * values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(scores.thresholds)), [f"{t:g}" for t in scores.thresholds])
    axes.set(xlabel="overlap", title=f"average precision, %; average {100 * scores.average:.2f}")
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure
