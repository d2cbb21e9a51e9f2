"""The command line as its user meets it: help, mistakes, exit codes."""

import subprocess
import sys

import pytest

from squeezetime_jax import cli

COMMANDS = sorted(cli.squeezetime.subcommands)


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


def test_the_package_runs_as_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "squeezetime_jax", "features", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "squeezetime features" in run.stdout


@pytest.mark.parametrize("words", [["--nonsense"], ["predict", "a.mp4"], [], ["dance"]])
def test_a_line_that_is_not_understood_is_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("squeezetime")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_status_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--dance"])
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err.splitlines()[-1]
