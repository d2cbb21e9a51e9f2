import pytest

from squeezetime_jax import cli


def test_counts_are_printed_beside_the_papers(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--counts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "both branches" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == [
        "28,887,088",
        "221,872",
        "28.7 M",
        "5,482,072,832",
        "5.5 G",
    ]


def test_a_size_that_the_network_does_not_take_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "--counts", "--size", "31", "64"]) == 1
    assert capsys.readouterr().err == "squeezetime bench: --size 31 64: at least 32 pixels a side\n"
