"""Damaged videos: each decodes or raises the one error type that names the file.

They are read in other processes, so that a crash, a hang (10 s a file) and the peak of the memory
are noticed. A case that failed is repeated by `fuzz_worker.py FOLDER SEED CASE CASE+1`.
"""

import collections
import subprocess
import sys
from pathlib import Path

import pytest
import videos

PROCESSES = 2
WORKER = Path(__file__).with_name("fuzz_worker.py")
LIMIT_MIB = 1024


def start(folder, seed, first, last):
    return subprocess.Popen(
        [sys.executable, WORKER, str(folder), str(seed), str(first), str(last)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=WORKER.parents[2],
    )  # fmt: skip


def outcomes(process):
    """What came of each case, and the peak of the memory in MiB."""
    out, err = process.communicate(timeout=300)
    lines = [line.partition(" ") for line in out.splitlines()]
    found = {case: outcome for case, _, outcome in lines}
    assert process.returncode == 0, f"died after case {lines[-1]}: {err[-2000:]}"
    return found, int(found.pop("MiB"))


@pytest.mark.parametrize("cases", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_broken_videos_decode_or_raise_the_one_error(tmp_path, cases, fuzz_seed):
    pictures = videos.moving_frames(20)
    for name, encoding in videos.ENCODINGS.items():
        (tmp_path / f"original-{name}").write_bytes(videos.encode(pictures, *encoding))
    share = cases // PROCESSES
    running = [start(tmp_path, fuzz_seed, n * share, (n + 1) * share) for n in range(PROCESSES)]
    found: dict[str, str] = {}
    for process in running:
        more, peak = outcomes(process)
        assert peak < LIMIT_MIB
        found |= more
    counts = collections.Counter(found.values())
    assert set(counts) == {"decoded", "refused"}, {
        case: text for case, text in found.items() if text not in ("decoded", "refused")
    }
    assert counts.total() == cases
    assert min(counts.values()) > cases // 10  # neither all harmless nor all hopeless


def test_gigantic_frames_take_no_memory(tmp_path):
    for name, data in videos.gigantic().items():
        (tmp_path / f"given-{name}").write_bytes(data)
    found, peak = outcomes(start(tmp_path, 0, 0, 0))
    assert len(found) == len(videos.gigantic())
    assert set(found.values()) <= {"decoded", "refused"}
    assert peak < LIMIT_MIB / 2
