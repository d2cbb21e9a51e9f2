"""The results of the runs so far: each table as Markdown, CSV and a plot, and one page of all."""

import csv
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plots
from paper import KINETICS400, Row, Table
from runs import Run, Settings, ordered, run_of, runs_of
from speeds import measured, networks_table

from squeezetime_jax.bench.command import machine
from squeezetime_jax.files import whole, write_whole


class Line:
    """A row of a table with its results.

    Args:
      table: the table.
      row: the row.
      settings: scale, seeds and folder.
    """

    def __init__(self, table: Table, row: Row, settings: Settings):
        self.row, self._metrics = row, table.metrics
        runs = [run_of(table, row, settings, seed) for seed in range(settings.seeds)]
        self.run = runs[0]
        self.results = [run.result(settings.folder) for run in runs]
        self.speeds = measured(table, row, settings)

    def values(self, column: str) -> list[float]:
        """The measured percentages of a column, one for each finished seed."""
        name, _, key = self._metrics[column].partition(".")
        found = [result["scores"] for result in self.results if result and "scores" in result]
        values = [scores[name][key] if key else scores[name] for scores in found]
        return [100 * value for value in values if value is not None]

    def cell(self, column: str) -> str:
        """Mean and spread of a column, and how many runs failed or are missing."""
        values = self.values(column)
        parts = []
        if values:
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            parts.append(f"{statistics.mean(values):.1f}{spread}")
        failed = sum(1 for result in self.results if result and "failed" in result)
        missing = len(self.results) - len(values) - failed
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{missing} missing"] if missing else []
        return ", ".join(parts)


def lines_of(table: Table, settings: Settings) -> list[Line]:
    """Every row with its results."""
    return [Line(table, row, settings) for row in table.rows]


def cells_of(table: Table, settings: Settings, lines: Sequence[Line]) -> list[list[str]]:
    """The table as words: the names of the columns, then the cells of each row."""
    demo = settings.scale == "demo"
    compared = list(table.metrics)[:1] if demo else list(table.metrics)
    has_costs = any("multiply-adds" in row.paper for row in table.rows)
    heads = ["", *(f"paper {column}" for column in table.metrics)]
    if has_costs:
        heads += ["parameters", "parameters, paper", "multiply-adds", "multiply-adds, paper"]
    heads += [f"here {column} ({settings.scale})" for column in compared]
    heads += [f"ms a clip, {runtime}" for runtime in table.runtimes]
    heads += ["clips/s"] if table.runtimes else []
    heads += ["small network: parameters", "multiply-adds"] if demo and has_costs else []
    found = [heads]
    for line in lines:
        row, speeds = line.row, line.speeds
        cells = [row.name, *(_figure(row.paper.get(column)) for column in table.metrics)]
        cells += _costs(row) if has_costs else []
        cells += [line.cell(column) for column in compared]
        cells += [_figure(speeds.get(name, {}).get("milliseconds")) for name in table.runtimes]
        if table.runtimes:
            rates = (speed["clips_per_second"] for speed in speeds.values())
            cells.append(_figure(max(rates, default=None)))
        if demo and has_costs:
            counts = line.run.counts()
            cells += [f"{counts.backbone / 1e6:.2f} M", f"{counts.multiply_adds / 1e6:.1f} M"]
        found.append(cells)
    return found


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.1f}{unit}"


def _costs(row: Row) -> list[str]:
    """What the paper's network of this row costs: counted, and as printed in the paper."""
    counts = Run(training=KINETICS400, fields=row.fields).counts()
    # The paper's parameters leave the position encodings out.
    return [
        f"{(counts.backbone - counts.position) / 1e6:.1f} M",
        _figure(row.paper.get("parameters"), " M"),
        f"{counts.multiply_adds / 1e9:.1f} G",
        _figure(row.paper.get("multiply-adds"), " G"),
    ]


