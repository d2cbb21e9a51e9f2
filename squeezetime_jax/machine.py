"""What this machine gives the process: processors and memory."""

import contextlib
import ctypes
import gc
import importlib.util
import math
import os
from pathlib import Path

_GOOGLE = "0x1ae0"  # as a maker of PCI devices
_LIBTPU_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


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


def memory_bytes() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def quiet_libtpu(*, always: bool = False, devices: Path = Path("/sys/bus/pci/devices")) -> None:
    """Answer libtpu's questions about this machine beforehand, where it has no TPU.

    With libtpu installed, JAX asks it for TPUs in every process. Without one, and without these
    environment variables, libtpu prints several lines of warnings.

    Args:
      always: also where there is a TPU, for a process that shall not use it.
      devices: where Linux lists what is connected.
    """
    if importlib.util.find_spec("libtpu") is None:
        return
    makers = {path.read_text().strip() for path in devices.glob("*/vendor")}
    if always or _GOOGLE not in makers:
        for name, value in _LIBTPU_SETTINGS.items():
            os.environ.setdefault(name, value)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    Loading a network frees more than the weights take, in pieces that are otherwise kept and seldom
    fit what comes next.
    """
    gc.collect()  # networks contain reference cycles
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
