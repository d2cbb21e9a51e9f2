"""Pictures of results, drawn with Matplotlib into files; no window is opened."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".pdf", ".svg"))

_DOTS_PER_INCH = 110
_FRAMES_SHOWN = 8
_RIGHT, _WRONG, _PLAIN = "#2a7f4f", "#b5453a", "#44719c"
_MAX_NAMED = 60  # classes of a confusion matrix that are still labelled
_NAME_LENGTH = 28


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, laid out by itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure, whole or not at all.

    Raises:
      UserError: the file cannot be written, or is no kind of picture.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(f"{path}: is not named like a picture; wanted one of {kinds}")
    with whole(path) as part:
        figure.savefig(part, dpi=_DOTS_PER_INCH)
    return path


def draw_prediction(
    title: str,
    clip: UInt8[np.ndarray, "t h w 3"],
    top: Sequence[Mapping[str, Any]],
    importance: Float[np.ndarray, " t"],
) -> Figure:
    """A filmstrip of a clip, its best classes as bars, and what each frame says of the best.

    Args:
      title: such as the video's name.
      clip: RGB frames, 0..255.
      top: `{"index", "label", "score"}` of the best classes.
      importance: of each frame for the best class; see `explain.frame_importance`.
    """
    figure = new_figure(12.0, 4.6)
    strip, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 2)))
    strip.suptitle(title, fontsize=12)
    draw_filmstrip(strip.subplots(1, _shown(len(clip)).size), clip)
    bars, curve = below.subplots(1, 2)
    draw_scores(bars, top)
    frames = np.arange(len(clip))
    low, high = min(float(importance.min()), 0.0), max(float(importance.max()), 1e-12)
    curve.axhline(0, color="0.6", linewidth=0.8)
    curve.bar(frames, importance, color=np.where(importance >= 0, _RIGHT, _WRONG))
    curve.set(
        xlabel="frame of the middle clip",
        title=f"what each frame says for {_name(top[0])} (gradient x input)",
        xticks=frames[:: max(len(clip) // 16, 1)],
        ylim=(1.1 * low, 1.1 * high),
    )
    return figure


def draw_filmstrip(panels: Any, clip: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Frames of a clip, evenly spaced, one in each of the axes."""
    axes = np.atleast_1d(panels)
    for panel, number in zip(axes, _shown(len(clip), len(axes)), strict=True):
        panel.imshow(clip[number], interpolation="nearest")
        panel.set_xlabel(str(number), fontsize=7, labelpad=2)
        panel.set(xticks=[], yticks=[])


def draw_scores(axes: Axes, top: Sequence[Mapping[str, Any]], right: int | None = None) -> None:
    """The best classes as bars, the best at the top.

    Args:
      axes: where to draw.
      top: `{"index", "label", "score"}` each.
      right: the right class, if known; it is told by its colour.
    """
    scores = [entry["score"] for entry in top]
    colours = [
        _PLAIN if right is None else _RIGHT if entry["index"] == right else _WRONG for entry in top
    ]
    places = np.arange(len(top))
    axes.barh(places, scores, color=colours)
    axes.set_yticks(places, [_name(entry) for entry in top], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15), xlabel="probability", xticks=np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)
    for place, score in enumerate(scores):
        axes.text(score + 0.01, place, f"{100 * score:.1f} %", va="center", fontsize=9)


def draw_gallery(
    clips: UInt8[np.ndarray, "n t h w 3"],
    tops: Sequence[Sequence[Mapping[str, Any]]],
    labels: Sequence[int],
    names: Sequence[str],
) -> Figure:
    """Videos as filmstrips, one below the other, their best classes beside.

    Args:
      clips: RGB frames, 0..255.
      tops: `{"index", "label", "score"}` of each video's best classes.
      labels: the right classes.
      names: of the classes.
    """
    figure = new_figure(13.0, 1.5 * len(clips) + 0.3)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(2, 1)))
    strips = np.atleast_1d(np.asarray(left.subfigures(len(clips), 1)))
    bars = np.atleast_1d(np.asarray(right.subplots(len(clips), 1)))
    for strip, axes, clip, top, label in zip(strips, bars, clips, tops, labels, strict=True):
        strip.suptitle(names[label], fontsize=10, x=0.01, ha="left")
        draw_filmstrip(strip.subplots(1, _shown(len(clip)).size), clip)
        draw_scores(axes, top, label)
        axes.set(xlabel="", xticks=[])
    return figure


def draw_confusion(
    confusion: Int[np.ndarray, "classes classes"], names: Sequence[str] | None
) -> Figure:
    """Right classes down, predicted across; each row in shares of its videos.

    Args:
      confusion: how many videos of each class were taken for each.
      names: of the classes, if known; written out where they are few enough to be read.
    """
    classes = len(confusion)
    named = names is not None and classes <= _MAX_NAMED
    side = min(max(5.0, 0.32 * classes + 2.5), 18.0) if named else 9.0
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the class's videos", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="right class")
    if named and names is not None:
        short = [name[:_NAME_LENGTH] for name in names]
        axes.set_xticks(range(classes), short, rotation=90)
        axes.set_yticks(range(classes), short)
    if classes <= 20:
        for (row, column), count in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 0.6 else "0.25"
            if count:
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return figure


def draw_focus_weights(
    stages: Sequence[Float[np.ndarray, "n c"]], labels: Int[np.ndarray, " n"], names: Sequence[str]
) -> Figure:
    """The temporal focus weights of each stage, averaged over the videos of each class.

    Args:
      stages: weights in (0, 1); see `explain.focus_weights`.
      labels: the class of each row.
      names: of the classes.
    """
    figure = new_figure(12.0, 1.0 + 0.42 * len(names) * 2)
    panels = figure.subplots(2, 2).ravel()
    for number, (axes, weights) in enumerate(zip(panels, stages, strict=True), 1):
        means = np.stack([weights[labels == k].mean(axis=0) for k in range(len(names))])
        # The channels that tell the classes apart most, from the left.
        order = np.argsort(-means.std(axis=0), kind="stable")[:64]
        image = axes.imshow(means[:, order], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set(title=f"stage {number}: {weights.shape[1]} channels", xlabel="channels by spread")
        axes.set_yticks(range(len(names)), names if number % 2 else [""] * len(names), fontsize=8)
    figure.colorbar(image, ax=list(panels), label="temporal focus weight", shrink=0.8)
    return figure


def draw_bars(values: Mapping[str, float], title: str, chance: float) -> Figure:
    """Accuracies, shares in [0, 1], under their names, with the level of chance."""
    figure = new_figure(7.0, 3.2)
    axes = figure.subplots()
    places = np.arange(len(values))
    axes.bar(places, list(values.values()), color=_PLAIN, width=0.6)
    axes.axhline(chance, color=_WRONG, linestyle="--", linewidth=1)
    axes.text(len(values) - 0.45, chance + 0.02, "chance", color=_WRONG, ha="right", fontsize=9)
    for place, value in enumerate(values.values()):
        axes.text(place, value + 0.015, f"{100 * value:.1f} %", ha="center")
    axes.set_xticks(places, list(values))
    axes.set(ylim=(0, 1.12), ylabel="top-1 accuracy", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _shown(num_frames: int, most: int = _FRAMES_SHOWN) -> Int[np.ndarray, " shown"]:
    return np.unique(np.linspace(0, num_frames - 1, min(most, num_frames)).round().astype(int))


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["label"] or f"class {entry['index']}")[:_NAME_LENGTH]