def verdict(table: Table, settings: Settings, lines: Sequence[Line]) -> str:
    """Whether the rows came out in the paper's order, step by step; empty if it claims none."""
    if not table.rising:
        return ""
    column = next(iter(table.metrics))
    by_name = {line.row.name: line.values(column) for line in lines}
    if not all(len(by_name[name]) == settings.seeds for name in table.rising):
        return "Some runs are missing: the paper's order was not checked."
    steps, held = [], []
    for low, high in itertools.pairwise(table.rising):
        gain, error = difference(by_name[low], by_name[high])
        held.append(gain > 0)
        step = f"{high} over {low} {gain:+.1f} points"
        # Twice the standard error of a difference: what chance alone seldom exceeds.
        step += f" ± {error:.1f}" if not math.isnan(error) else ""
        unclear = ", within twice its standard error" if abs(gain) <= 2 * error else ""
        steps.append(f"{step} ({'as' if gain > 0 else 'against'} the paper{unclear})")
    outcome = "held" if all(held) else "did not hold"
    return f"The paper's order {outcome} here: {'; '.join(steps)}."


def difference(low: Sequence[float], high: Sequence[float]) -> tuple[float, float]:
    """Difference of two means, and its standard error (nan for single values)."""
    gain = statistics.mean(high) - statistics.mean(low)
    if min(len(low), len(high)) < 2:
        return gain, math.nan
    parts = [statistics.variance(values) / len(values) for values in (low, high)]
    return gain, math.sqrt(sum(parts))


def markdown(table: Table, settings: Settings, lines: Sequence[Line]) -> str:
    """The table in Markdown, with notes and the verdict on its order."""
    heads, *rows = cells_of(table, settings, lines)
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    notes = []
    if settings.seeds > 1:
        notes.append(f"Here: {settings.seeds} seeds, mean ± standard deviation, in percent.")
    notes += [table.demo_note if settings.scale == "demo" else "", table.note]
    notes += [f"Speed: medians at batch 1, on {machine()}." if table.runtimes else ""]
    notes += [verdict(table, settings, lines)]
    notes += [networks_table(settings) if table.networks else ""]
    return "\n\n".join([f"### {table.title}", text, *filter(None, notes)]) + "\n"


def write_table(table: Table, settings: Settings) -> str:
    """Write a table as Markdown, as CSV and as a plot; returns the Markdown."""
    lines, path = lines_of(table, settings), settings.folder / table.name
    text = markdown(table, settings, lines)
    write_whole(path.with_suffix(".md"), text)
    with whole(path.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows(cells_of(table, settings, lines))
    column, picture = next(iter(table.metrics)), path.with_suffix(".png")
    drawn = [(x.row.name, x.row.paper.get(column), x.values(column), x.speeds) for x in lines]
    if table.runtimes and len(lines) == 1:  # accuracy may be another network's
        plots.draw_speed(lines[0].speeds, table.title, picture)
    else:
        draw = plots.draw_accuracy_and_speed if table.runtimes else plots.draw_accuracy
        draw(drawn, table.title, column, settings.scale, picture)
    return text


def write_page(tables: Sequence[Table], settings: Sequence[Settings]) -> Path:
    """Write tables from the results of their runs, and the page that holds them all.

    Args:
      tables: at least one.
      settings: of each table, with one folder and scale.

    Returns:
      The page.
    """
    folder, scale = settings[0].folder, settings[0].scale
    parts, runs = [f"# The paper's tables at scale {scale}"], []
    for table, chosen in zip(tables, settings, strict=True):
        parts.append(write_table(table, chosen))
        parts.append(f"![{table.title}]({table.name}.png)\n")
        runs += runs_of(table, chosen)
    parts += ["## Runs\n", runs_table(ordered(runs), folder)]
    path = folder / "report.md"
    write_whole(path, "\n".join(parts))
    return path


def runs_table(runs: Sequence[Run], folder: Path) -> str:
    """One line a run: its outcome, time, machine and version."""
    lines = ["| run | outcome | minutes | when (UTC) | machine | version |"]
    lines.append("| --- | --- | ---: | --- | --- | --- |")
    for run in runs:
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
