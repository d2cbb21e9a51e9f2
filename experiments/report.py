"""Collect what every table's runs have given so far into one page.

    python experiments/report.py [--scale demo|paper] [--workdir DIR]

Writes `report.md` into the scale's folder, with the tables' plots beside it: what was run, where,
when and with which version. Nothing is run; what is missing or has failed says so.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import render
from runs import Run, ordered
from tables import SCALES, Choices, Table

from squeezetime_jax.files import write_whole

_SCRIPTS = ("table[0-9]*_*.py", "figure[0-9]*_*.py")


def all_tables() -> list[Table]:
    """Every table and figure that has a script, in the paper's order."""
    here = Path(__file__).parent
    names = [path.stem for kind in _SCRIPTS for path in here.glob(kind)]
    number = {name: int(re.findall(r"\d+", name)[0]) for name in names}
    names.sort(key=lambda name: (name.startswith("figure"), number[name]))
    return [importlib.import_module(name).TABLE for name in names]


def collect(scale: str, workdir: Path) -> Path:
    """Write every table anew from its runs' results, and the page that holds them all.

    Each table's runs are those that its script was last asked for.

    Returns:
      The page.
    """
    parts, every_run = [f"# The paper's tables at scale {scale}"], []
    for table in all_tables():
        choices = Choices.remembered(table.name, scale, workdir)
        choices = choices or Choices(scale=scale, seeds=table.seeds[scale], workdir=workdir)
        parts.append(render.write(table, choices).read_text())
        parts.append(f"![{table.title}]({table.name}.png)\n")
        every_run += table.all_runs(choices)
    parts += ["## Runs\n", runs_table(ordered(every_run), workdir / scale)]
    path = workdir / scale / "report.md"
    write_whole(path, "\n".join(parts))
    return path


def runs_table(wanted: Sequence[Run], folder: Path) -> str:
    """One line a run: what became of it, where, when, at which version."""
    lines = ["| run | what became of it | minutes | when (UTC) | machine | version |"]
    lines.append("| --- | --- | ---: | --- | --- | --- |")
    for run in wanted:
        found = run.result(folder)
        cells = [run.name, _outcome(found), "", "", "", ""]
        if found:
            minutes = f"{found['seconds'] / 60:.1f}" if "seconds" in found else ""
            cells[2:] = [minutes, found["when"][:16], found["machine"], found["version"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _outcome(found: dict[str, Any] | None) -> str:
    if found is None:
        return "missing: not run"
    return f"failed: {found['failed']}" if "failed" in found else "done"


def main(words: Sequence[str] | None = None) -> int:
    """Collect and say where."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="demo")
    parser.add_argument("--workdir", type=Path, default=Path("runs/tables"), metavar="DIR")
    args = parser.parse_args(words)
    print(f"wrote {collect(args.scale, args.workdir)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
