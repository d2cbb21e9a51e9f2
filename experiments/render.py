"""What a table's runs have given so far, as Markdown, CSV and a plot."""

import csv
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from runs import Run
from table_plot import draw, draw_against_speed, draw_speeds
from tables import Choices, Row, Table, kinetics400

from squeezetime_jax.bench.command import machine
from squeezetime_jax.files import whole, write_whole


class Line:
    """A row of a table with what has been measured.

    Args:
      row: the row.
      of_seeds: its run for each seed.
      table: the table.
      choices: scale and folder.
    """

    def __init__(self, row: Row, of_seeds: Sequence[Run], table: Table, choices: Choices):
        self.row, self.runs, self._metrics = row, of_seeds, table.metrics
        folder = choices.workdir / choices.scale
        self.results = [run.result(folder) for run in of_seeds]
        self.speeds = table.timed(row, choices).found(folder) if table.timed else {}

    def values(self, column: str) -> list[float]:
        """The measured percentages of a column, one for each finished seed."""
        keys = self._metrics[column].split(".", 1)
        found = [result["scores"] for result in self.results if result and "scores" in result]
        values = [scores[keys[0]][keys[1]] if keys[1:] else scores[keys[0]] for scores in found]
        return [100 * value for value in values if value is not None]

    def cell(self, column: str) -> str:
        """Mean and spread of a column, and what is missing."""
        values = self.values(column)
        parts = []
        if values:
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            parts.append(f"{statistics.mean(values):.1f}{spread}")
        failed = sum(1 for result in self.results if result and "failed" in result)
        absent = len(self.results) - len(values) - failed
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{absent} missing"] if absent else []
        return ", ".join(parts)


def lines_of(table: Table, choices: Choices) -> list[Line]:
    """What is known of every row."""
    seeds = range(choices.seeds)
    return [
        Line(row, [table.run(row, choices, seed) for seed in seeds], table, choices)
        for row in table.rows
    ]


def heads_and_cells(table: Table, choices: Choices) -> tuple[list[str], list[list[str]]]:
    """The table as words: the columns' names, and the cells of each row."""
    demo = choices.scale == "demo"
    compared = list(table.metrics)[:1] if demo else list(table.metrics)
    has_costs = any("multiply-adds" in row.paper for row in table.rows)
    heads = ["", *(f"paper {column}" for column in table.metrics)]
    heads += [
        column + whose
        for column in ("parameters", "multiply-adds")
        for whose in ("", ", paper")
        if has_costs
    ]
    heads += [f"here {column} ({choices.scale})" for column in compared]
    ways = table.timed(table.rows[0], choices).ways if table.timed else ()
    heads += [f"ms a clip, {way}" for way in ways]
    heads += ["clips/s"] if ways else []
    heads += ["small network: parameters", "multiply-adds"] if demo and has_costs else []
    lines = []
    for line in lines_of(table, choices):
        row, cells = line.row, [line.row.name]
        cells += [_figure(row.paper.get(column)) for column in table.metrics]
        cells += _costs(row) if has_costs else []
        cells += [line.cell(column) for column in compared]
        cells += [_figure(line.speeds.get(way, {}).get("milliseconds")) for way in ways]
        fastest = max((row["clips_per_second"] for row in line.speeds.values()), default=None)
        cells += [_figure(fastest)] if ways else []
        if demo and has_costs:
            counts = line.runs[0].counts()
            cells += [f"{counts.backbone / 1e6:.2f} M", f"{counts.multiply_adds / 1e6:.1f} M"]
        lines.append(cells)
    return heads, lines


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.1f}{unit}"


def _costs(row: Row) -> list[str]:
    """What the paper's network of this row costs: counted, and as printed in the paper."""
    counts = kinetics400(row, Choices(scale="paper"), 0).counts()
    # The paper's parameters leave the position encodings out.
    return [
        f"{(counts.backbone - counts.position) / 1e6:.1f} M",
        _figure(row.paper.get("parameters"), " M"),
        f"{counts.multiply_adds / 1e9:.1f} G",
        _figure(row.paper.get("multiply-adds"), " G"),
    ]


def verdict(table: Table, choices: Choices) -> str:
    """Whether the order of the rows that the paper reports was seen here, step by step."""
    if not table.rising:
        return ""
    column = next(iter(table.metrics))
    by_name = {line.row.name: line.values(column) for line in lines_of(table, choices)}
    if not all(len(by_name[name]) == choices.seeds for name in table.rising):
        return "Not all runs are done: nothing is said about the paper's order."
    steps, held = [], []
    for low, high in itertools.pairwise(table.rising):
        gain, error = difference(by_name[low], by_name[high])
        held.append(gain > 0)
        told = f"{high} over {low} {gain:+.1f} points"
        # Twice the standard error of a difference: what chance alone seldom exceeds.
        told += f" ± {error:.1f}" if not math.isnan(error) else ""
        unclear = ", within twice its standard error" if abs(gain) <= 2 * error else ""
        steps.append(f"{told} ({'as' if gain > 0 else 'against'} the paper{unclear})")
    outcome = "held" if all(held) else "did not hold"
    return f"The paper's order {outcome} here: {'; '.join(steps)}."


def difference(low: Sequence[float], high: Sequence[float]) -> tuple[float, float]:
    """Difference of two means, and its standard error (nan for single values)."""
    gain = statistics.mean(high) - statistics.mean(low)
    if min(len(low), len(high)) < 2:
        return gain, math.nan
    parts = [statistics.variance(values) / len(values) for values in (low, high)]
    return gain, math.sqrt(sum(parts))


def markdown(table: Table, choices: Choices) -> str:
    """The table in Markdown, with what it says about the order."""
    heads, lines = heads_and_cells(table, choices)
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    seeds = f"{choices.seeds} seeds" if choices.seeds > 1 else "one seed"
    what = f"Here: {seeds}, mean ± standard deviation, in percent." if choices.seeds > 1 else ""
    notes = [what, table.demo_note if choices.scale == "demo" else "", table.note]
    notes += [f"Speed: medians at batch 1, on {machine()}." if table.timed else ""]
    notes += [verdict(table, choices)]
    return "\n\n".join([f"### {table.title}", text, *filter(None, notes)]) + "\n"


def write(table: Table, choices: Choices) -> Path:
    """Write the table as Markdown and CSV, and its plot; returns the Markdown."""
    folder = choices.workdir / choices.scale
    path = folder / f"{table.name}.md"
    write_whole(path, markdown(table, choices))
    heads, lines = heads_and_cells(table, choices)
    with whole(folder / f"{table.name}.csv") as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *lines])
    column = next(iter(table.metrics))
    drawn = [
        (line.row.name, line.row.paper.get(column), line.values(column))
        for line in lines_of(table, choices)
    ]
    picture = folder / f"{table.name}.png"
    speeds = [line.speeds for line in lines_of(table, choices)]
    if table.timed and len(table.rows) == 1:  # accuracy may be another network's
        draw_speeds(speeds[0], table.title, picture)
    elif table.timed:
        draw_against_speed(drawn, speeds, table.title, column, choices.scale, picture)
    else:
        draw(drawn, table.title, column, choices.scale, picture)
    return path
