"""Devices to compile for: a TPU topology that is not here, or this machine's own."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.errors import UserError
from squeezetime_jax.machine import memory_bytes, quiet_libtpu

_EXAMPLES = "v5e:4x4, v6e:2x4 or v5p:4x4x4"


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a device.

    Attributes:
      memory: bytes.
      flops: bfloat16 operations a second at most; XLA computes float32 products in bfloat16 too,
        unless it is asked for a higher precision.
      bandwidth: bytes a second to and from its memory at most.
    """

    memory: int
    flops: float
    bandwidth: float


CHIPS = {
    "TPU v5 lite": Chip(16 << 30, 197e12, 819e9),
    "TPU v5": Chip(95 << 30, 459e12, 2765e9),
    "TPU v6 lite": Chip(32 << 30, 918e12, 1640e9),
}
"""`device_kind` -> v5e, v5p and v6e, as the pages on Cloud TPU's system architecture have them."""


def open_devices(
    topology: str | None = None, slices: int = 1, chips_per_host: str | None = None
) -> list[jax.Device]:
    """The devices of TPU slices, for the compiler alone; or this machine's.

    To be called before JAX looks for devices: this process then uses no TPU.

    Args:
      topology: chip and shape of a slice, such as "v5e:16x16"; None: this machine's devices.
      slices: how many there are.
      chips_per_host: shape of a host's part, such as "2x4"; None: libtpu's default.

    Raises:
      UserError: libtpu is not installed, or does not know such a topology.
    """
    if topology is None:
        if slices > 1 or chips_per_host is not None:
            raise UserError("--slices and --chips-per-host need --topology, such as v5e:4x4")
        use_compilation_cache()
        return jax.devices()
    _check_libtpu()
    quiet_libtpu(always=True)
    jax.config.update("jax_platforms", "cpu")
    if not re.fullmatch(r"\w+:\d+(x\d+){1,2}", topology):
        raise UserError(f"--topology: expected CHIP:SHAPE, such as {_EXAMPLES}, got {topology!r}")
    options = {}
    if chips_per_host is not None:
        if not re.fullmatch(r"\d+(x\d+){0,2}", chips_per_host):
            raise UserError(
                f"--chips-per-host: expected a shape such as 2x4, got {chips_per_host!r}"
            )
        numbers = [int(number) for number in chips_per_host.split("x")]
        options["chips_per_host_bounds"] = tuple(numbers + [1] * (3 - len(numbers)))
    try:
        found = topologies.get_topology_desc(topology, "tpu", num_slices=slices, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise UserError(
            f"--topology {topology}: {reason}; known are such as {_EXAMPLES}"
        ) from error
    return list(found)


def _check_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        version = importlib.metadata.version("jax")
        raise UserError(
            "--topology: the TPU compiler is in the package libtpu, which is not installed; run pip"
            f" install 'jax[tpu]=={version}'"
        )


def memory_of(device: jax.Device, own: Sequence[jax.Device]) -> int | None:
    """Bytes of memory that a device has, if known.

    Args:
      device: one of `own`.
      own: all devices of the run on this machine; processors share its memory.
    """
    if device.device_kind in CHIPS:
        return CHIPS[device.device_kind].memory
    if device.platform == "cpu":
        return memory_bytes() // len(own)
    return (device.memory_stats() or {}).get("bytes_limit")
