"""A command of subcommands: how they are declared, listed, called, and how they fail."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from squeezetime_jax.errors import UserError

Run = Callable[[argparse.Namespace], int | None]
_T = TypeVar("_T")


class Argument(NamedTuple):
    """What `argparse.ArgumentParser.add_argument` takes."""

    names: tuple[str, ...]
    options: dict[str, Any]


def arg(*names: str, **options: Any) -> Argument:
    """An argument of a subcommand, for `Program.subcommand`."""
    return Argument(names, options)


def positive(word: str) -> int:
    """The `type` of an argument that counts something."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1")
    return int(word)


def file(word: str) -> Path | None:
    """The `type` of an argument that names a file, or none by an empty word."""
    return Path(word) if word else None


def asked(kind: type[_T], args: argparse.Namespace, **others: Any) -> _T:
    """The dataclass whose fields are arguments of the same names.

    Args:
      kind: the dataclass.
      args: as they were given.
      others: fields that are no argument, or another one.
    """
    import dataclasses  # here, for `--help` to answer at once

    names = {field.name for field in dataclasses.fields(kind)} - set(others)  # type: ignore[arg-type]
    return kind(**{name: getattr(args, name) for name in names}, **others)


class Program:
    """A command, and its subcommands.

    Attributes:
      name: as the user writes it.
      description: what it is, in one line.
      subcommands: name -> subcommand, in the order of the help.
    """

    def __init__(self, name: str, description: str):
        self.name, self.description = name, description
        self.subcommands: dict[str, _Subcommand] = {}

    def subcommand(self, summary: str, example: str, *arguments: Argument) -> Callable[[Run], Run]:
        """Make the function below the subcommand of its name, leading underscore aside."""

        def register(run: Run) -> Run:
            name = run.__name__.strip("_")
            self.subcommands[name] = _Subcommand(summary, example, arguments, run)
            return run

        return register

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one subcommand.

        A subcommand that takes `--config` finds the words `--config.NAME=VALUE` in `args.fields`.

        Returns:
          The exit status: 0, or 1 for a failure told in one line on standard error.

        Raises:
          SystemExit: with status 2, for a command line that is not understood; with 0 after
            `--help`.
        """
        parser = self.parser()
        args, rest = parser.parse_known_args(argv)
        args.fields = [word for word in rest if "config" in args and word.startswith("--config.")]
        unknown = [word for word in rest if word not in args.fields]
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        try:
            return args.run(args) or 0
        except UserError as error:
            print(f"{self.name} {args.command}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{self.name} {args.command}: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # `squeezetime ... | head`: the reader has left, nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def parser(self) -> argparse.ArgumentParser:
        """What understands the command line."""
        parser = argparse.ArgumentParser(prog=self.name, description=self.description)
        subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        for name, subcommand in self.subcommands.items():
            sub = subparsers.add_parser(
                name,
                help=subcommand.summary,
                description=subcommand.summary,
                usage=f"{self.name} {name} {subcommand.usage()}",
                epilog=f"example:\n  {subcommand.example}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            for names, options in subcommand.arguments:
                sub.add_argument(*names, **options)
            sub.set_defaults(run=subcommand.run)
        return parser


class _Subcommand(NamedTuple):
    summary: str
    example: str
    arguments: tuple[Argument, ...]
    run: Run

    def usage(self) -> str:
        """One line: what has to be given, and that there is more, which is listed below it."""
        words = []
        for names, options in self.arguments:
            metavar = options.get("metavar", names[0])
            if not names[0].startswith("-"):
                words.append(f"{metavar}..." if options.get("nargs") == "+" else metavar)
            elif options.get("required"):
                flag = "" if options.get("action") == "store_true" else f" {metavar}"
                words.append(f"{names[0]}{flag}")
        return " ".join([*words, "[options]"])
