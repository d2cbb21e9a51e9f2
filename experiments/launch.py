"""Start a training run where it is to run.

    python experiments/launch.py local -- TRAIN
    python experiments/launch.py processes --num-processes 2 -- TRAIN
    python experiments/launch.py slurm --nodes 2 --setup '. venv/bin/activate' -- TRAIN
    python experiments/launch.py tpu NAME --zone ZONE --setup 'cd squeezetime_jax' -- TRAIN
    python experiments/launch.py xpk NAME --cluster C --tpu-type TYPE --docker-image I -- TRAIN

TRAIN is what `squeezetime train` takes, such as `--config configs/k400.py --workdir runs/k400`; the
working directory has to be one that all hosts see. With `--dry-run` before the two dashes, what
would be run is printed and nothing is started. The clusters' own tools (`sbatch`, `gcloud`, `xpk`)
have to be installed where this runs.
"""

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from squeezetime_jax.errors import UserError

MODULE = ("-m", "squeezetime_jax", "train")
# Seconds before a job's time is up at which SLURM warns it: enough to save and to leave.
WARNING_SECONDS = 120
_PREEMPTED = 128 + signal.SIGTERM


def train_command(arguments: Sequence[str], python: str = "python") -> list[str]:
    """The command that trains, as words."""
    return [python, *MODULE, *arguments]


def workdir_of(arguments: Sequence[str]) -> str:
    """The value of `--workdir`.

    Raises:
      UserError: there is none, or no `--config`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    try:
        known, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"after the two dashes: {error}") from error
    for name in ("config", "workdir"):
        if not getattr(known, name):
            raise UserError(
                f"after the two dashes --{name} is missing; for example `-- --config "
                "configs/k400.py --workdir runs/k400`"
            )
    return known.workdir


def local_commands(args: argparse.Namespace, train: Sequence[str]) -> list[list[str]]:
    """One process, which drives every device of this machine."""
    return [train_command(train, sys.executable)]


def process_commands(args: argparse.Namespace, train: Sequence[str]) -> list[list[str]]:
    """Processes of this machine that find each other over the loopback device."""
    port = args.port or free_port()
    return [
        [
            *train_command(train, sys.executable),
            f"--coordinator=127.0.0.1:{port}",
            f"--num-hosts={args.num_processes}",
            f"--host-id={number}",
        ]
        for number in range(args.num_processes)
    ]


def process_environments(args: argparse.Namespace) -> list[dict[str, str]]:
    """What each process has in its environment beside this one's: its share of the GPUs."""
    share = args.gpus_per_process
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(str(number * share + i) for i in range(share))}
        if share
        else {}
        for number in range(args.num_processes)
    ]


def slurm_script(args: argparse.Namespace, train: Sequence[str]) -> str:
    """A batch script: one process for each GPU (what JAX expects on SLURM), or for each node.

    SLURM warns the job before its time is up; the run then saves and leaves with the status of
    SIGTERM, and the job is put into the queue again, where the same command goes on.
    """
    name = Path(workdir_of(train)).name
    options = {
        "job-name": args.name or name,
        "nodes": args.nodes,
        "ntasks-per-node": args.gpus_per_node or 1,
        "gpus-per-node": args.gpus_per_node or None,
        "cpus-per-task": args.cpus_per_task,
        "time": args.time,
        "partition": args.partition,
        "account": args.account,
        "signal": f"TERM@{WARNING_SECONDS}",
        "open-mode": "append",
        "output": args.output or f"{name}-%j.log",
    }
    given = {name: value for name, value in options.items() if value is not None}
    header = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given.items()]
    # srun does not take over the job's cores for each task (since SLURM 22.05). A minute after the
    # first process has ended, the others are.
    cores = f" --cpus-per-task={args.cpus_per_task}" if args.cpus_per_task else ""
    lines = [
        "#!/bin/bash",
        *header,
        "#SBATCH --requeue",
        "set -e",
        *args.setup,
        "status=0",
        f"srun --wait=60{cores} {shlex.join(train_command(train))} || status=$?",
        f'if [ "$status" -eq {_PREEMPTED} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


def tpu_command(args: argparse.Namespace, train: Sequence[str]) -> list[str]:
    """The same command on every host of a TPU slice, over ssh."""
    parts = [*args.setup, shlex.join([*train_command(train, "python3"), "--distributed"])]
    command = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name, f"--zone={args.zone}"]
    command += [f"--project={args.project}"] if args.project else []
    return [*command, "--worker=all", f"--command={' && '.join(parts)}"]


