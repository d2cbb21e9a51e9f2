"""The machinery of the `squeezetime` command: subcommands on argparse, and errors in one line."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import squeezetime_jax
from squeezetime_jax.errors import UserError
from squeezetime_jax.machine import quiet_libtpu

Argument = tuple[str, dict[str, Any]]
Run = Callable[[argparse.Namespace], int | None]
_T = TypeVar("_T")

_RENAMED = {
    "--list": "--videos",
    "--test": "--videos",
    "--classes": "--labels",
    "--processes": "--workers",
    "--num-processes": "--num-hosts",
    "--process-id": "--host-id",
    "--variant": "--network",
}
"""Former spelling of an option -> present spelling, for the message about a former one."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which suggests the nearest option for an unknown one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        for word in args if self.epilog else ():  # a subcommand's words
            option = word.split("=")[0]
            is_field = option.startswith("--config.") and "--config" in known
            if option.startswith("--") and option not in known and not is_field:
                renamed = [new for new in [_RENAMED.get(option)] if new in known]
                near = renamed or difflib.get_close_matches(option, known, n=1)
                self.error(f"no option {option}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


class _CommandList(argparse.HelpFormatter):
    """Names and summaries of the subcommands in two columns; argparse forgets the names' indent."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action.choices, dict):
            self._action_max_length = max(map(len, action.choices)) + 2 * self._indent_increment


_parser = _Parser(
    "squeezetime",
    description="SqueezeTime in JAX: video recognition for phones.",
    formatter_class=_CommandList,
)
_parser.add_argument(
    "--version", action="version", version=f"squeezetime {squeezetime_jax.__version__}"
)
_commands = _parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def arg(spec: str, help: str, **options: Any) -> Argument:
    """An argument of a subcommand.

    Args:
      spec: name and metavar, such as "--out FILE" or "videos VIDEO"; "--json" alone is a flag.
      help: what it is; a default is added.
      **options: of `argparse.ArgumentParser.add_argument`.
    """
    name, _, metavar = spec.partition(" ")
    if metavar:
        options["metavar"] = metavar
    elif name.startswith("--") and not options:
        options["action"] = "store_true"
    if options.get("default") and help is not argparse.SUPPRESS:
        help = f"{help}; default {options['default']}"
    return name, {"help": help, **options}


def subcommand(summary: str, example: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Register the function `_SOME_NAME` below as the subcommand SOME-NAME."""

    def register(run: Run) -> Run:
        parser = _commands.add_parser(
            run.__name__.strip("_").replace("_", "-"),
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        usage = [parser.prog]
        for name, options in arguments:
            action = parser.add_argument(name, **options)
            if action.required:
                usage += [*action.option_strings, str(action.metavar or action.dest)]
                usage[-1] += "..." if action.nargs == "+" else ""
        parser.usage = " ".join([*usage, "[options]"])
        parser.set_defaults(run=run)
        return run

    return register


def commands() -> list[str]:
    """Names of the subcommands."""
    return list(_commands.choices)


def number(kind: type, low: int | float, high: int | float = float("inf")) -> Callable[[str], Any]:
    """The `type` of an argument that is an int or a float from `low` to `high`, both included."""
    noun = "an integer" if kind is int else "a number"
    limits = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"

    def convert(word: str) -> Any:
        try:
            value = kind(word)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {noun} {limits}, got {word!r}")
        return value

    return convert


def build(kind: type[_T], args: argparse.Namespace, **others: Any) -> _T:
    """A dataclass whose fields are the arguments of the same names, except for `others`."""
    names: set[str] = kind.__dataclass_fields__.keys() - others  # type: ignore[attr-defined]
    return kind(**{name: getattr(args, name) for name in names}, **others)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a subcommand, with its name as `command` and its function as `run`.

    Where the subcommand takes `--config`, `fields` lists the words `--config.NAME=VALUE`.

    Raises:
      SystemExit: as `main`.
    """
    args, fields = _parser.parse_known_args(argv)
    for word in fields:
        if not word.startswith("--config."):
            _parser.error(f"unexpected argument {word!r}")
        if "=" not in word:
            _parser.error(f"{word}: expected {word}=VALUE")
    args.fields = fields
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
      argv: the words after `squeezetime`; None: those of this process.

    Returns:
      The exit status: 0, or 1 after an error, which is one line on standard error.

    Raises:
      SystemExit: status 2 after an invalid command line, 0 after `--help` and `--version`.
    """
    args = parse(sys.argv[1:] if argv is None else argv)
    quiet_libtpu()
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"squeezetime {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"squeezetime {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `squeezetime ... | head`: the reader is gone, nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
