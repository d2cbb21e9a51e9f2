"""Pictures of results, drawn with Matplotlib into files, and a web page that contains them."""

import base64
import dataclasses
import html
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
from squeezetime_jax.evaluation.metrics import Calibration
from squeezetime_jax.files import whole, write_whole

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".pdf", ".svg"))

_DOTS_PER_INCH = 110
_FRAMES_SHOWN = 8
_RIGHT, _WRONG, _PLAIN = "#2a7f4f", "#b5453a", "#44719c"
_MAX_NAMED = 60  # classes of a confusion matrix that are still labelled
_NAME_LENGTH = 28

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
figure { margin: 1rem 0; } img { max-width: 100%; background: white; border-radius: 6px; }
table { border-collapse: collapse; } td, th { padding: .25rem 1rem .25rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #8881; padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap; }
.videos { display: flex; flex-wrap: wrap; gap: .8rem; } .videos figure { margin: 0; }
.videos video { width: 8rem; image-rendering: pixelated; border-radius: 6px; display: block; }
.videos figcaption { font-size: .8rem; max-width: 8rem; }
.headline { font-size: 1.15rem; } .small { opacity: .7; font-size: .85rem; }
"""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, with automatic layout."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure, whole or not at all.

    Raises:
      UserError: the file cannot be written, or its suffix is unknown.
    """
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        kinds = ", ".join(sorted(PICTURE_SUFFIXES))
        raise UserError(f"{path}: not the name of a picture; expected one that ends in {kinds}")
    with whole(path) as part:
        figure.savefig(part, dpi=_DOTS_PER_INCH)
    return path


def draw_prediction(
    title: str,
    clip: UInt8[np.ndarray, "t h w 3"],
    top: Sequence[Mapping[str, Any]],
    importance: Float[np.ndarray, " t"],
    seconds: Float[np.ndarray, " t"] | None = None,
) -> Figure:
    """A filmstrip of a clip, its best classes as bars, and the importance of each frame.

    Args:
      title: such as the video's name.
      clip: RGB frames, 0..255.
      top: `{"index", "label", "score"}` of the best classes.
      importance: of each frame for the best class; see `explain.frame_importance`.
      seconds: time of each frame in the video; None: unknown, frames are numbered instead.
    """
    times = np.arange(len(clip)) if seconds is None else seconds
    figure = new_figure(12.0, 4.6)
    strip, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1.15, 2)))
    strip.suptitle(title, fontsize=12)
    captions = [f"{time:g}" if seconds is None else f"{time:.2f} s" for time in times]
    draw_filmstrip(strip.subplots(1, _shown(len(clip)).size), clip, captions)
    bars, curve = below.subplots(1, 2)
    draw_scores(bars, top)
    low, high = min(float(importance.min()), 0.0), max(float(importance.max()), 1e-12)
    curve.axhline(0, color="0.6", linewidth=0.8)
    step = float(np.median(np.diff(times))) if len(clip) > 1 else 1.0
    colours = np.where(importance >= 0, _RIGHT, _WRONG)
    curve.bar(times, importance, width=0.8 * (step or 1.0), color=colours)
    curve.set(
        xlabel="frame" if seconds is None else "seconds",
        ylabel="gradient x input",
        title=f"frames for (green) and against (red) {_name(top[0])}",
        ylim=(1.1 * low, 1.1 * high),
    )
    return figure


def draw_filmstrip(
    panels: Any, clip: UInt8[np.ndarray, "t h w 3"], captions: Sequence[str] | None = None
) -> None:
    """Frames of a clip, evenly spaced, one in each of the axes.

    Args:
      panels: the axes.
      clip: RGB frames, 0..255.
      captions: of each frame of the clip; None: its number.
    """
    axes = np.atleast_1d(panels)
    for panel, number in zip(axes, _shown(len(clip), len(axes)), strict=True):
        panel.imshow(clip[number], interpolation="nearest")
        panel.set_xlabel(captions[number] if captions else str(number), fontsize=7, labelpad=2)
        panel.set(xticks=[], yticks=[])


def draw_scores(axes: Axes, top: Sequence[Mapping[str, Any]], right: int | None = None) -> None:
    """The best classes as bars, the best at the top.

    Args:
      axes: where to draw.
      top: `{"index", "label", "score"}` each.
      right: the true class, if known; it is green, and the others are red.
    """
    scores = [entry["score"] for entry in top]
    colours = [
        _PLAIN if right is None else _RIGHT if entry["index"] == right else _WRONG for entry in top
    ]
    places = np.arange(len(top))
    axes.barh(places, scores, color=colours)
    axes.set_yticks(places, [_name(entry) for entry in top], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="probability", xticks=np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)
    for place, score in enumerate(scores):
        axes.text(1.02, place, f"{100 * score:.1f} %", va="center", fontsize=9)


