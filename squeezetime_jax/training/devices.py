"""Which devices a run uses, and how several hosts find each other."""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from squeezetime_jax.errors import UserError

DATA = "data"
"""The only axis of the mesh. A batch is cut along it; everything else is on every device."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    force: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Join the other processes of the run, if there are any; the first thing a command does.

    Args:
      coordinator: `host:port` of process 0. Default: `JAX_COORDINATOR_ADDRESS`, or the cluster's.
      num_processes: processes in the run. Default: `JAX_NUM_PROCESSES`, or the cluster's.
      process_id: this process, from 0. Default: `JAX_PROCESS_ID`, or the cluster's.
      force: let JAX look for a cluster even if the environment variables show none (a Cloud TPU VM
        learns of its slice over the network).
      environment: the environment variables.

    Returns:
      Whether this process has joined others.

    Raises:
      UserError: only some of the three are known, or the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return True
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number(num_processes, "JAX_NUM_PROCESSES", environment)
    process_id = _number(process_id, "JAX_PROCESS_ID", environment)
    known = [coordinator is not None, num_processes is not None, process_id is not None]
    if any(known) and not all(known):
        raise UserError(
            "distributed: only some of coordinator address, number of hosts and host id are given;"
            " give --coordinator, --num-hosts and --host-id together, or none of them"
        )
    if not (any(known) or force or in_cluster(environment)):
        return False
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"distributed: cannot join the run: {reason}; check that process 0 is running, that its"
            " port is open and that every process has the same address"
        ) from error
    return True


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process is one of several (SLURM, GKE, TPU slice)."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    return (
        ("SLURM_PROCID" in environment and tasks != "1")
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )


def _number(given: int | None, name: str, environment: Mapping[str, str]) -> int | None:
    if given is not None or name not in environment:
        return given
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f"{name} must be a number, got {environment[name]!r}") from None


def data_mesh(number: int | None = None) -> Mesh:
    """All devices of all hosts in a row, in order of process and id; or the first `number` of them.

    The rows of a batch then lie in order of the hosts, on any kind of machine; `jax.make_mesh`
    would order a TPU slice by its wiring, and refuse several slices or GPU hosts.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices[:number]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis cut evenly over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_on(
    mesh: Mesh, batch_size: int, *, group_size: int | None = None, parts: int = 1
) -> None:
    """Refuse a batch that the devices cannot share without exchanging clips.

    Args:
      mesh: the devices.
      batch_size: clips in a step.
      group_size: clips that batch norm takes its statistics over; None: the whole batch.
      parts: gradient accumulation; every part is shared by all devices.

    Raises:
      UserError: with the nearest batch sizes that they can share.
    """
    devices = mesh.size
    if batch_size % devices:
        nearest = _nearest(batch_size, devices)
        raise UserError(
            f"batch_size {batch_size} is not a multiple of the {devices} devices; choose {nearest}"
        )
    groups = batch_size // (group_size or batch_size)
    if groups > parts and groups % (parts * devices):
        assert group_size is not None
        nearest = _nearest(batch_size, group_size * parts * devices)
        each = "" if parts == 1 else f" in each of {parts} parts"
        raise UserError(
            f"batch_size {batch_size} has {groups // parts} groups of model.bn_group_size ="
            f" {group_size}{each}, which {devices} devices cannot share evenly; choose batch_size"
            f" {nearest}, or another model.bn_group_size"
        )


def _nearest(number: int, factor: int) -> str:
    below = number // factor * factor
    return " or ".join(str(multiple) for multiple in (below, below + factor) if multiple)


_COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
_ARRAY = re.compile(r"(pred|bf16|[suf]\d+)\[([\d,]*)\]")


def collective_bytes(program: str) -> int:
    """Bytes that the collectives of a compiled program write on each device.

    Args:
      program: the text of the compiled program (`compiled.as_text()`).
    """
    total = 0
    for collective in _COLLECTIVE.finditer(program):
        for kind, shape in _ARRAY.findall(collective[1]):
            bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
            total += bits // 8 * math.prod(int(n) for n in shape.split(",") if n)
    return total


def is_main() -> bool:
    """Whether this process is the one that writes files and reports."""
    return jax.process_index() == 0


def first_host_makes(make: Callable[[], object], what: str) -> None:
    """Make files that all hosts read: process 0 makes them while the others wait.

    Args:
      make: makes them, or returns at once if they are there.
      what: their name, the same on all hosts.
    """
    if is_main():
        make()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Copy a tree of arrays, the same in every process, to every device, as new buffers."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(mesh), may_alias=False)
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())
