"""How long importing the package takes beside importing Flax NNX, on which it stands.

    python experiments/bench_import.py [--runs 11]

Each import runs in a process of its own, in alternation; medians and ratios are printed.
"""

import argparse
import statistics
import subprocess
import sys

BASELINE = "import flax.nnx"
STATEMENTS = (
    BASELINE,
    "import squeezetime_jax",
    "from squeezetime_jax import SqueezeTime",
)
CODE = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def seconds(statement: str) -> float:
    """Processor seconds of one statement in a new process."""
    command = [sys.executable, "-c", CODE.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(runs):
        for statement in STATEMENTS:
            times[statement].append(seconds(statement))
    baseline = statistics.median(times[BASELINE])
    for statement in STATEMENTS:
        median = statistics.median(times[statement])
        print(f"{statement:40} {median:.2f} s  {median / baseline:.2f}x")


if __name__ == "__main__":
    main()
