import importlib.util
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "experiments" / "launch.py"
TRAIN = ["--config", "my configs/k400.py:paper", "--workdir=runs/a b", '--config.init=it\'s "$x"']
PREEMPTED = 143


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _printed(
    launch: ModuleType, capsys: pytest.CaptureFixture[str], where: str, train: list[str] = TRAIN
) -> str:
    assert launch.main([*shlex.split(where), "--dry-run", "--", *train]) == 0
    return capsys.readouterr().out


def test_local_is_one_command(launch: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _printed(launch, capsys, "local").splitlines()
    assert shlex.split(line) == [sys.executable, "-m", "squeezetime_jax", "train", *TRAIN]


def test_processes_share_a_coordinator_and_the_gpus(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _printed(launch, capsys, "processes --num-processes 3 --gpus-per-process 2 --port 4321")
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


def test_slurm_asks_for_a_process_for_each_gpu(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "slurm --nodes 2 --gpus-per-node 4 --cpus-per-task 6 --time 10:00:00 --partition gpu"
    script = _printed(launch, capsys, f"{where} --setup '. venv/bin/activate'")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert asked == [
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


def test_slurm_without_gpus_is_a_process_for_each_node(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _printed(launch, capsys, "slurm --nodes 3 --gpus-per-node 0")
    assert "--ntasks-per-node=1\n" in script
    assert "gpus-per-node" not in script


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (1, False), (PREEMPTED, True)])
def test_the_slurm_script_runs_and_goes_on_after_a_warning(
    launch: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    status: int,
    is_requeued: bool,
) -> None:
    """With stand-ins for SLURM's own programs, which write down what they are told."""
    for name, code in (("srun", status), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/{name}.told\nexit {code}\n'
        )
        program.chmod(0o755)
    script = _printed(launch, capsys, "slurm --cpus-per-task 4 --setup 'export SEEN=1'")
    done = subprocess.run(
        ["bash"],
        input=script,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "77"},
        check=False,
    )
    assert done.returncode == status
    told = (tmp_path / "srun.told").read_text().splitlines()
    assert told == [
        "--wait=60",
        "--cpus-per-task=4",
        *("python", "-m", "squeezetime_jax", "train"),
        *TRAIN,
    ]
    assert (tmp_path / "scontrol.told").exists() == is_requeued
    if is_requeued:
        assert (tmp_path / "scontrol.told").read_text().split() == ["requeue", "77"]


def test_a_setup_line_that_fails_ends_the_slurm_script(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    script = _printed(launch, capsys, "slurm --setup 'cd /no/such/folder'")
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert "srun" not in done.stderr


def test_a_tpu_slice_gets_the_command_on_every_host(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "tpu pod --zone us-central2-b --project mine --setup 'cd st' --setup '. v/bin/activate'"
    words = shlex.split(_printed(launch, capsys, where))
    assert words[:-1] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"),
        *("--zone=us-central2-b", "--project=mine", "--worker=all"),
    ]
    remote = words[-1].removeprefix("--command=")
    assert remote.startswith("cd st && . v/bin/activate && python3 -m squeezetime_jax train ")
    assert shlex.split(remote)[-len(TRAIN) - 1 :] == [*TRAIN, "--distributed"]


def test_a_gke_workload_is_left_to_xpk(
    launch: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    where = "xpk mine --cluster c --tpu-type v5litepod-16 --num-slices 2 --docker-image image:1"
    words = shlex.split(_printed(launch, capsys, where))
    assert words[:-1] == [
        *("xpk", "workload", "create", "--workload=mine", "--cluster=c"),
        *("--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=image:1"),
    ]
    inside = shlex.split(words[-1].removeprefix("--command="))
    assert inside == ["python", "-m", "squeezetime_jax", "train", *TRAIN, "--distributed"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["local"], "--config is missing"),
        (["local", "--", "--config", "k400"], "--workdir is missing"),
        (["local", "--", "--config"], "expected one argument"),
        (["slurm", "--", *TRAIN], "sbatch: not found; run this where it is installed"),
        (["tpu", "pod", "--zone", "z", "--", *TRAIN], "gcloud: not found"),
    ],
)
def test_mistakes_are_told_in_a_line(
    launch: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.setenv("PATH", "")
    assert launch.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("launch.py: ")
    assert told in line


def test_a_failure_stops_the_others(launch: ModuleType) -> None:
    codes = ("raise SystemExit(3)", "import time; time.sleep(60)")
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    try:
        assert launch._wait_for_all(processes, patience=0.1) == 3
        assert processes[1].poll() is None  # what `run_together` then kills
    finally:
        processes[1].kill()
        processes[1].wait()


def test_a_process_that_is_asked_to_stop_leaves_the_others_their_time(launch: ModuleType) -> None:
    codes = (f"raise SystemExit({PREEMPTED})", "import time; time.sleep(0.5)")
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    assert launch._wait_for_all(processes, patience=0.0) == PREEMPTED
    assert processes[1].returncode == 0


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    workdir = tmp_path / "two processes"
    fields = (
        *("model.width=0.125", "model.num_frames=4", "model.branches=tfc"),
        *("data.motion.num_train=32", "data.motion.num_test=8", "data.motion.num_frames=8"),
        *("epochs=1", "batch_size=8", "model.bn_group_size=4", "evaluation.every_epochs=0.0"),
        *("run.log_steps=1", "run.tensorboard=False"),
    )
    train = ["--config=demo", f"--workdir={workdir}", *(f"--config.{field}" for field in fields)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "processes", "--num-processes=2", "--", *train],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    assert json.loads((workdir / "environment.json").read_text())["processes"] == 2
    assert (workdir / "checkpoints" / "4").is_dir()
    assert done.stdout.count("4 steps of 8 clips on 2 devices") == 1  # one process reports
