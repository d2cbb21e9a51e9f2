"""Size and the paper's accuracy against the speed that was measured."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from squeezetime_jax.deploy.benchmark import PAPER_SPEED, VARIANTS
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole


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
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    accuracy, size = figure.subplots(1, 2)
    known = [row for row in found["rows"] if VARIANTS.get(row["variant"]) is not None]
    _scatter(accuracy, known, [VARIANTS[row["variant"]] for row in known])
    accuracy.set_ylabel("the paper's top-1 on Kinetics-400, %")
    _scatter(size, found["rows"], [row["parameters"] / 1e6 for row in found["rows"]])
    size.set_ylabel("parameters, millions")
    size.legend(fontsize="small")
    figure.suptitle(found["machine"], fontsize="medium")
    figure.supxlabel(f"ms a clip, batch 1, median.  {PAPER_SPEED}", fontsize="small")
    with whole(target) as part:
        figure.savefig(part, dpi=150)
    return target


def _scatter(axes: Axes, rows: list[dict[str, Any]], heights: list[float | None]) -> None:
    groups = list(dict.fromkeys(f"{row['runtime']} {row['dtype']}" for row in rows))
    for group in groups:
        points = [
            (row["milliseconds"], height)
            for row, height in zip(rows, heights, strict=True)
            if f"{row['runtime']} {row['dtype']}" == group
        ]
        axes.plot(*zip(*points, strict=True), "o", label=group)
    for name in dict.fromkeys(row["variant"] for row in rows):
        first = next(k for k, row in enumerate(rows) if row["variant"] == name)
        place = (rows[first]["milliseconds"], heights[first])
        axes.annotate(name or "released", place, xytext=(4, 4), textcoords="offset points")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
