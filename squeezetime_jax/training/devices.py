"""The mesh of a run's devices, and how they share a batch."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from squeezetime_jax.errors import UserError

DATA = "data"
"""The only axis of the mesh. A batch is cut along it; everything else is on every device."""


def data_mesh(number: int | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all hosts in a row, in order of process and id; or the first `number` of them.

    The rows of a batch then lie in order of the hosts, on any kind of machine; `jax.make_mesh`
    would order a TPU slice by its wiring, and refuse several slices or GPU hosts.

    Args:
      number: how many devices; None: all.
      devices: those to choose from; None: `jax.devices()`.
    """
    found = jax.devices() if devices is None else devices
    row = sorted(found, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(row[:number]), (DATA,), axis_types=(AxisType.Auto,))


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


def shapes_everywhere(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays, or of their shapes, as shapes of copies on every device."""
    everywhere = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), tree)
