"""A picture of `squeezetime bench`: the time of a clip by network and runtime."""

from pathlib import Path
from typing import Any

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

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
    """Draw a benchmark: a line for each network, the smallest at the top, and its times on it.

    Args:
      found: as `squeezetime bench --json` prints it.
      target: the picture.
    """
    rows = sorted(found["rows"], key=lambda row: -row["parameters"])
    lines = list(dict.fromkeys(_title(row) for row in rows))
    runtimes = sorted({row["runtime"] for row in rows})
    figure = Figure(figsize=(10, 1.6 + 0.4 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for runtime, dtype in sorted({(row["runtime"], row["dtype"]) for row in rows}):
        chosen = [row for row in rows if (row["runtime"], row["dtype"]) == (runtime, dtype)]
        axes.plot(
            [row["milliseconds"] for row in chosen],
            [lines.index(_title(row)) for row in chosen],
            _MARKERS[dtype],
            color=f"C{runtimes.index(runtime)}",
            label=f"{runtime} {dtype}",
            alpha=0.8,
        )
    axes.set_yticks(range(len(lines)), lines, fontsize="small")
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.suptitle(found["machine"], fontsize="medium")
    figure.supxlabel(
        f"milliseconds a clip, batch 1, median; top-1: published, Kinetics-400\n{_PAPER}",
        fontsize="small",
    )
    with whole(target) as part:
        figure.savefig(part, dpi=150)
    return target


def draw_paper(found: dict[str, Any], target: Path) -> Path:
    """Draw the paper's times over those of here, a panel for each runtime (as its Figure 1).

    Args:
      found: as `squeezetime bench --json` prints it; rows without the paper's time are left out.
      target: the picture.
    """
    rows = [row for row in found["rows"] if row["paper_cpu_ms"]]
    ways = list(dict.fromkeys(f"{row['runtime']} {row['dtype']}" for row in rows))
    figure = Figure(figsize=(6.5 * len(ways), 6), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        for row in rows:
            if f"{row['runtime']} {row['dtype']}" != way:
                continue
            ours = row["network"] == "squeezetime"
            place = row["milliseconds"], row["paper_cpu_ms"]
            axes.plot(*place, "*" if ours else "o", color="C3" if ours else "C0")
            axes.annotate(
                row["network"], place, (4, 3), textcoords="offset points", fontsize="x-small"
            )
        axes.set(xscale="log", yscale="log", title=way, xlabel="ms a clip, this machine")
        axes.set_ylabel("ms a clip, the paper's CPU")
        axes.margins(x=0.15)
        axes.grid(alpha=0.3, which="both")
    figure.suptitle(f"{found['machine']}; clips of the paper's sizes, batch 1", fontsize="medium")
    with whole(target) as part:
        figure.savefig(part, dpi=150)
    return target


def _title(row: dict[str, Any]) -> str:
    top1 = row["published_top1"]
    published = f"; top-1 {top1:.1f} %" if top1 is not None else ""
    return f"{row['network']}\n{row['parameters'] / 1e6:.1f} M parameters{published}"
