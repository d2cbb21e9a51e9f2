"""Sweeps: locking, killing, resuming. Only the slow test trains; the others have a stand-in."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import launch
import pytest
import sweep
import tables
from paper import MOTION, TABLES
from runs import Run, Settings, runs_of

EXPERIMENTS = Path(launch.__file__).parent
FAKE = [sys.executable, str(Path(__file__).with_name("fake_squeezetime.py"))]
TABLE3 = next(table for table in TABLES if table.numbers == ["3"])
# One video of each kind, which the stand-in does not read.
VIDEOS = [f"--config.data.motion.{name}" for name in ("num_train=1", "num_test=1", "size=32")]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in was called with; it takes the place of `squeezetime` in this process."""
    path = tmp_path / "log.txt"
    path.touch()
    monkeypatch.setenv("FAKE_LOG", str(path))
    monkeypatch.setattr(launch, "PROGRAM", launch.PROGRAM.copy())
    for module in ("launch", "speeds"):
        monkeypatch.setattr(f"{module}.PROGRAM", FAKE)
    return path


def words(workdir: Path, *options: str) -> list[str]:
    return ["run", "3", "--seeds=2", f"--workdir={workdir}", *options, "--", *VIDEOS]


def start(workdir: Path) -> subprocess.Popen:
    """A sweep in a process group of its own, with the stand-in."""
    program = f"import sys, launch; launch.PROGRAM[:] = {FAKE!r}; import tables"
    return subprocess.Popen(
        [sys.executable, "-c", f"{program}; sys.exit(tables.main({words(workdir)!r}))"],
        cwd=EXPERIMENTS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_killed_at_each_stage_ends_with_the_same_table(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken, hold = tmp_path / "whole", tmp_path / "broken", tmp_path / "hold"
    assert tables.main(words(whole)) == 0
    log.write_text("")

    monkeypatch.setenv("FAKE_HOLD", str(hold))
    plain, focused = "branches=tfc,temporal_focus=False", "branches=tfc"
    kills = 0
    for held, number in (
        (f"train {plain}/seed0", signal.SIGKILL),
        (f"eval {plain}/seed0", signal.SIGKILL),
        (f"train {focused}/seed1", signal.SIGTERM),
    ):
        hold.write_text(held)
        hold.with_suffix(".reached").unlink(missing_ok=True)
        process = start(broken)
        wait_for(hold.with_suffix(".reached").exists, process)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
            assert process.wait() == -number
        else:  # the sweep passes it on to the run, and ends with its status
            process.send_signal(number)
            assert process.wait(timeout=60) == 128 + number
        kills += 1
    assert kills == 3
    hold.unlink()
    assert tables.main(words(broken)) == 0

    name = "demo/table3_tfc"
    for suffix in (".md", ".csv"):
        assert (broken / f"{name}{suffix}").read_bytes() == (
            (whole / f"{name}{suffix}").read_bytes()
        )
    for run in runs_of(TABLE3, Settings(seeds=2, workdir=broken)):
        folder = broken / "demo" / run.name
        assert (folder / "steps.txt").read_text().split() == ["0", "1", "2", "3", "4", "5"]
    calls = log.read_text().splitlines()
    # Each run is trained and evaluated once, and again only what a signal interrupted.
    assert {call: calls.count(call) for call in calls} == {
        f"train {plain}/seed0": 3,  # killed, trained, and found complete after the second kill
        f"eval {plain}/seed0": 2,
        f"train {focused}/seed0": 1,
        f"eval {focused}/seed0": 1,
        f"train {plain}/seed1": 1,
        f"eval {plain}/seed1": 1,
        f"train {focused}/seed1": 2,
        f"eval {focused}/seed1": 1,
    }


def test_two_sweeps_on_one_folder_share_the_runs(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = tmp_path / "hold"
    hold.write_text("train branches=tfc,temporal_focus=False/seed0")
    monkeypatch.setenv("FAKE_HOLD", str(hold))
    other = start(tmp_path / "shared")
    try:
        wait_for(hold.with_suffix(".reached").exists, other)
        folder = tmp_path / "shared" / "demo"
        runs = runs_of(TABLE3, Settings(seeds=2, workdir=folder.parent))
        seen = []

        def do(run: Run, folder: Path, place: str) -> str:
            problem = original(run, folder, place)
            seen.append(run.name)
            if len(seen) == 3:  # all but the other sweep's are done
                hold.unlink()
            return problem

        original = sweep._do
        monkeypatch.setattr(sweep, "_do", do)
        assert sweep.do_all(runs, folder, "local") == []
        assert other.wait(timeout=60) == 0
    finally:
        other.kill()
        other.wait()
    assert seen == [run.name for run in (*runs[1:], runs[0])]
    calls = log.read_text().splitlines()
    assert len(calls) == len(set(calls)) == 2 * len(runs)


def test_runs_that_another_sweep_holds_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Run(training=MOTION, seed=seed) for seed in (0, 1))
    third = Run(training=MOTION, seed=2, start=first)
    order = []

    def do(run: Run, folder: Path, place: str) -> str:
        order.append(run.seed)
        holder.close()  # the other sweep ends while the second run is done
        return ""

    monkeypatch.setattr(sweep, "_do", do)
    path = first.result_file(tmp_path)
    path.parent.mkdir(parents=True)
    holder = path.with_suffix(".lock").open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert sweep.do_all([first, third, second], tmp_path, "local") == []
    assert order == [1, 0, 2]


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_a_run_that_fails_is_reported_and_tried_again(
    log: Path,
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAKE_FAIL", stage)
    assert tables.main(words(tmp_path)) == 1
    name = {"train": "training", "eval": "evaluation"}[stage]
    assert f"seed0: {name} ended with status 1\n" in capsys.readouterr().err
    assert (tmp_path / "demo" / "table3_tfc.md").read_text().count("| 2 failed |") == 2
    monkeypatch.delenv("FAKE_FAIL")
    assert tables.main(words(tmp_path)) == 0
    assert "failed" not in (tmp_path / "demo" / "table3_tfc.md").read_text()


def test_a_run_whose_start_failed_is_not_run(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "train")
    first = Run(training=MOTION)
    second = Run(training=MOTION, seed=1, start=first)
    problems = sweep.do_all([second], tmp_path, "local")
    assert problems[1] == (
        "ablation/as_it_is/seed1: not run, because ablation/as_it_is/seed0 is not done"
    )
    assert log.read_text().splitlines() == ["train as_it_is/seed0"]


def test_a_job_that_waits_or_runs_on_slurm_is_not_submitted_again(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With stand-ins for `sbatch`, which keeps the scripts, and `squeue`, which shows a file."""
    tools, jobs, folder = tmp_path / "tools", tmp_path / "jobs", tmp_path / "runs"
    tools.mkdir()
    scripts = {
        "sbatch": f"cat >> {tmp_path}/submitted\n",
        "squeue": f'[[ "$*" == *--name=$(cat {tmp_path}/name)* ]] && cat {jobs}\nexit 0\n',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    submitted = tmp_path / "submitted"
    run = Run(training=MOTION, fields={"model.branches": "ioi", "model.temporal_focus": False})

    def do() -> list[str]:
        return sweep.do_all([run], folder, "slurm --nodes 1 --name mine")

    (tmp_path / "name").write_text("none")
    ended = "submitted, and has not ended; run the same command again when it has"
    assert do() == [f"{run.name}: {ended}"]
    (line,) = [line for line in submitted.read_text().splitlines() if "--job-name" in line]
    name = line.partition("--job-name=")[2]
    assert name.startswith("mine-ablation-branches=ioi-temporal_focus=False-seed0-")
    (tmp_path / "name").write_text(name)
    jobs.write_text("77 RUNNING\n")
    assert do() == [f"{run.name}: {ended}"]
    assert "in the queue as 77 RUNNING" in capfd.readouterr().out
    assert submitted.read_text().count("--job-name") == 1
    jobs.write_text("")  # it was cancelled
    assert do() == [f"{run.name}: {ended}"]
    assert submitted.read_text().count("--job-name") == 2
    (folder / run.name / "curves.png").touch()  # the training has ended, the evaluation failed
    assert do() == [f"{run.name}: {ended}"]
    assert submitted.read_text().count("--job-name") == 3
    run.evaluation_file(folder).write_text('{"top1": 0.5}\n')  # the job has written it
    assert do() == []
    assert submitted.read_text().count("--job-name") == 3
    result = run.result(folder)
    assert result is not None
    assert result["scores"] == {"top1": 0.5}
    # Training and evaluation are one job, and nothing ran here.
    script = submitted.read_text()
    assert script.count(" train --config") == script.count(" eval --config") == 3
    assert log.read_text() == ""


TINY = [
    "--config.data.motion.num_train=64", "--config.data.motion.num_test=16",
    "--config.data.motion.size=32", "--config.data.motion.num_frames=16",
    "--config.data.frame_interval=1", "--config.data.short_side=32", "--config.data.crop_size=32",
    "--config.evaluation.short_side=32", "--config.evaluation.crop_size=32", "--config.epochs=1",
    "--config.model.width=0.125", "--config.model.num_frames=4",
]  # fmt: skip


@pytest.mark.slow
def test_a_sweep_trains_and_evaluates_networks(tmp_path: Path) -> None:
    command = [sys.executable, str(EXPERIMENTS / "tables.py"), "run", "3", "--seeds=1"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}", "--", *TINY], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for run in runs_of(TABLE3, Settings(workdir=tmp_path)):
        result = run.result(tmp_path / "demo")
        assert result is not None
        assert result["scores"]["top1"] * 16 == pytest.approx(round(result["scores"]["top1"] * 16))
    assert "missing" not in (tmp_path / "demo" / "table3_tfc.md").read_text()
