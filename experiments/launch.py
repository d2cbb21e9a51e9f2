"""Start a training run: on this machine, on several of its processes, on SLURM, on a TPU slice.

    RUN="--config configs/k400.py --workdir /shared/runs/k400"
    python experiments/launch.py here -- $RUN
    python experiments/launch.py local --processes 2 -- $RUN
    python experiments/launch.py slurm --nodes 2 --gpus 8 -- $RUN
    python experiments/launch.py tpu --name pod --zone us-central2-b -- $RUN
    python experiments/launch.py xpk --cluster mine --tpu-type v5litepod-32 --image IMAGE -- $RUN

What follows `--` goes to `squeezetime train` as it is. `--dry-run` prints the script instead of
running it. The run directory must be one that all hosts see. A run that is started again with the
same command goes on from its newest checkpoint; on SLURM it does so by itself after a preemption.
"""

import argparse
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence

TRAIN = "squeezetime train"


def here(args: argparse.Namespace, train: str) -> str:
    """One process, all devices of this machine."""
    return f"exec {train}\n"


def local(args: argparse.Namespace, train: str) -> str:
    """Processes of this machine that share its devices' work, as hosts would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"""\
# Every process takes its share of the batch. On GPUs each sees one; on CPUs each simulates its own.
export JAX_COORDINATOR_ADDRESS=127.0.0.1:{port} JAX_NUM_PROCESSES={args.processes}
pids=()
for id in $(seq 0 {args.processes - 1}); do
  JAX_PROCESS_ID=$id CUDA_VISIBLE_DEVICES=$id {train} &
  pids+=($!)
done
trap 'kill -TERM "${{pids[@]}}" 2>/dev/null' TERM INT  # each saves, then stops
status=0
for pid in "${{pids[@]}}"; do wait "$pid" || status=$?; done
exit $status
"""


def slurm(args: argparse.Namespace, train: str) -> str:
    """One task per GPU; JAX finds the others from SLURM's own variables."""
    options = [
        f"--job-name={args.name}",
        f"--nodes={args.nodes}",
        f"--ntasks-per-node={args.gpus}",
        f"--gpus-per-node={args.gpus}",
        f"--cpus-per-task={args.cpus}",
        f"--time={args.time}",
        "--requeue",
        "--signal=TERM@120",  # to every task, two minutes before the end: it saves and stops
        "--open-mode=append",
        "--output=slurm-%j.log",
    ]
    if args.partition:
        options.append(f"--partition={args.partition}")
    header = "\n".join(f"#SBATCH {option}" for option in options)
    return f"""\
sbatch <<'JOB'
#!/bin/bash
{header}
srun --kill-on-bad-exit=1 {train}
status=$?
# 143: asked to stop and saved. The job goes back to the queue, and on from its checkpoint.
if [ $status -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
JOB
"""


def tpu(args: argparse.Namespace, train: str) -> str:
    """The same command on every host of a Cloud TPU slice, over ssh."""
    target = f"gcloud compute tpus tpu-vm ssh {shlex.quote(args.name)} --zone={args.zone}"
    command = f"cd {shlex.quote(args.folder)} && {train} --distributed"
    return f"exec {target} --worker=all --command={shlex.quote(command)}\n"


def xpk(args: argparse.Namespace, train: str) -> str:
    """A workload on a GKE cluster that xpk made."""
    return (
        f"exec xpk workload create --cluster={shlex.quote(args.cluster)} --workload={args.name} "
        f"--tpu-type={args.tpu_type} --docker-image={args.image} "
        f"--command={shlex.quote(f'{train} --distributed')}\n"
    )


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own arguments, and the run's."""
    own, run = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, run = own[:at], own[at + 1 :]
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dry-run", action="store_true", help="print the script only")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    places = parser.add_subparsers(dest="place", metavar="PLACE", required=True)
    for place in (here, local, slurm, tpu, xpk):
        sub = places.add_parser(place.__name__, help=place.__doc__, parents=[common])
        sub.set_defaults(script=place)
    added = places.choices
    added["local"].add_argument("--processes", type=int, default=2)
    for name in ("slurm", "xpk"):
        added[name].add_argument("--name", default="squeezetime")
    added["slurm"].add_argument("--nodes", type=int, default=1)
    added["slurm"].add_argument("--gpus", type=int, default=8, help="per node")
    added["slurm"].add_argument("--cpus", type=int, default=8, help="per GPU")
    added["slurm"].add_argument("--time", default="24:00:00")
    added["slurm"].add_argument("--partition", default="")
    added["tpu"].add_argument("--name", required=True, help="of the TPU slice")
    added["tpu"].add_argument("--zone", required=True)
    added["tpu"].add_argument("--folder", default="~/squeezetime_jax", help="of the clone, on it")
    added["xpk"].add_argument("--cluster", required=True)
    added["xpk"].add_argument("--tpu-type", required=True)
    added["xpk"].add_argument("--image", required=True, help="with squeezetime-jax[tpu] installed")
    args = parser.parse_args(own)
    if not {"--config", "--workdir"} <= {word.split("=")[0] for word in run}:
        parser.error("give --config FILE and --workdir FOLDER after --")
    return args, run


def main(argv: Sequence[str]) -> int:
    """Print or run the script."""
    args, run = parse(argv)
    script = args.script(args, f"{TRAIN} {shlex.join(run)}")
    if args.dry_run:
        print(script, end="")
        return 0
    return subprocess.run(["bash", "-c", script]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
