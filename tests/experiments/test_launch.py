import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import launch
import pytest

from squeezetime_jax.errors import UserError

TRAIN = ["--config", "my configs/k400.py:paper", "--workdir=runs/a b", '--config.init=it\'s "$x"']
PREEMPTED = 143
EXPERIMENTS = Path(launch.__file__).parent


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    def dry_run(where: str, words: list[str] = TRAIN) -> str:
        assert launch.main([*shlex.split(where), "--dry-run", "--", *words]) == 0
        return capsys.readouterr().out

    return dry_run


def test_local_is_one_command(printed) -> None:
    (line,) = printed("local").splitlines()
    assert shlex.split(line) == [sys.executable, "-m", "squeezetime_jax", "train", *TRAIN]


def test_a_subcommand_may_follow_the_dashes(printed) -> None:
    words = ["eval", "--config=k400", "--checkpoint=runs/a b"]
    assert shlex.split(printed("local", words))[3:] == words
    assert shlex.split(printed("local", ["train", *TRAIN])) == shlex.split(printed("local"))
    script = printed("slurm --nodes 2", words)
    assert "#SBATCH --job-name=eval\n" in script
    assert " python -m squeezetime_jax eval --config=k400 '--checkpoint=runs/a b' " in script
    single = printed("slurm --gpus-per-node 1", ["export", "k400.pth", "--format=onnx"])
    assert " python -m squeezetime_jax export k400.pth --format=onnx " in single


def test_processes_share_a_coordinator_and_the_gpus(printed) -> None:
    lines = printed("processes --num-processes 3 --gpus-per-process 2 --port 4321")
    commands = [shlex.split(line) for line in lines.splitlines()]
    assert [words[0] for words in commands] == [
        f"CUDA_VISIBLE_DEVICES={gpus}" for gpus in ("0,1", "2,3", "4,5")
    ]
    for number, words in enumerate(commands):
        assert words[5:-3] == TRAIN
        assert words[-3:] == [
            "--coordinator=127.0.0.1:4321",
            "--num-hosts=3",
            f"--host-id={number}",
        ]


def test_slurm_starts_a_process_for_each_gpu(printed) -> None:
    where = "slurm --nodes 2 --gpus-per-node 4 --cpus-per-task 6 --time 10:00:00 --partition gpu"
    lines = printed(f"{where} --setup '. venv/bin/activate'").splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert options == [
        "job-name='a b'",
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "cpus-per-task=6",
        "time=10:00:00",
        "partition=gpu",
        "signal=TERM@120",
        "open-mode=append",
        "output='a b-%j.log'",
        "requeue",
    ]
    assert lines.index(". venv/bin/activate") < next(
        place for place, line in enumerate(lines) if line.startswith("srun ")
    )


def test_slurm_without_gpus_starts_a_process_for_each_node(printed) -> None:
    script = printed("slurm --nodes 3 --gpus-per-node 0")
    assert "--ntasks-per-node=1\n" in script
    assert "gpus-per-node" not in script


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (1, False), (PREEMPTED, True)])
def test_the_slurm_script_runs_and_resumes_after_a_warning(
    printed, tmp_path: Path, status: int, is_requeued: bool
) -> None:
    """With stand-ins for SLURM's own programs, which record their arguments."""
    for name, code in (("srun", status), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/{name}.arguments\nexit {code}\n'
        )
        program.chmod(0o755)
    script = printed("slurm --cpus-per-task 4 --setup 'export SEEN=1'")
    done = subprocess.run(
        ["bash"],
        input=script,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "77"},
        check=False,
    )
    assert done.returncode == status
    assert (tmp_path / "srun.arguments").read_text().splitlines() == [
        "--wait=60",
        "--cpus-per-task=4",
        *("python", "-m", "squeezetime_jax", "train"),
        *TRAIN,
    ]
    assert (tmp_path / "scontrol.arguments").exists() == is_requeued
    if is_requeued:
        assert (tmp_path / "scontrol.arguments").read_text().split() == ["requeue", "77"]


