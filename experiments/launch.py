"""Start a command of `squeezetime` on this machine, on SLURM, on a TPU slice or on GKE.

    python experiments/launch.py local -- COMMAND
    python experiments/launch.py processes --num-processes 2 -- COMMAND
    python experiments/launch.py slurm --nodes 2 --setup '. venv/bin/activate' -- COMMAND
    python experiments/launch.py tpu NAME --zone ZONE --setup 'cd squeezetime_jax' -- COMMAND
    python experiments/launch.py xpk NAME --cluster C --tpu-type TYPE --docker-image I -- COMMAND

COMMAND is a subcommand and its arguments, such as `train --config configs/k400.py --workdir
runs/k400` or `eval --config k400 --checkpoint runs/k400`; without a subcommand it is `train`. The
working directory must be visible to all hosts. `--dry-run` before the two dashes prints the script
or the commands and starts nothing. The clusters' own tools (`sbatch`, `gcloud`, `xpk`) must be
installed where this runs.
"""

import argparse
import os
import re
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
from typing import IO

from squeezetime_jax.errors import UserError

PLACES = ("local", "processes", "slurm", "tpu", "xpk")
QUEUES = ("slurm", "xpk")  # places where a job is submitted, and runs later
PROGRAM = [sys.executable, "-m", "squeezetime_jax"]
_ON_MANY_PROCESSES = ("train", "eval")
# Seconds before a job's time is up at which SLURM warns it: enough to save and exit.
_WARNING_SECONDS = 120
_PREEMPTED = 128 + signal.SIGTERM
# How long a pod on GKE has for the same; xpk's default is 30.
_GRACE_SECONDS = 120
# xpk restarts a workload after the statuses 42 and 127 to 255; hosts that miss another end with 1.
_RESTART_STATUS = 1
# A connection over which nothing comes for two minutes ends, and so does one that cannot be made.
_SSH_FLAGS = ("ConnectTimeout=30", "ServerAliveInterval=30", "ServerAliveCountMax=4")
_LOCK = "/tmp/squeezetime.lock"
_LOCKED = 75  # EX_TEMPFAIL of sysexits.h

Commands = Sequence[Sequence[str]]


def with_subcommand(words: Sequence[str]) -> list[str]:
    """The words after the two dashes, beginning with a subcommand."""
    has_subcommand = bool(words) and not words[0].startswith("-")
    return [*words] if has_subcommand else ["train", *words]


