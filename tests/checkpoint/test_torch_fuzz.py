"""Hostile and damaged files: no code runs, one line each, bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("share", [0.02, pytest.param(1.0, marks=pytest.mark.slow)])
def test_hostile_files_are_read_as_data_or_refused(share: float, fuzz_seed: int) -> None:
    program = Path(__file__).with_name("hostile_files.py")
    done = subprocess.run(
        [sys.executable, str(program), str(fuzz_seed), str(share)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)

    assert result["files"] >= 500 + 2000 * share
    assert result["seen"] == [], "imports, calls or files opened while reading"
    assert result["left"] == ["x.pth"], "a command ran"
    assert result["megabytes"] < 128

    outcomes = result["outcomes"]
    assert outcomes["good"] == {"read": 1}
    # The calls stay in the file as inert values; what lies beside them is read.
    assert outcomes["call"]["read"] > 200
    # Some damage misses what is read, most is noticed.
    assert outcomes["mutated"].get("read", 0) < outcomes["mutated"]["refused"]
