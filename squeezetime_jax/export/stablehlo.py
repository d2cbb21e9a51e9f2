"""StableHLO: the program as XLA compiles it, for JAX, on CPUs, GPUs and TPUs."""

from pathlib import Path

import jax
from jax import export as jax_export

from squeezetime_jax.export.manifest import Manifest
from squeezetime_jax.export.network import fold, input_shape, network
from squeezetime_jax.export.packages import needs
from squeezetime_jax.model.fused import Form
from squeezetime_jax.model.squeezetime import SqueezeTime

_PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: SqueezeTime, path: Path, manifest: Manifest, calibration: object = None) -> None:
    """Write `path`, which `jax.export.deserialize` opens.

    The number of clips is left open, so what depends on it, weighing kernels for a single clip, is
    left out.

    Raises:
      UserError: a package is missing.
    """
    needs("flatbuffers")
    fused = fold(model, manifest, Form(weigh="input"))
    (batch,) = jax_export.symbolic_shape("batch")
    program = jax_export.export(jax.jit(network(fused, manifest)), platforms=_PLATFORMS)
    path.write_bytes(program(input_shape(manifest, batch)).serialize())
