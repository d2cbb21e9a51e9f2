"""Measuring by turns, so that other work on the machine slows every candidate alike."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Takes the number of the round; returns a figure, or several.
Run = Callable[[int], float | Sequence[float]]
# Name -> figures, shape (rounds, columns).
Found = Mapping[str, np.ndarray]


def interleaved(runs: Mapping[str, Run], rounds: int, warm_up: int = 1) -> Found:
    """Measure each run once a round.

    Args:
      runs: name -> function that returns its figures, such as seconds.
      rounds: measured, after those of `warm_up`.
      warm_up: rounds that are left out.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            figures = np.atleast_1d(run(number))
            if number >= warm_up:
                found[name].append(figures)
    return {name: np.stack(figures) for name, figures in found.items()}


def timed(function: Callable[[], object], pause: float = 0.0) -> Run:
    """A run that returns the seconds of a call, which comes `pause` seconds after the last."""

    def run(number: int) -> float:
        time.sleep(pause)
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin

    return run


def of_command(words: Sequence[str], **environment: str) -> tuple[float, float, float]:
    """Run a command to its end.

    Returns:
      Its wall-clock seconds, processor seconds and peak MiB.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(words, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ...: ended with status {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def show(found: Found, columns: Mapping[str, float], baseline: str | None = None) -> None:
    """Print medians, the middle half of the first column, and its ratio to a baseline.

    Args:
      found: as `interleaved` returns it.
      columns: name of each figure -> factor that brings it to the unit of its name.
      baseline: name of a run; the ratio is the median of those of each round.
    """
    width = max(map(len, found))
    heads = [f"{column:>10}" for column in columns]
    heads.insert(1, f"{'middle half':>17}")
    if baseline in found:
        heads.append(f"  over {baseline}")
    print(" " * width, *heads)
    for name, figures in found.items():
        scaled = figures * np.array(list(columns.values()))
        low, high = np.quantile(scaled[:, 0], (0.25, 0.75))
        cells = [f"{statistics.median(column):10.4g}" for column in scaled.T]
        cells.insert(1, f"{f'{low:.4g} - {high:.4g}':>17}")
        if baseline in found:
            ratios = figures[:, 0] / found[str(baseline)][:, 0]
            cells.append(f"  {statistics.median(ratios):.2f}")
        print(f"{name:{width}}", *cells, flush=True)