def check_words(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Check the command before it waits in a queue.

    Raises:
      UserError: `train` without a config or working directory, or a command that runs in one
        process on several.
    """
    if words[0] == "train":
        _option(words, "config")
        _option(words, "workdir")
    slurm_processes = args.nodes * max(args.gpus_per_node, 1) if args.where == "slurm" else 0
    is_single = args.where == "local" or slurm_processes == 1
    if words[0] not in _ON_MANY_PROCESSES and not is_single:
        raise UserError(
            f"{words[0]}: runs in one process, and `{args.where}` starts several; use `local` or"
            " `slurm --nodes 1 --gpus-per-node 1`"
        )


def _option(words: Sequence[str], name: str) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{name}")
    try:
        value = getattr(parser.parse_known_args(list(words))[0], name)
    except argparse.ArgumentError as error:
        raise UserError(f"after the two dashes: {error}") from error
    if not value:
        raise UserError(
            f"after the two dashes --{name} is missing; for example `-- train --config"
            " configs/k400.py --workdir runs/k400`"
        )
    return value


def process_commands(args: argparse.Namespace, words: Sequence[str]) -> list[list[str]]:
    """Processes of this machine that find each other over the loopback device."""
    port = args.port or free_port()
    return [
        [
            *(*PROGRAM, *words),
            f"--coordinator=127.0.0.1:{port}",
            f"--num-hosts={args.num_processes}",
            f"--host-id={number}",
        ]
        for number in range(args.num_processes)
    ]


def process_environments(args: argparse.Namespace) -> list[dict[str, str]]:
    """Environment variables of each process: its share of the GPUs."""
    share = args.gpus_per_process
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(str(number * share + i) for i in range(share))}
        if share
        else {}
        for number in range(args.num_processes)
    ]


def slurm_script(args: argparse.Namespace, commands: Commands, output: Path | None = None) -> str:
    """A batch script: one process for each GPU (as JAX expects on SLURM), or for each node.

    SLURM warns the job before its time is up; a training run then saves and exits with the status
    of SIGTERM, and the job is put back into the queue, where the same command resumes.

    Args:
      args: of the place.
      commands: run one after the other, as long as none fails.
      output: file that what the last one prints is added to.
    """
    words = commands[0]
    name = Path(_option(words, "workdir")).name if words[0] == "train" else words[0]
    options = {
        "job-name": args.name or name,
        "nodes": args.nodes,
        "ntasks-per-node": args.gpus_per_node or 1,
        "gpus-per-node": args.gpus_per_node or None,
        "cpus-per-task": args.cpus_per_task,
        "time": args.time,
        "partition": args.partition,
        "account": args.account,
        "signal": f"TERM@{_WARNING_SECONDS}",
        "open-mode": "append",
        "output": args.output or f"{name}-%j.log",
    }
    given = {name: value for name, value in options.items() if value is not None}
    header = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given.items()]
    # srun does not inherit the job's cores per task (since SLURM 22.05). It ends the other tasks a
    # minute after the first has ended.
    cores = f" --cpus-per-task={args.cpus_per_task}" if args.cpus_per_task else ""
    first, *others = [
        f"srun --wait=60{cores} {line} || status=$?"
        for line in _shell_lines("python", commands, output)
    ]
    steps = [first, *(f'[ "$status" -ne 0 ] || {line}' for line in others)]
    lines = [
        "#!/bin/bash",
        *header,
        "#SBATCH --requeue",
        "set -e",
        *args.setup,
        "status=0",
        *steps,
        f'if [ "$status" -eq {_PREEMPTED} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


def _shell_lines(python: str, commands: Commands, output: Path | None, *more: str) -> list[str]:
    """Commands for a shell of a cluster, where processes of several hosts add to `output`."""
    lines = [shlex.join([python, *PROGRAM[1:], *words, *more]) for words in commands]
    if output is not None:
        lines[-1] += f" >> {shlex.quote(str(output))}"
    return lines


def tpu_command(args: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """The same command on every host of a TPU slice, over ssh.

    A lost connection ends the launcher, not the command: a second one on the same host is refused
    as long as the first one runs.
    """
    (line,) = _shell_lines("python3", [words], None, "--distributed")
    message = f"{args.name}: an earlier command still runs on this host"
    locked = (
        f"flock --nonblock --conflict-exit-code {_LOCKED} {_LOCK} {line} || {{ status=$?;"
        f" [ $status -ne {_LOCKED} ] || echo {shlex.quote(message)} >&2; exit $status; }}"
    )
    command = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name, f"--zone={args.zone}"]
    command += [f"--project={args.project}"] if args.project else []
    command += ["--quiet", *(f"--ssh-flag=-o{flag}" for flag in _SSH_FLAGS)]
    return [*command, "--worker=all", f"--command={' && '.join([*args.setup, locked])}"]


def xpk_command(
    args: argparse.Namespace, commands: Commands, output: Path | None = None
) -> list[str]:
    """A workload on a GKE cluster that xpk manages; it is restarted, and resumes, when it fails."""
    parts = [*args.setup, *_shell_lines("python", commands, output, "--distributed")]
    command = ["xpk", "workload", "create", f"--workload={args.name}", f"--cluster={args.cluster}"]
    command += [f"--tpu-type={args.tpu_type}", f"--num-slices={args.num_slices}"]
    command += [f"--docker-image={args.docker_image}", f"--max-restarts={args.max_restarts}"]
    command += [f"--restart-on-exit-codes={_RESTART_STATUS}"]
    command += [f"--termination-grace-period-seconds={_GRACE_SECONDS}", *_cluster_options(args)]
    return [*command, f"--command={' && '.join(parts)}"]


def _cluster_options(args: argparse.Namespace) -> list[str]:
    values = {name: getattr(args, name) for name in ("zone", "project")}
    return [f"--{name}={value}" for name, value in values.items() if value]


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(
    commands: Commands, environments: Sequence[Mapping[str, str]], output: IO[bytes] | None = None
) -> int:
    """Run commands side by side; when one fails, the others are stopped.

    SIGTERM is passed on, so that a training run saves its state. What they print goes to `output`,
    if it is given.

    Returns:
      0, or the first failure's status.
    """
    processes: list[subprocess.Popen] = []
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    # A terminal itself sends SIGINT to all of them; a handler, unlike SIG_IGN, is not inherited.
    handlers = {signal.SIGTERM: pass_on, signal.SIGINT: lambda number, frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        for command, environment in zip(commands, environments, strict=True):
            variables = {**os.environ, **environment}
            processes.append(subprocess.Popen(command, env=variables, stdout=output))
            if received:
                processes[-1].send_signal(received[-1])
        return _wait_for_all(processes)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_all(processes: Sequence[subprocess.Popen], patience: float = 30.0) -> int:
    """Wait until all have ended, or until `patience` seconds after the first failure."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
        if _failures(processes) and deadline == float("inf"):
            deadline = time.monotonic() + patience
    ended = [process.returncode for process in processes if process.returncode]
    status = (_failures(processes) or ended or [0])[0]
    return status if status >= 0 else 128 - status  # ended by a signal: the status of a shell


def _failures(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Statuses of those that failed; to stop after SIGTERM is no failure."""
    return [p.returncode for p in processes if p.returncode not in (None, 0, _PREEMPTED)]


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


def queued_jobs(args: argparse.Namespace) -> str:
    """The jobs of this name that wait or run at a place of `QUEUES`, as "ID STATE, ..."; or empty.

    Raises:
      UserError: the cluster's tool is missing or fails, so a second job could be started.
    """
    if args.where == "slurm":
        lines = _output("squeue", "--me", "--noheader", f"--name={args.name}", "--format=%i %T")
        return ", ".join(lines)
    found = []
    for state in ("QUEUED", "RUNNING"):
        options = [f"--cluster={args.cluster}", *_cluster_options(args)]
        options += [f"--filter-by-status={state}", f"--filter-by-job={args.name}"]
        # A table, between lines of xpk's own that begin with its name in brackets.
        rows = [re.split(r"[^\w-]+", line) for line in _output("xpk", "workload", "list", *options)]
        found += [f"{args.name} {state}" for row in rows if args.name in row and "XPK" not in row]
    return ", ".join(found)


def _output(name: str, *words: str) -> list[str]:
    done = subprocess.run([tool(name), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name}: failed with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def shown(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> str:
    """Commands as lines for a shell."""
    lines = []
    for command, environment in zip(commands, environments, strict=True):
        settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
        lines.append(" ".join([*settings, shlex.join(command)]))
    return "\n".join(lines) + "\n"


def start(args: argparse.Namespace, commands: Commands, output: Path | None = None) -> int:
    """Print or start commands, one after the other as long as none fails.

    Args:
      args: of `parser()`, the words before the two dashes.
      commands: each as the words after them; at a place of `QUEUES` they are one job.
      output: file for what the last one prints; all hosts must see it.

    Returns:
      The exit status, where the commands end here; else that of the submission.
    """
    commands = [with_subcommand(words) for words in commands]
    for words in commands:
        check_words(args, words)
    if args.where == "slurm":
        script = slurm_script(args, commands, output)
        if args.dry_run:
            print(script, end="")
            return 0
        return subprocess.run([tool("sbatch")], input=script, text=True, check=False).returncode
    if args.where == "xpk":
        return _start_here(args, [xpk_command(args, commands, output)], None)
    makers: dict[str, Callable[[Sequence[str]], list[list[str]]]] = {
        "local": lambda words: [[*PROGRAM, *words]],
        "processes": lambda words: process_commands(args, words),
        "tpu": lambda words: [tpu_command(args, words)],
    }
    status = 0
    for number, words in enumerate(commands, 1):
        last = number == len(commands)
        status = status or _start_here(args, makers[args.where](words), output if last else None)
    return status


def _start_here(args: argparse.Namespace, together: Commands, output: Path | None) -> int:
    """Print processes of this machine, or run them and wait for them."""
    environments = process_environments(args) if args.where == "processes" else [{}]
    if args.dry_run:
        print(shown(together, environments), end="")
        return 0
    if args.where in ("tpu", "xpk"):
        tool(together[0][0])
    if output is None:
        return run_together(together, environments)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        return run_together(together, environments, file)


def at_least(minimum: int) -> Callable[[str], int]:
    """The `type` of an argument: a whole number of at least `minimum`."""

    def number(word: str) -> int:
        if not word.isdecimal() or int(word) < minimum:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}, got {word!r}"
            )
        return int(word)

    return number


def parser() -> argparse.ArgumentParser:
    """The command line before the two dashes."""
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
    sub.add_argument("--gpus-per-node", type=at_least(0), default=8, help="0: CPUs only")
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
    restarts = "after a host failed; the run resumes"
    sub.add_argument("--max-restarts", type=at_least(0), default=10, help=restarts)
    sub.add_argument("--zone")
    sub.add_argument("--project")
    return top


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before and after the two dashes."""
    words = list(argv)
    middle = words.index("--") if "--" in words else len(words)
    return words[:middle], words[middle + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """Start the command after the two dashes where the words before them say."""
    before, after = split(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(before)
    try:
        return start(args, [after])
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
