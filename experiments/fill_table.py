"""The command of every table: do its runs, or say what that would take, and write the table."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import sweep
from launch import at_least
from render import write
from runs import ordered
from tables import SCALES, Choices, Table

from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError
from squeezetime_jax.training import config


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


def choose(args: argparse.Namespace, table: Table) -> Choices:
    """What the command line says.

    Raises:
      UserError: it does not fit the table.
    """
    if args.weights and (args.scale == "demo" or len(table.rows) > 1):
        raise UserError("--weights: only for a table of one network, and with --scale paper")
    extra = {}
    for word in args.fields:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not word.startswith("--config.") or not equals:
            raise UserError(f"{word}: after the two dashes, wanted --config.FIELD=VALUE")
        extra[name] = value
    return Choices(
        scale=args.scale,
        seeds=args.seeds or (1 if args.weights else table.seeds[args.scale]),
        start=args.start,
        weights=args.weights,
        extra=extra,
        workdir=args.workdir,
    )


def main(table: Table, description: str | None, words: Sequence[str] | None = None) -> int:
    """Fill the table, or say what that would take."""
    args = parser(description).parse_args(words)
    try:
        sweep.check_place(args.devices)
        choices = choose(args, table)
        wanted = table.all_runs(choices)
        folder = choices.workdir / choices.scale
        if args.dry_run:
            sweep.print_plan(wanted, folder, args.devices)
            time_networks(table, choices, dry_run=True)
            return 0
        choices.remember(table.name)
        if any(run.config == "ablation" for run in ordered(wanted)):
            make_videos(choices)
        troubles = sweep.do_all(wanted, folder, args.devices)
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
    with sweep.alone(folder):
        motion.write_motion_dataset(folder, **dataclasses.asdict(arguments))
