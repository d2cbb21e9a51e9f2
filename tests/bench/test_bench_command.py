"""`squeezetime bench`: what is measured, what is left out and why, the table and the picture."""

import importlib.util
import json
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from squeezetime_jax import SqueezeTimeConfig, cli
from squeezetime_jax.bench import command, comparison, networks, plot, worker
from squeezetime_jax.bench.command import Request, plan
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.peers import registry

TINY = "squeezetime:depth=10,width=0.125,num_frames=4"
WORDS = ["bench", "--network", TINY, "--size", "32", "32", "--seconds", "0.05"]
PEER = "tsm_r18:depth=10,width=8,num_frames=2"
MEASURED = {
    "milliseconds": 2.0,
    "spread": (1.0, 3.0),
    "runs": 5,
    "throughput": [(1, 500.0), (2, 600.0)],
    "peak_mib": None,
    "first_seconds": 1.0,
    "device": "cpu",
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The formats whose packages can be found: none, until the test adds some."""
    names: set[str] = set()
    find = importlib.util.find_spec

    def find_spec(module: str) -> Any:
        users = {name for name in FORMATS if module in formats.get(name).packages}
        return (names & users or None) if users else find(module)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return names


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[worker.Job]:
    """The jobs that were measured; nothing is."""
    jobs: list[worker.Job] = []

    def measure(turns: list[worker.Job]) -> list[dict]:
        jobs.extend(turns)
        failed = {"error": "out of memory"}
        return [failed if job.dtype == "bfloat16" else MEASURED for job in turns]

    monkeypatch.setattr(command, "_measure", measure)
    return jobs


def test_counts_are_printed_beside_the_papers(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "PAPER", networks.PAPER[:1])
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "x4d"], "network 'x4d' not found"),
        (["--network", "squeezetime:height=3"], "network 'squeezetime' has no field 'height'"),
        (["--network", "squeezetime:depth=11"], "SqueezeTimeConfig.depth must be one of"),
        (["--network", "squeezetime:depth"], "expected NAME:FIELD=VALUE,..., got 'depth'"),
        (["--runtime", "tensorrt"], "runtime 'tensorrt' not found; choose any of jit, fused, li"),
        (["--dtype", "int4"], "dtype 'int4' not found; choose any of bfloat16, float16, float32"),
        (["--save", "speed.txt"], "speed.txt: the name of a picture must end in"),
        (["--size", "31", "64"], "size 31x64: clips are 31x64 pixels; the network takes at least"),
        (["--counts", "--size", "31", "64"], "size 31x64: clips are 31x64 pixels"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main([*WORDS, *words] if "--network" not in words else ["bench", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_each_runtime_computes_in_the_types_that_it_has(installed: set[str]) -> None:
    installed |= {*FORMATS}
    request = Request(networks=[TINY], dtypes=("float32", "bfloat16", "int8"), size=(32, 32))
    jobs, notes = plan(request)
    assert [(job.runtime, job.dtype) for job in jobs] == [
        ("jit", "float32"),
        ("jit", "bfloat16"),
        ("fused", "float32"),
        ("fused", "bfloat16"),
        ("litert", "float32"),
        ("litert", "int8"),
        ("onnx", "float32"),
        ("onnx", "int8"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
        ("openvino", "int8"),
        ("stablehlo", "float32"),
        ("stablehlo", "bfloat16"),
    ]
    assert notes == []


def test_other_networks_are_measured_where_they_can_be(installed: set[str]) -> None:
    installed |= {*FORMATS}
    jobs, notes = plan(Request(networks=[PEER], size=(32, 32)))
    assert [job.runtime for job in jobs] == ["jit", "litert", "stablehlo"]
    assert notes == [f"{name}: for SqueezeTime only" for name in ("fused", "onnx", "openvino")]


def test_clips_are_of_the_published_size_by_default() -> None:
    jobs, _ = plan(Request(networks=["squeezetime", "tsm_r18"], runtimes=["jit"]))
    assert [(job.height, job.width) for job in jobs] == [(224, 224), (256, 256)]


def test_all_is_the_whole_register() -> None:
    assert networks.names(["all", "tsm_r18", TINY]) == [*registry.names(), TINY]


def test_a_runtime_that_is_not_installed_is_told_with_its_cure(
    installed: set[str], measured: list[worker.Job], capsys: pytest.CaptureFixture
) -> None:
    installed.add("stablehlo")
    assert cli.main([*WORDS, "--runtime", "fused", "onnx"]) == 0
    assert [job.runtime for job in measured] == ["fused"]
    out = capsys.readouterr().out
    assert "fused float32" in out
    assert (
        "not measured: onnx: packages are not installed; run pip install 'onnx>=1.23,<2'"
        " 'onnxruntime>=1.31,<2'" in out
    )
    assert cli.main([*WORDS, "--runtime", "onnx"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert "nothing was measured: onnx: packages are not installed; run pip" in error


def test_a_runtime_that_fails_is_told_and_the_others_go_on(
    measured: list[worker.Job], capsys: pytest.CaptureFixture
) -> None:
    words = [*WORDS, "--runtime", "fused", "--dtype", "bfloat16", "float32"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "fused float32" in out
    assert f"not measured: {TINY}, fused bfloat16: out of memory" in out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"] == [f"{TINY}, fused bfloat16: out of memory"]
    (row,) = found["rows"]
    assert (row["network"], row["size"], row["num_frames"]) == (TINY, [32, 32], 4)
    assert (row["best_batch"], row["clips_per_second"]) == (2, 600.0)


def test_figures_that_are_not_measured() -> None:
    full = SqueezeTimeConfig()
    assert networks.parameters(full) == 29_706_688
    assert networks.multiply_adds(full, 224, 224) == 5_482_892_032
    assert networks.published_top1(full) == 71.6
    assert networks.published_top1(networks.parse("squeezetime:width=0.5")) == 67.8
    assert networks.published_top1(networks.parse("squeezetime:width=0.6")) is None
    tsm = networks.parse("tsm_r18")
    assert networks.multiply_adds(tsm, 256, 256) == 18_951_503_872
    assert networks.multiply_adds(networks.parse("tsm_r18:num_frames=4"), 256, 256) == (
        pytest.approx(18_951_503_872 / 2, rel=1e-4)
    )


@pytest.mark.parametrize(
    ("network", "runtime"),
    [
        (TINY, "jit"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(TINY, "fused"), (PEER, "jit")]),
    ],
)
def test_a_measurement(
    network: str, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(worker, "_MAX_BATCH", {"cpu": 2})
    job = worker.Job(
        network=network, runtime=runtime, dtype="float32", height=32, width=32, seconds=0.01
    )
    worker.prepare(job, str(tmp_path))
    begin = time.perf_counter()
    loaded = worker.Measurement(job, str(tmp_path))
    times = [*loaded.times(job.seconds), *loaded.times(job.seconds)]
    rate = 1 / statistics.median(times)
    result = worker.result_of(
        *(times, loaded.throughput(rate)),
        **{name: getattr(loaded, name) for name in ("peak_mib", "first_seconds", "device")},
    )
    passed = 1e3 * (time.perf_counter() - begin)
    low, high = result.spread
    assert low <= result.milliseconds <= high < passed
    assert 2 <= result.runs == len(times)
    assert [batch for batch, _ in result.throughput] == [1, 2]
    assert result.throughput[0][1] == pytest.approx(1e3 / result.milliseconds)
    assert 0 < 1e3 * result.first_seconds < passed
    assert result.device == "cpu"


@pytest.mark.slow
def test_each_runtime_is_measured_in_its_process(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    picture = tmp_path / "speed.png"
    words = ["bench", "--network", TINY, PEER, *WORDS[3:], "--runtime", "jit", "fused"]
    assert cli.main([*words, "--json", "--save", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["network"], row["runtime"]) for row in found["rows"]] == [
        (TINY, "jit"),
        (TINY, "fused"),
        (PEER, "jit"),
    ]
    for row in found["rows"]:
        assert row["size"] == [32, 32]
        assert row["throughput"][0][0] == 1
        assert row["clips_per_second"] == max(rate for _, rate in row["throughput"])
        assert row["peak_mib"] is None or row["peak_mib"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_not_measured_again(
    measured: list[worker.Job], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results = tmp_path / "speed.json"
    words = [*WORDS, "--results", str(results), "--json", "--runtime"]
    assert cli.main([*words, "fused"]) == 0
    assert cli.main([*words, "jit", "fused"]) == 0
    assert [job.runtime for job in measured] == ["fused", "jit"]
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["runtime"] for row in found["rows"]] == ["jit", "fused"]
    kept = json.loads(results.read_text())
    assert len(kept["rows"]) == 2
    results.write_text(json.dumps({**kept, "machine": "another"}))
    assert cli.main([*words, "jit"]) == 1
    assert "measured on another machine (another)" in capsys.readouterr().err


def test_modules_of_pytorch_are_measured_beside_the_others(
    measured: list[worker.Job], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.touch()
    assert cli.main([*WORDS, "--runtime", "jit", "--torch", str(script)]) == 0
    assert [(job.runtime, job.script) for job in measured] == [("jit", ""), ("torch", str(script))]
    assert cli.main([*WORDS, "--torch", "nothing.py"]) == 1


def test_networks_of_the_paper_are_ranked_against_it() -> None:
    assert len(networks.names(["paper"])) == 20
    assert comparison.spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert comparison.spearman([1, 1, 2], [5, 5, 9]) == pytest.approx(1)
    times = {"squeezetime": (3.0, 10), "x3d_xs": (1.0, 20), "e3d_xs": (2.0, 30)}
    rows = [
        {"network": name, "runtime": "jit", "dtype": "float32"}
        | {"milliseconds": here, "paper_cpu_ms": paper}
        for name, (here, paper) in times.items()
    ]
    (line,) = comparison.ranks(rows)
    assert "SqueezeTime is number 3 of 3, in the paper 1; rank correlation" in line
    assert line.endswith("-0.50 (Spearman)")
    assert not list(comparison.ranks(rows[:2]))


def test_clips_have_the_frames_of_the_papers_input() -> None:
    assert networks.parse("tsn_r34").num_frames == 25
    assert networks.parse("tsn_r34:num_frames=3").num_frames == 3
    assert networks.paper_cpu_ms(networks.parse("tsn_r34")) == 636
    assert networks.paper_cpu_ms(networks.parse("tsn_r34:num_frames=3")) is None


def draw(path: Path, *published: float | None) -> np.ndarray:
    """A drawn benchmark of networks of these accuracies, as pixels (h, w, 4)."""
    rows = [
        {**MEASURED, "network": f"net{k}", "runtime": "jit", "dtype": "float32"}
        | {
            "parameters": (k + 1) * 1_000_000,
            "published_top1": top1,
            "milliseconds": 10.0 * (k + 1),
        }
        for k, top1 in enumerate(published)
    ]
    return matplotlib.image.imread(plot.draw({"machine": "M", "rows": rows}, path))


def test_the_picture_has_a_line_with_points_for_each_network(tmp_path: Path) -> None:
    for published in ((None,), (None, 70.0, 71.0)):
        pixels = draw(tmp_path / "speed.png", *published)
        assert pixels.shape == (round(150 * (1.6 + 0.4 * len(published))), 1500, 4)
        in_axes = pixels[:, :1300]  # without the legend
        is_blue = (in_axes[..., 2] > 0.6) & (in_axes[..., 0] < 0.4)
        lines = np.flatnonzero(is_blue.any(axis=1))
        assert 1 + (np.diff(lines) > 1).sum() == len(published)
