"""A table of the paper as rows of runs, and the command that fills it.

Every `table*.py` declares a `Table` and calls `main`. At scale "paper" a row is trained (or, with
`--weights`, evaluated) on the paper's data; at scale "demo" the same change is made to the network
of configs/ablation.py, on the embedded motion videos, over several seeds.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import runs
from launch import at_least
from runs import Run
from speeds import Timed
from table_plot import draw, draw_against_speed

from squeezetime_jax.data import motion
from squeezetime_jax.deploy.benchmark_command import machine
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole, write_whole
from squeezetime_jax.training import config

SCALES = ("demo", "paper")
TOP = {"top-1": "top1", "top-5": "top5"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
      name: as the table shows it.
      fields: of the config that differ from the table's network.
      demo: the same at scale "demo", where they are others.
      paper: the paper's figures, by column, in percent; "parameters" in millions and
        "multiply-adds" in thousands of millions.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    demo: Mapping[str, Any] | None = None
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def at(self, scale: str) -> Mapping[str, Any]:
        """The fields at a scale."""
        return self.demo if scale == "demo" and self.demo is not None else self.fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line says.

    Attributes:
      scale: "demo" or "paper".
      seeds: of each row.
      start: weights that the runs start from, instead of runs of this project.
      weights: a checkpoint to evaluate instead of training.
      extra: further fields of the config, such as where the data are.
      workdir: where runs, tables and pictures go.
    """

    scale: str = "demo"
    seeds: int = 1
    start: str = ""
    weights: str = ""
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: Path = Path("runs/tables")


MakeRun = Callable[[Row, Choices, int], Run]


def kinetics400(row: Row, choices: Choices, seed: int) -> Run:
    """A network of the ablations: pre-trained on ImageNet and trained on Kinetics-400, or small."""
    if choices.scale == "demo":
        return small(row, choices, seed)
    network = {name: row.fields[name] for name in row.fields if name.startswith("model.")}
    start = choices.start or Run(config="imagenet1k", fields=network, evaluated=False)
    return Run(
        config="k400:paper",
        fields=row.fields,
        where=choices.extra,
        seed=seed,
        start=start,
        views="10x3",
        weights=choices.weights,
    )


def small(row: Row, choices: Choices, seed: int) -> Run:
    """A small network on the embedded motion videos, which all runs of a folder share."""
    videos = choices.workdir.absolute() / "demo" / "videos"
    where = {"data.train": videos / "train.txt", "data.test": videos / "test.txt", **choices.extra}
    return Run(config="ablation", fields=row.at("demo"), where=where, seed=seed)


