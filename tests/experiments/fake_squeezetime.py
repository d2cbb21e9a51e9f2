"""A stand-in for `squeezetime` that trains nothing and leaves the files that a run leaves.

`train` writes a line a step into `steps.txt` of its working directory, resuming after the last, and
`curves.png` at the end; `eval` prints a score made from the checkpoint's name. Both append to the
file that FAKE_LOG names. FAKE_HOLD names a file: while it holds "train RUN" or "eval RUN", that
command of that run touches the file's neighbour ".reached" halfway and waits, for a minute at most.
FAKE_FAIL is a subcommand that fails.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

STEPS = 6


def option(name: str) -> str:
    return next(w.partition("=")[2] for w in sys.argv[2:] if w.startswith(f"--{name}="))


def record(line: str) -> None:
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(line + "\n")


def wait_while_held(command: str, run: Path) -> None:
    hold = Path(os.environ.get("FAKE_HOLD", "none"))
    deadline = time.monotonic() + 60
    while (
        time.monotonic() < deadline
        and hold.exists()
        and hold.read_text() == f"{command} {run.parent.name}/{run.name}"
    ):
        hold.with_suffix(".reached").touch()
        time.sleep(0.01)


def train(workdir: Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    steps = workdir / "steps.txt"
    before = len(steps.read_text().splitlines()) if steps.exists() else 0
    for step in range(before, STEPS):
        if step == STEPS // 2:
            wait_while_held("train", workdir)
        with steps.open("a") as file:
            file.write(f"{step}\n")
    (workdir / "curves.png").touch()


def evaluate(checkpoint: Path) -> None:
    wait_while_held("eval", checkpoint)
    name = f"{checkpoint.parent.name}/{checkpoint.name}"
    share = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 1000 / 1000
    print(json.dumps({"top1": share}))


def main() -> int:
    command = sys.argv[1]
    run = Path(option("workdir" if command == "train" else "checkpoint"))
    record(f"{command} {run.parent.name}/{run.name}")
    if os.environ.get("FAKE_FAIL") == command:
        return 1
    train(run) if command == "train" else evaluate(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
