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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Compiled programs, shared by all runs."""
    return str(tmp_path_factory.mktemp("cache"))


def _arguments(workdir: Path, cache: str) -> list[str]:
    return [
        "train",
        str(workdir),
        "epochs=6",
        "optimizer__ema=0.9",
        "evaluation__every_epochs=2.0",
        "run__save_epochs=0.4",
        "run__log_steps=3",
        f"run__compilation_cache={cache!r}",
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: str) -> Path:
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    status, out, err = finish(start(*_arguments(workdir, cache)))
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
    tmp_path: Path, cache: str, whole: Path
) -> None:
    workdir = tmp_path / "run"
    moments = random.Random(0)
    done = while_saving = 0
    while done < KILLS:
        process = start(*_arguments(workdir, cache))
        if not _wait_for(process, "starting from|continuing from"):
            break
        if done % 5 == 0:  # as soon as something is being written, to hit that as well
            while process.poll() is None and not _is_saving(workdir):
                time.sleep(0.001)
        else:
            time.sleep(moments.uniform(0, 4))
        while_saving += _is_saving(workdir)
        process.kill()
        process.communicate()
        done += 1
    status, out, err = finish(start(*_arguments(workdir, cache)))
    assert status == 0, out + err
    _assert_same(workdir, whole)
    print(f"{done} kills, {while_saving} of them while saving")


@pytest.mark.slow
def test_a_run_asked_to_stop_loses_no_step(tmp_path: Path, cache: str, whole: Path) -> None:
    workdir = tmp_path / "run"
    process = start(*_arguments(workdir, cache))
    assert _wait_for(process, r"^step 9/30")
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 143, out + err
    told = re.search(r"stopped by SIGTERM; step (\d+) of 30 is saved", out)
    assert told, out
    assert (workdir / "checkpoints" / told[1] / "params").is_dir()
    status, out, err = finish(start(*_arguments(workdir, cache)))
    assert status == 0, out + err
    assert f"continuing from step {told[1]} of 30" in out
    _assert_same(workdir, whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of three megabytes: room for a checkpoint, not for many."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_and_the_older_step_is_intact(
    small_disk: Path, cache: str, whole: Path
) -> None:
    workdir = small_disk / "run"
    status, _, err = finish(start(*_arguments(workdir, cache)))
    assert status == 1, err
    lines = err.splitlines()
    assert len(lines) == 1
    assert re.search(
        r"checkpoints: the disk is full \(.* MB needed, .* MB free\); step \d+ is intact; free",
        lines[0],
    )
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert f"step {newest} is intact" in lines[0]
    # With room again, the same command goes on, to the same end.
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    status, out, err = finish(start(*_arguments(workdir, cache)))
    assert status == 0, err
    assert f"continuing from step {newest} of 30" in out
    _assert_same(workdir, whole)


@pytest.mark.slow
def test_two_processes_save_together_and_stop_together(
    tmp_path: Path, cache: str, whole: Path
) -> None:
    workdir = tmp_path / "run"

    def both() -> list[subprocess.Popen]:
        common = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
            "JAX_NUM_PROCESSES": "2",
        }
        arguments = _arguments(workdir, cache)
        return [start(*arguments, **common, JAX_PROCESS_ID=str(i)) for i in (0, 1)]

    main, other = both()
    assert _wait_for(main, r"^step 9/30")
    other.send_signal(signal.SIGTERM)
    ends = [finish(process) for process in (main, other)]
    assert [status for status, *_ in ends] == [143, 143], ends
    told = [re.search(r"step (\d+) of 30 is saved", out) for _, out, _ in ends]
    assert told[0]
    assert told[1]
    assert told[0][1] == told[1][1]
    ends = [finish(process) for process in both()]
    assert [status for status, *_ in ends] == [0, 0], ends
    assert f"continuing from step {told[0][1]} of 30" in ends[0][1]
    assert not re.search(r"^(step|going on) ", ends[1][1], re.MULTILINE)  # one process reports
    for mine, alone in zip(read_metrics(workdir), read_metrics(whole), strict=True):
        assert mine.pop("kind") == alone.pop("kind")
        # Sums in another order move the gradient's norm the most: by 3e-3 of itself in 24 steps.
        norms = (line.pop("grad_norm", 0.0) for line in (mine, alone))
        assert next(norms) == pytest.approx(next(norms), rel=2e-2)
        assert mine == pytest.approx(alone, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_another_config_is_refused_with_the_fields_that_differ(whole: Path, cache: str) -> None:
    arguments = [*_arguments(whole, cache), "optimizer__momentum=0.8", "run__log_steps=7"]
    status, _, err = finish(start(*arguments))
    assert status == 1
    assert "holds a run with another config: optimizer.momentum: 0.9 -> 0.8; choose" in err


@pytest.mark.slow
def test_a_finished_run_says_that_nothing_is_left(whole: Path, cache: str) -> None:
    status, out, err = finish(start(*_arguments(whole, cache)))
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
    assert meta["config"]["depth"] == 10
