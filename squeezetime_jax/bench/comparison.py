"""The times that were measured here beside those of the paper: ranks, not milliseconds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

NAME = "squeezetime"


def spearman(a: Sequence[Any], b: Sequence[Any]) -> float:
    """The rank correlation of two columns of numbers; equal ones share the mean of their ranks."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[Any]) -> np.ndarray:
    x = np.asarray(values)
    return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) + 1) / 2


def ranks(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """For each runtime, where SqueezeTime is among the networks of the paper's Table 7, in lines.

    Args:
      rows: as `squeezetime bench --json` prints them; those without the paper's time are left out.
    """
    for way in dict.fromkeys((row["runtime"], row["dtype"]) for row in rows):
        chosen = [
            row for row in rows if (row["runtime"], row["dtype"]) == way and row["paper_cpu_ms"]
        ]
        if len(chosen) < 3:
            continue
        here, paper = ([row[name] for row in chosen] for name in ("milliseconds", "paper_cpu_ms"))
        names = [row["network"] for row in chosen]
        place = ""
        if NAME in names:
            first, second = (
                sorted(column).index(column[names.index(NAME)]) + 1 for column in (here, paper)
            )
            place = f"SqueezeTime is number {first} of {len(chosen)}, in the paper {second}; "
        yield (
            f"{' '.join(way)}, {len(chosen)} networks of the paper: {place}rank correlation with"
            f" the paper's times {spearman(here, paper):.2f} (Spearman)"
        )
