"""The command line as its user meets it: help, mistakes, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

import squeezetime_jax
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


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_a_module_too(command: str) -> None:
    source = (Path(squeezetime_jax.__file__).parent / f"{command}.py").read_text()
    assert f'main(["{command}", *sys.argv[1:]])' in source


def test_a_module_takes_the_commands_arguments() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "squeezetime_jax.features", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "squeezetime features" in run.stdout


def test_the_predict_module_does_not_hide_the_function() -> None:
    code = (
        "import squeezetime_jax as st, squeezetime_jax.predict;"
        "assert st.predict.__module__ == 'squeezetime_jax.evaluation.predict', st.predict"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
