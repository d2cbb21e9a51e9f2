import os
import sys
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.machine import available_cpus, give_back_memory, quiet_libtpu


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 12),
        ({"cpu.max": "max 100000"}, 12),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 12),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 12),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_processors_are_those_that_may_be_used(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    assert available_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("maker", "installed", "always", "expected"),
    [
        ("0x8086", True, False, "localhost"),
        ("0x1ae0", True, False, None),  # a TPU may be there
        ("0x1ae0", True, True, "localhost"),
        ("0x8086", False, True, None),
    ],
)
def test_libtpu_is_answered_where_there_is_no_tpu(
    maker, installed, always, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(os, "environ", {"TPU_SKIP_MDS_QUERY": "0"})
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:00:01.0" / "vendor").write_text(f"{maker}\n")
    quiet_libtpu(always=always, devices=tmp_path)
    assert os.environ.get("TPU_WORKER_HOSTNAMES") == expected
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "0"  # the user's own setting stays


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_goes_back():
    pieces = [np.ones(16 * 1024, np.float32) for _ in range(2048)]  # 64 KiB each: from the heap
    pin = np.ones(1024, np.float32)  # above them, so that they are kept when freed
    full = resident_mib()
    del pieces
    give_back_memory()
    assert full - resident_mib() > 100
    assert pin.sum() == 1024
