"""Size and the paper's accuracy against the speed that was measured."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from squeezetime_jax.bench.benchmark import PAPER_SPEED, VARIANTS
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole

_MARKERS = {"float32": "o", "bfloat16": "s", "int8": "^"}


def check(target: Path) -> None:
    """Refuse a name that no picture can have, before minutes are spent.

    Raises:
      UserError: its suffix is no picture's.
    """
    suffixes = FigureCanvasBase.get_supported_filetypes()
    if target.suffix.lower().removeprefix(".") not in suffixes:
        raise UserError(f"{target}: is no picture's name; wanted .png, .svg or .pdf")


def draw(found: dict[str, Any], target: Path) -> Path:
    """Draw a benchmark's rows.

    Args:
      found: as `squeezetime bench --json` prints it.
      target: the picture.
    """
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    accuracy, size = figure.subplots(1, 2)
    known = [row for row in found["rows"] if VARIANTS.get(row["variant"]) is not None]
    _scatter(accuracy, known, [VARIANTS[row["variant"]] for row in known])
    accuracy.set_ylabel("the paper's top-1 on Kinetics-400, %")
    _scatter(size, found["rows"], [row["parameters"] / 1e6 for row in found["rows"]])
    size.set_ylabel("parameters, millions")
    handles, labels = size.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.suptitle(found["machine"], fontsize="medium")
    figure.supxlabel(f"ms a clip, batch 1, median.  {PAPER_SPEED}", fontsize="small")
    with whole(target) as part:
        figure.savefig(part, dpi=150)
    return target


def _scatter(axes: Axes, rows: list[dict[str, Any]], heights: list[float | None]) -> None:
    colours = list(dict.fromkeys(row["runtime"] for row in rows))
    for runtime, dtype in dict.fromkeys((row["runtime"], row["dtype"]) for row in rows):
        points = [
            (row["milliseconds"], height)
            for row, height in zip(rows, heights, strict=True)
            if (row["runtime"], row["dtype"]) == (runtime, dtype)
        ]
        colour = f"C{colours.index(runtime)}"
        label = f"{runtime} {dtype}"
        axes.plot(*zip(*points, strict=True), _MARKERS[dtype], color=colour, label=label)
    for height, names in _levels(rows, heights).items():
        axes.axhline(height, color="0.9", zorder=0)
        axes.annotate(
            "; ".join(names),
            (0.015, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 6),
            textcoords="offset points",
        )
    axes.set_xlim(left=0)
    axes.margins(y=0.1)
    axes.grid(alpha=0.3)


def _levels(
    rows: list[dict[str, Any]], heights: list[float | None]
) -> dict[float, dict[str, None]]:
    """Names of the networks at each height; those of about the same share a line of text."""
    levels: dict[float, dict[str, None]] = {}
    for row, height in zip(rows, heights, strict=True):
        assert height is not None
        near = next((level for level in levels if abs(level - height) < 0.3), height)
        levels.setdefault(near, {})[row["variant"] or "released"] = None
    return levels