def test_a_job_of_two_commands_stops_after_the_first_that_fails(tmp_path: Path) -> None:
    """With a stand-in for `srun`, which fails where there is a file of that name."""
    program = tmp_path / "srun"
    program.write_text(
        f"#!/bin/bash\n[[ $* == *' eval '* ]] && echo scores && exit 0\n[ ! -e {tmp_path}/fail ]\n"
    )
    program.chmod(0o755)
    args = launch.parser().parse_args(["slurm"])
    words = ["eval", "--config=k400", "--checkpoint=runs/a"]
    output = tmp_path / "it's.json"
    script = launch.slurm_script(args, [["train", *TRAIN], words], output)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert subprocess.run(["bash"], input=script, text=True, env=environment).returncode == 0
    assert output.read_text() == "scores\n"
    (tmp_path / "fail").touch()
    assert subprocess.run(["bash"], input=script, text=True, env=environment).returncode == 1
    assert output.read_text() == "scores\n"


def test_a_setup_line_that_fails_ends_the_slurm_script(printed) -> None:
    script = printed("slurm --setup 'cd /no/such/folder'")
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert "srun" not in done.stderr


def test_a_tpu_slice_gets_the_command_on_every_host(printed) -> None:
    where = "tpu pod --zone us-central2-b --project mine --setup 'cd st' --setup '. v/bin/activate'"
    words = shlex.split(printed(where))
    assert words[:-1] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"),
        *("--zone=us-central2-b", "--project=mine", "--quiet"),
        *("--ssh-flag=-oConnectTimeout=30", "--ssh-flag=-oServerAliveInterval=30"),
        *("--ssh-flag=-oServerAliveCountMax=4", "--worker=all"),
    ]
    remote = words[-1].removeprefix("--command=")
    assert remote.startswith("cd st && . v/bin/activate && flock ")
    command, _, _ = remote.partition(" || ")
    expected = ["python3", "-m", "squeezetime_jax", "train", *TRAIN, "--distributed"]
    assert shlex.split(command)[-len(expected) :] == expected


