"""A picture of `squeezetime bench`: size and published accuracy against the measured speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole

_MARKERS = {"float32": "o", "bfloat16": "s", "float16": "D", "int8": "^"}
_PAPER = (
    "The paper's SqueezeTime, on other machines: 123 ms (Xeon Gold 6278C), 139 ms (a phone's"
    " processor), 903 clips/s (V100)."
)


def check(target: Path) -> None:
    """Check the name of a picture, before minutes are spent.

    Raises:
      UserError: its suffix is not a picture's.
    """
    suffixes = FigureCanvasBase.get_supported_filetypes()
    if target.suffix.lower().removeprefix(".") not in suffixes:
        raise UserError(f"{target}: the name of a picture must end in .png, .svg or .pdf")


def draw(found: dict[str, Any], target: Path) -> Path:
    """Draw a benchmark: parameters over time, and accuracy over time where it is published.

    Args:
      found: as `squeezetime bench --json` prints it.
      target: the picture.
    """
    rows = found["rows"]
    rated = [row for row in rows if row["published_top1"] is not None]
    figure = Figure(figsize=(13 if rated else 8, 5), layout="constrained")
    size, *accuracy = figure.subplots(1, 2 if rated else 1, squeeze=False)[0]
    _scatter(size, rows, lambda row: row["parameters"] / 1e6, rows)
    size.set_ylabel("parameters, millions")
    for axes in accuracy:
        _scatter(axes, rated, lambda row: row["published_top1"], rows)
        axes.set_ylabel("published top-1 on Kinetics-400, %")
    handles, labels = size.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.suptitle(found["machine"], fontsize="medium")
    figure.supxlabel("milliseconds a clip, batch 1, median\n" + _PAPER, fontsize="small")
    with whole(target) as part:
        figure.savefig(part, dpi=150)
    return target


def _scatter(
    axes: Axes,
    rows: list[dict[str, Any]],
    height: Callable[[dict[str, Any]], float],
    all_rows: list[dict[str, Any]],
) -> None:
    """A point for each row: the colour is the runtime, the marker is the type."""
    runtimes = list(dict.fromkeys(row["runtime"] for row in all_rows))
    for runtime, dtype in dict.fromkeys((row["runtime"], row["dtype"]) for row in rows):
        chosen = [row for row in rows if (row["runtime"], row["dtype"]) == (runtime, dtype)]
        axes.plot(
            [row["milliseconds"] for row in chosen],
            [height(row) for row in chosen],
            _MARKERS[dtype],
            color=f"C{runtimes.index(runtime)}",
            label=f"{runtime} {dtype}",
        )
    axes.set_xlim(left=0)
    axes.margins(x=0.05, y=0.12)
    axes.grid(alpha=0.3)
    for level, names in _levels(axes, rows, height).items():
        axes.axhline(level, color="0.9", zorder=0)
        axes.annotate(
            "; ".join(names),
            (0.01, level),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize="small",
        )


def _levels(
    axes: Axes, rows: list[dict[str, Any]], height: Callable[[dict[str, Any]], float]
) -> dict[float, list[str]]:
    """Names of the networks at each height; those whose lines of text would overlap share one."""
    low, high = axes.get_ylim()
    heights = {row["network"]: height(row) for row in rows}
    levels: dict[float, list[str]] = {}
    for name, level in sorted(heights.items(), key=lambda item: item[1]):
        near = [other for other in levels if abs(other - level) < (high - low) / 25]
        levels.setdefault(near[0] if near else level, []).append(name)
    return levels
