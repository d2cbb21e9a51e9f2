"""The command line as its user meets it: help, mistakes, exit statuses."""

import subprocess
import sys

import pytest

import squeezetime_jax
from squeezetime_jax import cli, command_line

COMMANDS = sorted(command_line.commands())


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What an invalid command line prints: one line, with status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert any(line.startswith(f"  squeezetime {command}") for line in lines)


def test_the_list_of_commands_has_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("    ")] == command_line.commands()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"squeezetime {squeezetime_jax.__version__}\n"


def test_the_package_runs_as_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "squeezetime_jax", "features", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "squeezetime features" in run.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "arguments are required: COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("--nonsense", "arguments are required: COMMAND"),
        ("predict a.mp4", "arguments are required: --checkpoint"),
        ("predict a.mp4 --chekpoint c", "no option --chekpoint; did you mean --checkpoint?"),
        ("predict a.mp4 --check c", "no option --check"),
        ("predict a.mp4 --checkpoint c --frame-interval -4", "of at least 0, got '-4'"),
        ("predict a.mp4 --checkpoint c --top 0", "--top: expected an integer of at least 1, got"),
        ("predict a.mp4 --checkpoint c --top 1.5", "expected an integer of at least 1, got '1.5'"),
        ("prepare l --out o --short-side 0", "--short-side: expected an integer of at least 1"),
        ("detect a.mp4 --checkpoint c --score 1.1", "expected a number from 0 to 1, got '1.1'"),
        ("bench --seconds nan", "--seconds: expected a number of at least 0.01, got 'nan'"),
        ("eval --checkpoint c --list l", "no option --list; did you mean --videos?"),
        ("prepare l --out o --processes 2", "no option --processes; did you mean --workers?"),
        ("eval --checkpoint c --num-processes 2", "did you mean --num-hosts?"),
        ("train --config c --workdir w --config.epochs 3", "expected --config.epochs=VALUE"),
        ("doctor 3", "unexpected argument '3'"),
        ("train --config c --workdir w --config.epochs", "expected --config.epochs=VALUE"),
        ("predict a.mp4 --checkpoint c --config.epochs=3", "no option --config.epochs"),
    ],
)
def test_an_invalid_line_is_status_2_and_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = mistake(line.split(), capsys)
    assert said.startswith("squeezetime")
    assert message in said
    assert said.endswith("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_refused_by_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mistake([command, "--dance"], capsys).startswith(f"squeezetime {command}: no option")


def test_fields_of_the_config_are_handed_on() -> None:
    words = ["train", "--config=demo", "--config.seed=3", "--workdir", "w", "--config.a.b=x=y"]
    args = command_line.parse(words)
    assert (args.command, args.config, args.workdir) == ("train", "demo", "w")
    assert args.fields == ["--config.seed=3", "--config.a.b=x=y"]
