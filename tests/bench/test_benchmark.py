import json
from pathlib import Path

import pytest

from squeezetime_jax import SqueezeTimeConfig, cli
from squeezetime_jax.bench import command
from squeezetime_jax.bench.command import Request, parse_variant
from squeezetime_jax.model.counts import count


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


TINY = "depth=10,width=0.125,num_frames=4"
WORDS = ["bench", "--variant", TINY, "--size", "32", "32", "--seconds", "0.05"]


@pytest.mark.slow
def test_each_runtime_is_measured_in_its_process(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    picture = tmp_path / "speed.png"
    words = [*WORDS, "--runtime", "jit", "fused", "--json", "--save", str(picture)]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [32, 32]
    assert found["machine"]
    assert [(row["runtime"], row["dtype"]) for row in found["rows"]] == [
        ("jit", "float32"),
        ("fused", "float32"),
    ]
    for row in found["rows"]:
        low, high = row["spread"]
        assert 0 < low <= row["milliseconds"] <= high
        assert row["runs"] >= 5
        assert row["throughput"][0][0] == 1
        assert row["clips_per_second"] == max(rate for _, rate in row["throughput"])
        assert row["peak_mib"] is None or row["peak_mib"] > 0
        assert (
            row["parameters"]
            == count(SqueezeTimeConfig(**parse_variant(TINY))).backbone
            + (SqueezeTimeConfig(**parse_variant(TINY)).feature_channels + 1) * 400
        )
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "height=3"], "variant 'height=3': 'height'; wanted fields of depth, width"),
        (["--variant", "depth=11"], "SqueezeTimeConfig.depth must be one of"),
        (["--runtime", "tensorrt"], "runtime 'tensorrt': wanted one of jit, fused, onnx"),
        (["--dtype", "int4"], "dtype 'int4': wanted one of bfloat16, float32, int8"),
        (["--save", "speed.txt"], "speed.txt: is no picture's name"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["bench", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_only_what_a_runtime_computes_in_is_asked_of_it() -> None:
    request = Request(variants=("",), dtypes=("float32", "bfloat16", "int8"))
    found = [(runtime, dtype) for _, _, runtime, dtype in request.jobs()]
    assert ("openvino", "int8") in found
    assert ("jit", "int8") not in found
    assert ("litert", "bfloat16") not in found
    assert len(found) == len(set(found)) == 11


def test_a_runtime_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    good = {"milliseconds": 2.0, "spread": (1.0, 3.0), "runs": 5, "throughput": [(1, 500.0)]}
    good |= {"peak_mib": None, "first_seconds": 1.0, "device": "cpu"}

    def measure(job: dict, file: Path) -> dict:
        return {"error": "needs the package x"} if job["runtime"] == "onnx" else good

    monkeypatch.setattr(command, "_measure", measure)
    assert cli.main([*WORDS, "--runtime", "onnx", "fused"]) == 0
    out, error = capsys.readouterr()
    assert "fused float32" in out
    assert f"{TINY}, onnx float32: needs the package x" in error
    assert cli.main([*WORDS, "--runtime", "onnx"]) == 1
