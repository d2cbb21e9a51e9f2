"""What this machine gives the process: processors and memory."""

import contextlib
import ctypes
import gc
import math
import os
from pathlib import Path


def available_cpus(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may use: by its affinity and its control group's quota.

    `os.cpu_count` counts all of the machine, also where a cluster or a container allows fewer.

    Args:
      control_groups: where Linux mounts them.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [
        (control_groups / "cpu.max", None),  # version 2: "QUOTA PERIOD"
        (control_groups / "cpu/cpu.cfs_quota_us", control_groups / "cpu/cpu.cfs_period_us"),
    ]
    for first, second in quotas:
        with contextlib.suppress(OSError, ValueError):
            text = f"{first.read_text()} {second.read_text() if second else ''}"
            quota, period = map(int, text.split())  # a quota of "max" or -1 is none
            if quota > 0:
                cpus = min(cpus, math.ceil(quota / period))
    return cpus


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    Loading a network frees more than the weights take, in pieces that are otherwise kept and seldom
    fit what comes next.
    """
    gc.collect()  # networks contain reference cycles
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