def test_a_host_of_a_tpu_slice_runs_one_command_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is run over ssh, on this machine, with a stand-in for Python."""
    monkeypatch.setattr(launch, "_LOCK", str(tmp_path / "lock"))
    program = tmp_path / "python3"
    program.write_text(f"#!/bin/bash\ntouch {tmp_path}/ready\nread line\nexit 3\n")
    program.chmod(0o755)
    args = launch.parser().parse_args(["tpu", "pod", "--zone", "z"])
    remote = launch.tpu_command(args, ["train", *TRAIN])[-1].removeprefix("--command=")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    first = subprocess.Popen(["bash", "-c", remote], env=environment, stdin=subprocess.PIPE)
    try:
        while not (tmp_path / "ready").exists():
            assert first.poll() is None
        second = subprocess.run(
            ["bash", "-c", remote], env=environment, capture_output=True, text=True, timeout=20
        )
        assert second.returncode == 75
        assert second.stderr == "pod: an earlier command still runs on this host\n"
        first.communicate(b"end\n", timeout=20)
        assert first.returncode == 3
    finally:
        first.kill()


def test_a_gke_workload_is_created_by_xpk(printed) -> None:
    where = "xpk mine --cluster c --tpu-type v5litepod-16 --num-slices 2 --docker-image image:1"
    words = shlex.split(printed(where))
    assert words[:-1] == [
        *("xpk", "workload", "create", "--workload=mine", "--cluster=c"),
        *("--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=image:1"),
        *("--max-restarts=10", "--restart-on-exit-codes=1"),
        "--termination-grace-period-seconds=120",
    ]
    inside = shlex.split(words[-1].removeprefix("--command="))
    assert inside == ["python", "-m", "squeezetime_jax", "train", *TRAIN, "--distributed"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["local"], "--config is missing"),
        (["local", "--", "--config", "k400"], "--workdir is missing"),
        (["local", "--", "train", "--workdir=x"], "--config is missing"),
        (["local", "--", "--config"], "expected one argument"),
        (["processes", "--", "predict", "a.mp4"], "predict: runs in one process, and `processes`"),
        (["slurm", "--", "export", "k.pth"], "export: runs in one process, and `slurm`"),
        (["slurm", "--", *TRAIN], "sbatch: not found; run this where it is installed"),
        (["tpu", "pod", "--zone", "z", "--", *TRAIN], "gcloud: not found"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert launch.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("launch.py: ")
    assert message in line


def test_a_number_out_of_range_says_what_is_expected() -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="expected a whole number of at least 1, got '0'"
    ):
        launch.at_least(1)("0")


def test_jobs_of_a_name_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(
        '#!/bin/bash\n[[ "$*" == "--me --noheader --name=mine --format=%i %T" ]] || exit 2\n'
        f"cat {tmp_path}/jobs\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def queued(name: str) -> str:
        return launch.queued_jobs(launch.parser().parse_args(["slurm", "--name", name]))

    (tmp_path / "jobs").write_text("")
    assert queued("mine") == ""
    (tmp_path / "jobs").write_text("77 PENDING\n78 RUNNING\n")
    assert queued("mine") == "77 PENDING, 78 RUNNING"
    with pytest.raises(UserError, match="squeue: failed with status 2"):
        queued("another")


def test_workloads_of_a_name_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xpk = tmp_path / "xpk"
    xpk.write_text(
        '#!/bin/bash\n[[ "$*" == "workload list --cluster=c --zone=z"* ]] || exit 2\n'
        'echo "[XPK] Listing jobs with filter-by-job=mine"\n'
        'echo "Jobset Name   Created Time   Status"\n'
        '[[ "$*" == *=RUNNING* ]] && echo "mine   2026-01-01T00:00:00Z   Admitted"\n'
        'echo "mine-2   2026-01-01T00:00:00Z   Admitted"\n'
    )
    xpk.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["--cluster", "c", "--zone", "z", "--tpu-type", "t", "--docker-image", "i"]
    args = launch.parser().parse_args(["xpk", "mine", *words])
    assert launch.queued_jobs(args) == "mine RUNNING"
    args.name = "another"
    assert launch.queued_jobs(args) == ""


def test_a_failure_stops_the_others() -> None:
    codes = ("raise SystemExit(3)", "import time; time.sleep(60)")
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    try:
        assert launch._wait_for_all(processes, patience=0.1) == 3
        assert processes[1].poll() is None  # `run_together` then kills it
    finally:
        processes[1].kill()
        processes[1].wait()


def test_a_process_that_was_preempted_gives_the_others_time_to_end() -> None:
    codes = (f"raise SystemExit({PREEMPTED})", "import time; time.sleep(0.5)")
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert launch._wait_for_all(processes, patience=0.0) == PREEMPTED
    assert processes[1].returncode == 0


def test_a_signal_reaches_the_command(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(30)"
    )
    program = f"import sys, launch; launch.PROGRAM[:] = [sys.executable, '-c', {code!r}]"
    words = [*("local", "--"), *TRAIN]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}; sys.exit(launch.main({words!r}))"], cwd=EXPERIMENTS
    )
    while not ready.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=20) == PREEMPTED
    finally:
        process.kill()


@pytest.mark.slow
def test_two_processes_train_as_one_process_of_two_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    fields = (
        *("model.width=0.125", "model.num_frames=4", "model.branches=tfc"),
        *("data.motion.num_train=32", "data.motion.num_test=8", "data.motion.num_frames=8"),
        *("epochs=1", "batch_size=8", "model.bn_group_size=4", "evaluation.every_epochs=0.0"),
        *("run.log_steps=1", "run.tensorboard=False"),
    )
    losses, devices = {}, {"local": "2", "processes --num-processes=2": "1"}
    for place, per_process in devices.items():
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", per_process)
        workdir = tmp_path / place.split()[0]
        words = ["--config=demo", f"--workdir={workdir}", *(f"--config.{f}" for f in fields)]
        done = subprocess.run(
            [sys.executable, str(EXPERIMENTS / "launch.py"), *shlex.split(place), "--", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("4 steps of 8 clips on 2 devices") == 1  # one process reports
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses[place] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert json.loads((workdir / "environment.json").read_text())["processes"] == 2
    assert (workdir / "checkpoints" / "4").is_dir()
    alone, together = losses.values()
    assert len(alone) == 4
    assert together == pytest.approx(alone, abs=1e-5)
