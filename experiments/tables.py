"""The paper's tables: what their runs would cost, the runs themselves, and their results.

    python experiments/tables.py plan   [TABLE...] [--scale demo|paper] [--seeds N] ...
    python experiments/tables.py run    [TABLE...] [--scale demo|paper] [--devices PLACE] ...
    python experiments/tables.py report [TABLE...] [--scale demo|paper] [--workdir DIR]

TABLE is 1 to 11 or figure1; without one, all. `plan` prints every command with its estimated cost
and starts nothing. `run` trains and evaluates what is not done yet, resuming what was interrupted,
and writes the tables. `report` writes the tables and one page of them from the results so far.
Words after two dashes, `-- --config.FIELD=VALUE ...`, change fields of every run, such as where the
data are.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import launch
import report
import speeds
import sweep
from paper import SCALES, SEEDS, TABLES, Table
from runs import Settings, ordered, runs_of

from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError
from squeezetime_jax.training import config


def parser() -> argparse.ArgumentParser:
    """The command line before the two dashes."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    summaries = {
        "plan": "print every command with its estimated cost; start nothing",
        "run": "train and evaluate what is not done yet, and write the tables",
        "report": "write the tables and one page of them from the results so far",
    }
    for name, summary in summaries.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("tables", nargs="*", metavar="TABLE", help="1 to 11, figure1; default all")
        sub.add_argument("--scale", choices=SCALES, default="demo", help="default: demo")
        sub.add_argument("--workdir", type=Path, default=Path("runs/tables"), metavar="DIR")
        if name == "report":
            continue
        sub.add_argument(
            "--seeds", type=launch.at_least(1), help="runs of each row; default 3, 1 for paper"
        )
        sub.add_argument(
            "--devices",
            default="local",
            metavar="PLACE",
            help="where to train, as launch.py takes it: local, 'slurm --nodes 2', ...",
        )
        sub.add_argument(
            "--from", dest="start", default="", metavar="CKPT", help="weights to start from"
        )
        sub.add_argument("--weights", default="", metavar="CKPT", help="evaluate, train nothing")
    return top


def chosen_tables(names: Sequence[str]) -> list[Table]:
    """The tables of the names on the command line, in the paper's order; all without a name.

    Raises:
      UserError: there is no table of a name.
    """
    known = [number for table in TABLES for number in table.numbers]
    for name in names:
        if name not in known:
            raise UserError(f"TABLE: expected one of {', '.join(known)}, got {name!r}")
    return [table for table in TABLES if not names or set(names) & set(table.numbers)]


def config_fields(words: Sequence[str]) -> Mapping[str, str]:
    """The fields after the two dashes.

    Raises:
      UserError: a word is something else.
    """
    fields = {}
    for word in words:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not word.startswith("--config.") or not equals:
            raise UserError(f"after the two dashes: expected --config.FIELD=VALUE, got {word!r}")
        fields[name] = value
    return fields


def settings_of(args: argparse.Namespace, fields: Mapping[str, str]) -> Settings:
    """The settings of all tables on the command line."""
    return Settings(
        scale=args.scale,
        seeds=args.seeds or (1 if args.weights else SEEDS[args.scale]),
        start=args.start,
        weights=args.weights,
        extra=fields,
        workdir=args.workdir,
    )


def plan(tables: Sequence[Table], settings: Settings, place: str) -> None:
    """Print the commands of the runs and benchmarks that are left, and what they cost."""
    runs = [run for table in tables for run in runs_of(table, settings)]
    sweep.print_plan(runs, settings.folder, place)
    for table in tables:
        speeds.measure(table, settings, dry_run=True)


def run(tables: Sequence[Table], settings: Settings, place: str) -> int:
    """Do the runs and benchmarks that are left, and write the tables.

    Returns:
      The exit status: 1 if a run failed or has not ended.
    """
    for table in tables:
        settings.remember(table)
    runs = [run for table in tables for run in runs_of(table, settings)]
    if any(run.training.shares_videos for run in ordered(runs)):
        make_videos(settings)
    problems = sweep.do_all(runs, settings.folder, place)
    for table in tables:  # last: times say little while something else runs
        speeds.measure(table, settings)
        print(f"\n{report.write_table(table, settings)}")
        print(f"wrote {settings.folder / table.name}.md, .csv and .png")
    return 1 if problems else 0


def make_videos(settings: Settings) -> None:
    """Make the motion videos of configs/ablation.py, once for all runs."""
    words = [f"--config.{name}={value}" for name, value in settings.extra.items()]
    arguments = config.parse_section(config.read(["--config=ablation", *words]), "data").motion
    print(f"videos: {settings.videos} (made now, or found)", flush=True)
    with sweep.locked(settings.videos):
        motion.write_motion_dataset(settings.videos, **dataclasses.asdict(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, run or report."""
    before, after = launch.split(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(before)
    try:
        tables = chosen_tables(args.tables)
        fields = config_fields(after)
        if args.command == "report":
            found = Settings(scale=args.scale, seeds=SEEDS[args.scale], workdir=args.workdir)
            path = report.write_page(tables, [found.remembered(table) for table in tables])
            print(f"wrote {path}")
            return 0
        sweep.check_place(args.devices)
        if args.weights and (args.scale == "demo" or len(tables) > 1 or len(tables[0].rows) > 1):
            raise UserError("--weights: expected one table of one network, and --scale paper")
        settings = settings_of(args, fields)
        if args.command == "run":
            return run(tables, settings, args.devices)
        plan(tables, settings, args.devices)
    except UserError as error:
        print(f"tables.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