def draw_gallery(
    clips: UInt8[np.ndarray, "n t h w 3"],
    tops: Sequence[Sequence[Mapping[str, Any]]],
    labels: Sequence[int],
    names: Sequence[str],
) -> Figure:
    """Videos as filmstrips, one below the other, with their best classes beside them.

    Args:
      clips: RGB frames, 0..255.
      tops: `{"index", "label", "score"}` of each video's best classes.
      labels: the true classes.
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
    confusion: Int[np.ndarray, "classes classes"],
    names: Sequence[str] | None,
    totals: Int[np.ndarray, " classes"] | None = None,
) -> Figure:
    """A confusion matrix: a row for each true class, in shares of its videos.

    Args:
      confusion: videos of each true class (row) with each predicted class (column).
      names: of the classes, if known; shown if they are few enough to be legible.
      totals: videos of each class, if some were predicted as a class that is not in the matrix.
    """
    totals = confusion.sum(axis=1) if totals is None else totals
    classes = len(confusion)
    named = names is not None and classes <= _MAX_NAMED
    side = min(max(5.0, 0.32 * classes + 2.5), 18.0) if named else 9.0
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(totals[:, None], 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, label="share of the class's videos", shrink=0.8)
    bar.set_ticks([k / 5 for k in range(6)], labels=[f"{20 * k} %" for k in range(6)])
    axes.set(xlabel="predicted class", ylabel="true class")
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


def draw_reliability(calibration: Calibration) -> Figure:
    """Accuracy over confidence, and how many videos there are of each confidence."""
    figure = new_figure(6.4, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = len(calibration.count)
    middles = (np.arange(bins) + 0.5) / bins
    above.plot([0, 1], [0, 1], "--", color="0.3", linewidth=1, zorder=3)
    above.text(0.02, 0.09, "right as often as it says", color="0.3", rotation=35, fontsize=8)
    above.bar(middles, np.nan_to_num(calibration.accuracy), width=0.9 / bins, color=_PLAIN)
    above.set(ylim=(0, 1), xlim=(0, 1), ylabel="share that is right")
    above.set_title(f"expected calibration error {100 * calibration.error():.1f} %", fontsize=11)
    below.bar(middles, calibration.count, width=0.9 / bins, color="0.6")
    below.set(xlabel="probability of the best class", ylabel="videos")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_classes(rows: Sequence[tuple[str, int, float]]) -> Figure:
    """Accuracy of classes as bars, the first at the top.

    Args:
      rows: name, number of videos and accuracy, in [0, 1], of each.
    """
    figure = new_figure(8.0, 1.1 + 0.26 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.barh(places, [share for *_, share in rows], color=_PLAIN)
    names = [f"{name[:_NAME_LENGTH]} ({videos})" for name, videos, _ in rows]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel="top-1 accuracy (number of videos in brackets)")
    axes.set_xticks(np.linspace(0, 1, 6), [f"{20 * k} %" for k in range(6)])
    axes.spines[["top", "right"]].set_visible(False)
    for place, (*_, share) in enumerate(rows):
        axes.text(share + 0.01, place, f"{100 * share:.1f} %", va="center", fontsize=8)
    return figure


def draw_strip(frames: UInt8[np.ndarray, "t h w 3"], captions: Sequence[str]) -> Figure:
    """Frames side by side with their captions."""
    figure = new_figure(11.0, 0.3 + 11.0 / len(frames) * frames.shape[1] / frames.shape[2])
    draw_filmstrip(figure.subplots(1, len(frames)), frames, captions)
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
        # The channels that differ most between the classes come first.
        order = np.argsort(-means.std(axis=0), kind="stable")[:64]
        image = axes.imshow(means[:, order], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set(title=f"stage {number}: {weights.shape[1]} channels", xlabel="channels by spread")
        axes.set_yticks(range(len(names)), names if number % 2 else [""] * len(names), fontsize=8)
    figure.colorbar(image, ax=list(panels), label="temporal focus weight", shrink=0.8)
    return figure


def draw_bars(values: Mapping[str, float], title: str, chance: float) -> Figure:
    """A bar for each accuracy, in [0, 1], and a line at the accuracy of chance."""
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


def _shown(num_frames: int, count: int = _FRAMES_SHOWN) -> Int[np.ndarray, " shown"]:
    return np.unique(np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int))


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["label"] or f"class {entry['index']}")[:_NAME_LENGTH]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a web page: title, text, picture, table and commands, in this order.

    Attributes:
      title: its heading.
      text: a paragraph.
      picture: a PNG file; None: no picture.
      rows: name and value, of a table; empty: no table.
      commands: lines for the shell; empty: none.
      links: text and address of each; empty: none.
      videos: caption and mp4 file of each, to be played on the page; empty: none.
      is_part: whether it belongs to the section before, and has a smaller heading.
    """

    title: str
    text: str = ""
    picture: Path | None = None
    rows: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    links: Sequence[tuple[str, str]] = ()
    videos: Sequence[tuple[str, Path]] = ()
    is_part: bool = False


def write_page(path: Path, title: str, headline: str, sections: Sequence[Section]) -> Path:
    """Write one HTML page that contains its pictures, whole or not at all.

    Args:
      path: the file.
      title: of the page.
      headline: the result in a sentence.
      sections: from top to bottom.

    Returns:
      The path.
    """
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="headline">{html.escape(headline)}</p>\n{body}\n</body></html>\n'
    )
    write_whole(path, page)
    return path


def _section(section: Section) -> str:
    heading = "h3" if section.is_part else "h2"
    parts = [f"<{heading}>{html.escape(section.title)}</{heading}>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.picture is not None:
        data = base64.b64encode(section.picture.read_bytes()).decode()
        title = html.escape(section.title, quote=True)
        parts.append(f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>')
    if section.videos:
        players = "".join(_player(caption, file) for caption, file in section.videos)
        parts.append(f'<div class="videos">{players}</div>')
    if section.rows:
        rows = "".join(
            f'<tr><td>{html.escape(name)}</td><td class="number">{html.escape(value)}</td></tr>'
            for name, value in section.rows
        )
        parts.append(f"<table>{rows}</table>")
    if section.links:
        links = ", ".join(
            f'<a href="{html.escape(address, quote=True)}">{html.escape(text)}</a>'
            for text, address in section.links
        )
        parts.append(f"<p>{links}</p>")
    if section.commands:
        commands = html.escape("\n".join(section.commands))
        parts.append(f"<pre><code>{commands}</code></pre>")
    return "\n".join(parts)


def _player(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    source = f"data:video/mp4;base64,{data}"
    return (
        f'<figure><video controls loop muted autoplay playsinline src="{source}"></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
