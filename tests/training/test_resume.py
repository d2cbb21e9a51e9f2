"""Runs that are killed, asked to stop, or run out of disk; each in processes of its own."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import finish, free_port, start

from squeezetime_jax.training.report import read_metrics

KILLS = int(os.environ.get("SQUEEZETIME_KILLS", "3"))
STEPS = 30  # six epochs of five
PAUSE = "0.005"  # seconds in reading each of a step's 32 clips, for a run to take some time


def _arguments(workdir: Path) -> list[str]:
    return [
        "train",
        str(workdir),
        "epochs=6",
        "optimizer__ema=0.9",
        "evaluation__every_epochs=2.0",
        "run__save_epochs=0.4",
        "run__log_steps=3",
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    status, out, err = finish(start(*_arguments(workdir)))
    assert status == 0, out + err
    return workdir


def _arrays(workdir: Path) -> dict[str, bytes]:
    """Every array of the last checkpoint, byte for byte."""
    found = {}
    for item in ("params", "batch_stats", "training"):
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(workdir / "checkpoints" / str(STEPS) / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


def _assert_same(workdir: Path, whole: Path) -> None:
    mine, other = _arrays(workdir), _arrays(whole)
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name]] == []
    assert read_metrics(workdir) == read_metrics(whole)


def _wait_for(process: subprocess.Popen, pattern: str) -> bool:
    """Read lines until one matches; False where the process ended before."""
    assert process.stdout
    return any(re.search(pattern, line) for line in process.stdout)


def _is_saving(workdir: Path) -> bool:
    return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_the_same_to_the_bit(
    tmp_path: Path, whole: Path
) -> None:
    workdir = tmp_path / "run"
    moments = random.Random(0)
    kills = while_saving = 0
    for number in range(KILLS):
        process = start(*_arguments(workdir), TINY_PAUSE=PAUSE)
        assert _wait_for(process, r"^step \d+/30")
        if number % 3 == 0:  # as soon as a checkpoint is being written
            while process.poll() is None and not _is_saving(workdir):
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0, 0.5))
        while_saving += _is_saving(workdir)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    status, out, err = finish(start(*_arguments(workdir)))
    assert status == 0, out + err
    assert re.search(r"continuing from step \d+ of 30", out)
    _assert_same(workdir, whole)
    assert (kills, while_saving > 0) == (KILLS, True)  # else nothing was tested


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_loses_no_step(tmp_path: Path, whole: Path) -> None:
    workdir = tmp_path / "run"
    process = start(*_arguments(workdir), TINY_PAUSE=PAUSE)
    assert _wait_for(process, r"^step 9/30")
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 143, out + err
    stopped = re.search(r"stopped by SIGTERM; step (\d+) of 30 is saved", out)
    assert stopped, out
    assert (workdir / "checkpoints" / stopped[1] / "params").is_dir()
    status, out, err = finish(start(*_arguments(workdir)))
    assert status == 0, out + err
    assert f"continuing from step {stopped[1]} of 30" in out
    _assert_same(workdir, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 2.4 megabytes: room for a checkpoint or two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2400k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line_and_the_older_step_is_intact(
    small_disk: Path, whole: Path
) -> None:
    workdir = small_disk / "run"
    status, _, err = finish(start(*_arguments(workdir)))
    assert status == 1, err
    lines = err.splitlines()
    assert len(lines) == 1
    assert re.search(
        r"checkpoints: the disk is full \(.* MB needed, .* MB free\); step \d+ is intact; free",
        lines[0],
    )
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert f"step {newest} is intact" in lines[0]
    # With free space again, the same command continues, with the same result.
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    status, out, err = finish(start(*_arguments(workdir)))
    assert status == 0, err
    assert f"continuing from step {newest} of 30" in out
    _assert_same(workdir, whole)


@pytest.mark.slow
def test_two_processes_save_together_and_stop_together(tmp_path: Path, whole: Path) -> None:
    workdir = tmp_path / "run"

    def both() -> list[subprocess.Popen]:
        common = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
            "JAX_NUM_PROCESSES": "2",
        }
        arguments = _arguments(workdir)
        common["TINY_PAUSE"] = PAUSE
        return [start(*arguments, **common, JAX_PROCESS_ID=str(i)) for i in (0, 1)]

    main, other = both()
    assert _wait_for(main, r"^step 9/30")
    other.send_signal(signal.SIGTERM)
    ends = [finish(process) for process in (main, other)]
    assert [status for status, *_ in ends] == [143, 143], ends
    stopped = [re.search(r"step (\d+) of 30 is saved", out) for _, out, _ in ends]
    assert stopped[0]
    assert stopped[1]
    assert stopped[0][1] == stopped[1][1]
    ends = [finish(process) for process in both()]
    assert [status for status, *_ in ends] == [0, 0], ends
    assert f"continuing from step {stopped[0][1]} of 30" in ends[0][1]
    assert not re.search(r"^(step|continuing) ", ends[1][1], re.MULTILINE)  # one process reports
    for mine, alone in zip(read_metrics(workdir), read_metrics(whole), strict=True):
        assert mine.pop("kind") == alone.pop("kind")
        # Sums in another order move the gradient's norm the most: by 3e-3 of itself in 24 steps.
        norms = (line.pop("grad_norm", 0.0) for line in (mine, alone))
        assert next(norms) == pytest.approx(next(norms), rel=2e-2)
        assert mine == pytest.approx(alone, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_another_config_is_refused_with_the_fields_that_differ(whole: Path) -> None:
    arguments = [*_arguments(whole), "optimizer__momentum=0.8", "run__log_steps=7"]
    status, _, err = finish(start(*arguments))
    assert status == 1
    assert "holds a run with another config: optimizer.momentum: 0.9 -> 0.8; choose" in err


@pytest.mark.slow
def test_a_finished_run_says_that_nothing_is_left(whole: Path) -> None:
    status, out, err = finish(start(*_arguments(whole)))
    assert status == 0, err
    assert "has all its 30 steps already" in out


@pytest.mark.slow
def test_newest_steps_and_the_best_are_kept(whole: Path) -> None:
    scores = {line["step"]: line["top1"] for line in read_metrics(whole) if line["kind"] == "eval"}
    assert sorted(scores) == [10, 20, 30]
    best = max(scores, key=scores.__getitem__)
    kept = {int(path.name) for path in (whole / "checkpoints").iterdir()}
    assert kept == {28, 30, best}
    meta = json.loads((whole / "checkpoints" / "30" / "meta" / "metadata").read_text())
    assert meta["config"]["name"] == "tiny"
