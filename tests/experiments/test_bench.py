import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import bench
import numpy as np
import pytest
from benchmarks import measuring

SCRIPT = bench.__file__


def test_runs_take_turns_and_warm_up_is_left_out() -> None:
    order = []

    def run(name: str) -> measuring.Run:
        return lambda number: (order.append(name), number, 10.0 * number)[1:]

    found = measuring.interleaved({"a": run("a"), "b": run("b")}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert {name: figures.tolist() for name, figures in found.items()} == {
        "a": [[1, 10], [2, 20]],
        "b": [[1, 10], [2, 20]],
    }


def test_medians_and_ratios_of_each_round_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "slow": np.array([[4.0, 1], [2.0, 1], [9.0, 7]]),
        "fast": np.array([[1.0, 2], [1.0, 2], [3.0, 2]]),
    }
    measuring.show(found, {"ms": 1e3, "MiB": 1.0}, "slow")
    head, slow, fast = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["ms", "middle", "half", "MiB", "over", "slow"]
    assert slow == ["slow", "4000", "3000", "-", "6500", "1", "1.00"]
    assert fast == ["fast", "1000", "1000", "-", "2000", "2", "0.33"]
    measuring.show(found, {"ms": 1e3, "MiB": 1.0}, "absent")
    assert "over" not in capsys.readouterr().out


def test_a_command_is_measured_with_its_own_memory() -> None:
    # From a small process, as benchmarks are: the peak of a command includes that of its parent
    # at the time it was started.
    program = (
        "import json, sys; from benchmarks import measuring;"
        "print(json.dumps([measuring.of_command([sys.executable, '-c', code])"
        " for code in sys.argv[1:]]))"
    )
    code = "import numpy; numpy.ones(50_000_000); sum(range(3_000_000))"
    done = subprocess.run(
        [sys.executable, "-c", program, code, "import numpy"],
        cwd=Path(SCRIPT).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (wall, cpu, peak), base = json.loads(done.stdout)
    assert wall > 0
    assert cpu > base[1]
    assert peak - base[2] == pytest.approx(50_000_000 * 8 / 2**20, rel=0.1)  # MiB
    with pytest.raises(SystemExit, match="ended with status 3"):
        measuring.of_command([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("what", bench.WHATS)
def test_every_benchmark_exists(what: str) -> None:
    module, function, _, _ = bench.WHATS[what]
    assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), function))


TINY = ["--batch=2", "--side=32", "--depth=10", "--width=0.25", "--rounds=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["import", "--rounds=1"], ["over import flax.nnx", "import squeezetime_jax"]),
        (["train", *TINY], ["ms a clip", "ours"]),
        (["augment", *TINY], ["normalise", "step, augment", "share of a step:"]),
        (
            ["export-errors", "--widths=0.25", "--frames=4", "--side=32", "--formats=stablehlo"],
            ["width 0.25  4 frames, 32 x 32  stablehlo "],
        ),
    ],
    ids=lambda words: words[0],
)
def test_a_benchmark_runs(words: list[str], shown: list[str]) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(text in done.stdout for text in shown), done.stdout


@pytest.mark.slow
def test_a_video_is_benchmarked(tmp_path: Path) -> None:
    from benchmarks.commands import ten_seconds

    words = ["data", ten_seconds(tmp_path / "a.mp4"), "--rounds=1"]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^((?:train|test).*?)  ", done.stdout, re.MULTILINE)
    assert rows == ["train", "train, shards (video)", "train, shards (jpeg)", "test"]


def test_the_table_of_compiled_steps_says_what_was_not_run() -> None:
    from benchmarks import topologies

    step = {
        **{"batch_size": 512, "fits": True, "memory": 4 << 30, "flops": 1.97e12},
        **{"bytes_accessed": 61e9, "collective_bytes": 60_000_000},
        "estimate": {"compute": 0.01, "memory": 0.074},
    }
    answer = {"device_memory": 16 << 30, "programs": [step]}
    too_large = {**answer, "programs": [{**step, "fits": False, "memory": 20 << 30}]}
    lines = topologies.table({("k400", "v5e-8"): answer, ("ava21", "v6e-8"): too_large}).split("\n")
    assert lines[2] == "| k400 | v5e-8 | 512 | 4.0 of 16 | 1.97 | 61 | 60 | 74 | memory |"
    assert lines[3].startswith("| ava21 | v6e-8 | 512 | 20.0 of 16: does not fit | ")
    assert {line.count("|") for line in lines[:4]} == {10}
    assert lines[-1].startswith("Not run: k400 on v5e-256, k400 on 2 x v5e-256, ")
    assert "k400 on v5e-8" not in lines[-1]
