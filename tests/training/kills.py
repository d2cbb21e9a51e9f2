"""Kill two-process runs at random moments, and continue them: the same bits at the end.

    python tests/training/kills.py FOLDER NUMBER [SEED]

Each time one of the two processes, chosen at random, gets SIGKILL at a random moment: while it
starts, in training, as soon as a checkpoint is being written, or in an evaluation. The other has to
end within a minute with status 1 (or by JAX's own abort, where host 0 was killed). The same command
then goes on. After every few kills the run is left to end, and is compared with one that nothing
disturbed, byte for byte.
"""

import collections
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from processes import free_port, start

ROUND = 5  # kills of a run before it may end
PAUSE = "0.02"  # seconds in reading each of a step's clips, so that a run takes some time
MOMENTS = ("start", "training", "saving", "evaluation")


def both(workdir: Path, pause: str) -> list[subprocess.Popen]:
    """Start the two processes of a run of thirty steps."""
    common = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "TINY_PAUSE": pause,
    }
    words = ["epochs=6", "optimizer__ema=0.9", "evaluation__every_epochs=1.0"]
    words += ["run__save_epochs=0.4", "run__log_steps=1"]
    return [start("train", workdir, *words, **common, JAX_PROCESS_ID=str(i)) for i in (0, 1)]


def wait_until(moment: str, processes: list[subprocess.Popen], workdir: Path, draw: float) -> str:
    """Wait for a random moment of that kind; says which it was, as the run may end before."""
    if moment == "start":
        time.sleep(4 * draw)
        return moment
    main = processes[0]
    assert main.stdout
    for line in main.stdout:
        if moment == "evaluation" and "evaluation:" in line:
            return moment
        if moment != "evaluation" and line.startswith("step "):
            break
    while moment == "saving" and main.poll() is None:
        if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
            return moment
        time.sleep(0.001)
    time.sleep(draw)
    return "training"


def arrays(workdir: Path) -> dict[str, bytes]:
    """Every array of the last checkpoint, byte for byte, and the metrics."""
    found = {"metrics": (workdir / "metrics.jsonl").read_bytes()}
    for item in ("params", "batch_stats", "training"):
        folder = (workdir / "checkpoints" / "30" / item).absolute()
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(folder).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            tree = checkpointer.restore(folder, restore_args=as_numpy)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


def kill_one(workdir: Path, draws: random.Random) -> tuple[str, float]:
    """Kill a process of a run; the moment, and the seconds until the other had ended."""
    processes = both(workdir, PAUSE)
    moment = wait_until(draws.choice(MOMENTS), processes, workdir, draws.random())
    killed = draws.randrange(2)
    victim, other = processes[killed], processes[1 - killed]
    if victim.poll() is not None:
        moment = "after the end"
    victim.kill()
    begin = time.monotonic()
    try:
        _, err = other.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        assert moment == "start"  # before they had met: JAX waits five minutes for the other
        other.kill()
        _, err = other.communicate()
        moment = "before they met"
    seconds = time.monotonic() - begin
    victim.communicate()
    if moment not in ("after the end", "before they met"):
        lines = [line for line in err.splitlines() if line.startswith("tiny: ")]
        is_abort = killed == 0 and other.returncode == -6
        assert is_abort or other.returncode == 1 or "start" in moment, err
        assert is_abort or len(lines) == 1 or "start" in moment, err
        print("JAX's abort" if is_abort else "; ".join(lines))
    return f"{moment}, host {killed}", seconds


def main(folder: str, number: str, seed: str = "0") -> None:
    root, draws = Path(folder), random.Random(int(seed))
    shutil.rmtree(root, ignore_errors=True)
    whole = root / "whole"
    for process in both(whole, "0"):
        out, err = process.communicate()
        assert process.returncode == 0, out + err
    expected = arrays(whole)
    counts: collections.Counter[str] = collections.Counter()
    slowest, workdir = 0.0, root / "0"
    for kill in range(1, int(number) + 1):
        moment, seconds = kill_one(workdir, draws)
        counts[moment] += 1
        slowest = max(slowest, seconds)
        print(f"kill {kill}: {moment}; the other ended after {seconds:.1f} s", flush=True)
        if kill % ROUND == 0 or kill == int(number):
            for process in both(workdir, "0"):
                out, err = process.communicate()
                assert process.returncode == 0, out + err
            differing = [name for name, value in arrays(workdir).items() if value != expected[name]]
            assert not differing, differing
            print(f"after {kill} kills: the same {len(expected)} arrays", flush=True)
            workdir = root / str(kill)
    print(dict(counts), f"slowest end of the other host: {slowest:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