def xpk_command(args: argparse.Namespace, train: Sequence[str]) -> list[str]:
    """A workload on a GKE cluster that xpk looks after."""
    parts = [*args.setup, shlex.join([*train_command(train), "--distributed"])]
    command = ["xpk", "workload", "create", f"--workload={args.name}", f"--cluster={args.cluster}"]
    command += [f"--tpu-type={args.tpu_type}", f"--num-slices={args.num_slices}"]
    command += [f"--docker-image={args.docker_image}"]
    for name in ("zone", "project"):
        value = getattr(args, name)
        command += [f"--{name}={value}"] if value else []
    return [*command, f"--command={' && '.join(parts)}"]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> int:
    """Run commands side by side; when one fails, the others are stopped.

    SIGTERM is passed on, so that the run saves where it stands.

    Returns:
      0, or the first failure's status.
    """
    processes = [
        subprocess.Popen(command, env={**os.environ, **environment})
        for command, environment in zip(commands, environments, strict=True)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    # A terminal sends SIGINT to all of them itself.
    handlers = {signal.SIGTERM: pass_on, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return _wait_for_all(processes)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_all(processes: Sequence[subprocess.Popen], patience: float = 30.0) -> int:
    """Until all have ended; after a failure, those that do not end by themselves are left."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
        if _failures(processes) and deadline == float("inf"):
            deadline = time.monotonic() + patience
    ended = [process.returncode for process in processes if process.returncode]
    status = (_failures(processes) or ended or [0])[0]
    return status if status >= 0 else 128 - status  # ended by a signal, as a shell says it


def _failures(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Statuses of those that ended badly; one that was asked to stop has not."""
    return [p.returncode for p in processes if p.returncode not in (None, 0, _PREEMPTED)]


def submit(script: str) -> int:
    """Hand a script to SLURM."""
    return subprocess.run([tool("sbatch")], input=script, text=True, check=False).returncode


def tool(name: str) -> str:
    """The path of a cluster's own tool.

    Raises:
      UserError: it is not installed here.
    """
    path = shutil.which(name)
    if path is None:
        raise UserError(
            f"{name}: not found; run this where it is installed, or print with --dry-run"
        )
    return path


def shown(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> str:
    """Commands as lines for a shell."""
    lines = []
    for command, environment in zip(commands, environments, strict=True):
        settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
        lines.append(" ".join([*settings, shlex.join(command)]))
    return "\n".join(lines) + "\n"


def start(args: argparse.Namespace, train: Sequence[str]) -> int:
    """Print or start what the arguments ask for."""
    workdir_of(train)
    if args.where == "slurm":
        script = slurm_script(args, train)
        if args.dry_run:
            print(script, end="")
            return 0
        return submit(script)
    makers: dict[str, Callable[..., list[list[str]]]] = {
        "local": local_commands,
        "processes": process_commands,
        "tpu": lambda *both: [tpu_command(*both)],
        "xpk": lambda *both: [xpk_command(*both)],
    }
    commands = makers[args.where](args, train)
    environments = process_environments(args) if args.where == "processes" else [{}]
    if args.dry_run:
        print(shown(commands, environments), end="")
        return 0
    if args.where in ("tpu", "xpk"):
        tool(commands[0][0])
    return run_together(commands, environments)


def at_least(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number from `least` on."""

    def number(word: str) -> int:
        value = int(word)
        if value < least:
            raise argparse.ArgumentTypeError(f"{word} is below {least}")
        return value

    return number


def parser() -> argparse.ArgumentParser:
    """What stands before the two dashes."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    places = top.add_subparsers(dest="where", required=True, metavar="WHERE")

    def place(name: str, summary: str, *, has_setup: bool = True) -> argparse.ArgumentParser:
        sub = places.add_parser(name, help=summary, description=summary)
        sub.add_argument("--dry-run", action="store_true", help="print, do not start")
        if has_setup:
            what = "shell line to run first, as `. venv/bin/activate`; may be repeated"
            sub.add_argument("--setup", action="append", default=[], metavar="LINE", help=what)
        return sub

    place("local", "one process on this machine, with all its devices", has_setup=False)

    sub = place("processes", "several processes on this machine", has_setup=False)
    sub.add_argument("--num-processes", type=at_least(1), default=2)
    sub.add_argument("--gpus-per-process", type=at_least(0), default=0, help="0: all see all")
    sub.add_argument("--port", type=at_least(1), help="of process 0; default: a free one")

    sub = place("slurm", "a job of a SLURM cluster")
    sub.add_argument("--nodes", type=at_least(1), default=1)
    sub.add_argument("--gpus-per-node", type=at_least(0), default=8, help="0: processors alone")
    sub.add_argument("--cpus-per-task", type=at_least(1), help="cores of each process")
    sub.add_argument("--time", metavar="HH:MM:SS", help="default: the partition's")
    sub.add_argument("--partition")
    sub.add_argument("--account")
    sub.add_argument("--name", help="of the job; default: the working directory's")
    sub.add_argument("--output", metavar="FILE", help="log; default: <name of workdir>-<job>.log")

    sub = place("tpu", "every host of a Cloud TPU slice, by gcloud")
    sub.add_argument("name", help="of the TPU VM")
    sub.add_argument("--zone", required=True)
    sub.add_argument("--project")

    sub = place("xpk", "a workload of a GKE cluster, by xpk")
    sub.add_argument("name", help="of the workload")
    sub.add_argument("--cluster", required=True)
    sub.add_argument("--tpu-type", required=True, metavar="TYPE", help="as v5litepod-16")
    sub.add_argument("--num-slices", type=at_least(1), default=1)
    sub.add_argument("--docker-image", required=True, metavar="IMAGE", help="with this package")
    sub.add_argument("--zone")
    sub.add_argument("--project")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Split the command line at the two dashes and start the run."""
    words = list(sys.argv[1:] if argv is None else argv)
    middle = words.index("--") if "--" in words else len(words)
    args = parser().parse_args(words[:middle])
    try:
        return start(args, words[middle + 1 :])
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
