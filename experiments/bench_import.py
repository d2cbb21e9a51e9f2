"""How long importing the package takes beside importing Flax NNX, on which it stands.

    python experiments/bench_import.py [--runs 11]

Each import runs in a process of its own, in alternation; the medians and their ratio are printed.
"""

import argparse
import statistics
import subprocess
import sys

MODULES = ("flax.nnx", "squeezetime_jax")
CODE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(module: str) -> float:
    """Processor seconds of one import in a new process."""
    command = [sys.executable, "-c", CODE.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(runs):
        for module in MODULES:
            times[module].append(seconds(module))
    medians = [statistics.median(times[module]) for module in MODULES]
    for module, median in zip(MODULES, medians, strict=True):
        print(f"{module:16} {median:.2f} s")
    print(f"ratio            {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