def on_kinetics400(choices: Choices) -> Run | str:
    """What the networks of the other data sets start from: given weights, or Table 1's network."""
    plain = dataclasses.replace(choices, extra={}, weights="")
    return choices.start or kinetics400(Row(name="SqueezeTime"), plain, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
      name: of its script and its files.
      title: what it compares.
      rows: from top to bottom as the paper has them.
      rising: the rows' names from worst to best as the paper has them; empty: it claims no order.
      metrics: column -> its name in the evaluation; the first is the one that is compared.
      run: the run of a row for a seed.
      demo_note: what scale "demo" has otherwise than the paper.
      note: what stands below it at every scale.
      timed: which network of a row is timed on this machine; None: none is.
      seeds: of each row by default, by scale.
    """

    name: str
    title: str
    rows: Sequence[Row]
    rising: Sequence[str] = ()
    metrics: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(TOP))
    run: MakeRun = kinetics400
    demo_note: str = ""
    note: str = ""
    timed: Callable[[Row, Choices], Timed] | None = None
    seeds: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"demo": 3, "paper": 1})

    def all_runs(self, choices: Choices) -> list[Run]:
        """Every run of the table, a seed after the other."""
        seeds = range(choices.seeds)
        return [self.run(row, choices, seed) for seed in seeds for row in self.rows]

    def lines(self, choices: Choices) -> list["Line"]:
        """What is known of every row."""
        seeds = range(choices.seeds)
        return [
            Line(row, [self.run(row, choices, seed) for seed in seeds], self, choices)
            for row in self.rows
        ]


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


def heads_and_cells(table: Table, choices: Choices) -> tuple[list[str], list[list[str]]]:
    """The table as words: the columns' names, and the cells of each row."""
    demo = choices.scale == "demo"
    compared = list(table.metrics)[:1] if demo else list(table.metrics)
    has_costs = any("multiply-adds" in row.paper for row in table.rows)
    heads = ["", *(f"paper {column}" for column in table.metrics)]
    heads += ["parameters", "paper", "multiply-adds", "paper"] if has_costs else []
    heads += [f"here {column} ({choices.scale})" for column in compared]
    ways = table.timed(table.rows[0], choices).ways if table.timed else ()
    heads += [f"ms a clip, {way}" for way in ways]
    heads += ["clips/s"] if ways else []
    heads += ["small network: parameters", "multiply-adds"] if demo and has_costs else []
    lines = []
    for line in table.lines(choices):
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
    by_name = {line.row.name: line.values(column) for line in table.lines(choices)}
    if not all(len(by_name[name]) == choices.seeds for name in table.rising):
        return "Not all runs are done: nothing is said about the paper's order."
    steps, held = [], []
    for low, high in itertools.pairwise(table.rising):
        gain, error = difference(by_name[low], by_name[high])
        held.append(gain > 0)
        told = f"{high} over {low} {gain:+.1f} points"
        # Twice the standard error of a difference: what chance alone seldom exceeds.
        told += f" ± {error:.1f}" if not math.isnan(error) else ""
        unclear = "" if abs(gain) > 2 * error else ", within twice its standard error"
        steps.append(f"{told} ({'as' if gain > 0 else 'against'} the paper{unclear})")
    whole = "held" if all(held) else "did not hold"
    return f"The paper's order {whole} here: {'; '.join(steps)}."


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
        for line in table.lines(choices)
    ]
    picture = folder / f"{table.name}.png"
    if table.timed:
        speeds = [line.speeds for line in table.lines(choices)]
        draw_against_speed(drawn, speeds, table.title, column, choices.scale, picture)
    else:
        draw(drawn, table.title, column, choices.scale, picture)
    return path


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of every table."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
    made.add_argument("--seeds", type=at_least(1), help="runs of each row; default 3, 1 for paper")
    made.add_argument("--workdir", type=Path, default=Path("runs/tables"), metavar="DIR")
    made.add_argument(
        "--devices",
        default="local",
        metavar="PLACE",
        help="where to train, as launch.py takes it: 'local', 'slurm --nodes 2', ...",
    )
    made.add_argument(
        "--from", dest="start", default="", metavar="CKPT", help="weights to start from"
    )
    made.add_argument("--weights", default="", metavar="CKPT", help="evaluate it, train nothing")
    made.add_argument("--dry-run", action="store_true", help="print commands and costs")
    made.add_argument("fields", nargs="*", metavar="--config.FIELD=VALUE", help="after two dashes")
    return made


def parse(words: Sequence[str] | None, description: str | None, table: Table) -> Any:
    """The command line as `Choices`, with `devices` and `dry_run` beside."""
    args = parser(description).parse_args(words)
    runs.check_place(args.devices)
    if args.weights and (args.scale == "demo" or len(table.rows) > 1):
        raise UserError("--weights: only for a table of one network, and with --scale paper")
    extra = {}
    for word in args.fields:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not word.startswith("--config.") or not equals:
            raise UserError(f"{word}: after the two dashes, wanted --config.FIELD=VALUE")
        extra[name] = value
    choices = Choices(
        scale=args.scale,
        seeds=args.seeds or (1 if args.weights else table.seeds[args.scale]),
        start=args.start,
        weights=args.weights,
        extra=extra,
        workdir=args.workdir,
    )
    return args, choices


def main(table: Table, description: str | None, words: Sequence[str] | None = None) -> int:
    """Fill the table, or say what that would take."""
    try:
        args, choices = parse(words, description, table)
        wanted = table.all_runs(choices)
        folder = choices.workdir / choices.scale
        if args.dry_run:
            runs.print_plan(wanted, folder, args.devices)
            time_networks(table, choices, dry_run=True)
            return 0
        if any(run.config == "ablation" for run in runs.ordered(wanted)):
            make_videos(choices)
        troubles = runs.do_all(wanted, folder, args.devices)
        time_networks(table, choices)
        path = write(table, choices)
    except UserError as error:
        print(f"{table.name}: {error}", file=sys.stderr)
        return 1
    print(f"\n{path.read_text()}\nwrote {path}, and .csv and .png beside it")
    return 1 if troubles else 0


def time_networks(table: Table, choices: Choices, *, dry_run: bool = False) -> None:
    """Time what the table wants timed; while something else runs, the times say little."""
    if table.timed:
        for row in table.rows:
            timed = table.timed(row, choices)
            timed.measure(choices.workdir / choices.scale, dry_run=dry_run)


def make_videos(choices: Choices) -> None:
    """The motion videos of configs/ablation.py, once for all runs."""
    words = [f"--config.{name}={value}" for name, value in choices.extra.items()]
    arguments = config.parse_data(config.read(["--config=ablation", *words])).motion
    folder = choices.workdir / "demo" / "videos"
    print(f"videos: {folder} (made now, or found)", flush=True)
    motion.write_motion_dataset(folder, **dataclasses.asdict(arguments))
