"""The plots of the tables: the paper's figures beside those measured here."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from squeezetime_jax.evaluation.pictures import new_figure, save_figure

# Name of a row, the paper's percentage, those measured, and speeds by "runtime dtype".
Line = tuple[str, float | None, Sequence[float], Mapping[str, Mapping[str, Any]]]
_NOTHING = "no measurements yet"


def draw_accuracy(lines: Sequence[Line], title: str, column: str, scale: str, path: Path) -> None:
    """Draw the rows of a table as dots, the paper's on the left.

    Args:
      lines: from top to bottom.
      title: of the table.
      column: that is compared.
      scale: at which it was measured.
      path: of the picture.
    """
    figure = new_figure(10.0, 1.4 + 0.45 * len(lines))
    paper, here = figure.subplots(1, 2, sharey=True)
    for place, (_, published, values, _) in enumerate(lines):
        if published is not None:
            paper.plot(published, place, "D", color="#44719c")
        here.plot(values, [place] * len(values), "o", color="0.6", markersize=5)
        if values:
            here.plot(statistics.mean(values), place, "D", color="#b5453a")
    paper.set_yticks(range(len(lines)), [name for name, *_ in lines])
    paper.set_ylim(len(lines) - 0.5, -0.5)
    paper.set(xlabel=f"{column}, %", title="paper")
    here.set(xlabel=f"{column}, %", title=f"here, scale {scale}; grey: each seed")
    if not any(values for _, _, values, _ in lines):
        _write(here, _NOTHING)
    for axes in (paper, here):
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def draw_accuracy_and_speed(
    lines: Sequence[Line], title: str, column: str, scale: str, path: Path
) -> None:
    """Draw accuracy over the milliseconds of a clip, a colour for each runtime.

    Args: as for `draw_accuracy`.
    """
    figure = new_figure(7.0, 4.5)
    axes = figure.subplots()
    for runtime in dict.fromkeys(name for *_, speeds in lines for name in speeds):
        points = [
            (speeds[runtime]["milliseconds"], statistics.mean(values), name)
            for name, _, values, speeds in lines
            if runtime in speeds and values
        ]
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=runtime)
        for x, y, name in points:
            place = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right"}
            axes.annotate(name, (x, y), fontsize=8, **place)
    if axes.lines:
        axes.margins(y=0.2)
        axes.set_xlim(left=0)
        axes.legend()
        axes.grid(alpha=0.3)
    else:
        _write(axes, _NOTHING)
    axes.set(xlabel="ms a clip, batch 1, this machine", ylabel=f"{column}, % (scale: {scale})")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def draw_speed(speeds: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the milliseconds of a clip as a bar for each runtime.

    Args:
      speeds: of one network, by "runtime dtype".
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
        _write(axes, _NOTHING)
    axes.set(xlabel="ms a clip, batch 1, this machine")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _write(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
