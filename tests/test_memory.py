"""Tests of `squeezetime_jax.memory`."""

import sys
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.memory import give_back_memory


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_goes_back():
    pieces = [np.ones(16 * 1024, np.float32) for _ in range(2048)]  # 64 KiB each: from the heap
    pin = np.ones(1024, np.float32)  # above them, so that they are kept when freed
    full = resident_mib()
    del pieces
    give_back_memory()
    assert full - resident_mib() > 100
    assert pin.sum() == 1024
