"""The plot of a table: the paper's figures on the left, those measured here on the right."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from squeezetime_jax.evaluation.pictures import new_figure, save_figure

Drawn = tuple[str, float | None, Sequence[float]]


def draw(rows: Sequence[Drawn], title: str, column: str, scale: str, path: Path) -> Path:
    """Draw a table's rows as dots: name, the paper's percentage, those measured.

    Args:
      rows: from top to bottom.
      title: of the table.
      column: what is compared.
      scale: at which it was measured.
      path: of the picture.
    """
    figure = new_figure(10.0, 1.4 + 0.45 * len(rows))
    paper, here = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    known = [(value, place) for place, (_, value, _) in enumerate(rows) if value is not None]
    paper.plot([v for v, _ in known], [p for _, p in known], "D", color="#44719c")
    for place, (_, _, values) in enumerate(rows):
        here.plot(values, [place] * len(values), "o", color="0.6", markersize=5)
        if values:
            here.plot(statistics.mean(values), place, "D", color="#b5453a")
    paper.set_yticks(places, [name for name, _, _ in rows])
    paper.set_ylim(len(rows) - 0.5, -0.5)
    paper.set(xlabel=f"{column}, %", title="paper")
    here.set(xlabel=f"{column}, %", title=f"here, scale {scale}; grey: each seed")
    if not any(values for _, _, values in rows):
        _say(here, "nothing measured yet")
    for axes in (paper, here):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def draw_against_speed(
    rows: Sequence[Drawn],
    speeds: Sequence[Mapping[str, Mapping[str, Any]]],
    title: str,
    column: str,
    scale: str,
    path: Path,
) -> Path:
    """Draw accuracy over the milliseconds of a clip, a colour for each way of computing.

    Args:
      rows: as for `draw`.
      speeds: what was timed of each row, by way.
      title: of the table.
      column: what is compared.
      scale: at which accuracy was measured.
      path: of the picture.
    """
    figure = new_figure(7.0, 4.5)
    axes = figure.subplots()
    for way in dict.fromkeys(way for found in speeds for way in found):
        points = [
            (found[way]["milliseconds"], statistics.mean(values), name)
            for (name, _, values), found in zip(rows, speeds, strict=True)
            if way in found and values
        ]
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=way)
        for x, y, name in points:
            place = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right"}
            axes.annotate(name, (x, y), fontsize=8, **place)
    if axes.lines:
        axes.margins(y=0.2)
        axes.set_xlim(left=0)
        axes.legend()
        axes.grid(alpha=0.3)
    else:
        _say(axes, "nothing measured yet")
    axes.set(xlabel="ms a clip, batch 1, this machine", ylabel=f"{column}, % (scale: {scale})")
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def draw_speeds(speeds: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> Path:
    """Draw the milliseconds of a clip as a bar for each way of computing.

    Args:
      speeds: what was timed of one network, by way.
      title: of the table.
      path: of the picture.
    """
    figure = new_figure(7.0, 1.4 + 0.4 * max(len(speeds), 1))
    axes = figure.subplots()
    bars = axes.barh(list(speeds), [found["milliseconds"] for found in speeds.values()])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    if not speeds:
        _say(axes, "nothing measured yet")
    axes.set(xlabel="ms a clip, batch 1, this machine")
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
