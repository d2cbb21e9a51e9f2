"""StableHLO: the program as XLA compiles it, for JAX on CPUs, GPUs and TPUs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from squeezetime_jax.export.formats import Format, Run
from squeezetime_jax.export.manifest import Clips, Manifest
from squeezetime_jax.export.network import input_shape, network
from squeezetime_jax.model.fused import Form

_PLATFORMS = ("cpu", "cuda", "tpu")


def _write(model: Any, path: Path, manifest: Manifest, calibration: Clips | None) -> None:
    """A file that `jax.export.deserialize` opens.

    The number of clips is left open, so kernels are not weighted, which pays for single clips only.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    program = jax.jit(network(model, manifest, Form(weigh="input")))
    exported = jax_export.export(program, platforms=_PLATFORMS)(input_shape(manifest, batch))
    path.write_bytes(exported.serialize())


def _open(path: str, manifest: Manifest, threads: int) -> Run:
    program = jax.jit(jax_export.deserialize(bytearray(Path(path).read_bytes())).call)
    return lambda packed: np.asarray(program(packed))


FORMAT = Format(
    name="stablehlo",
    suffix=".stablehlo",
    dtypes=("float32", "bfloat16"),
    packages={"flatbuffers": "flatbuffers>=25,<26"},
    runtime="flatbuffers",
    any_network=True,
    write=_write,
    open=_open,
)
