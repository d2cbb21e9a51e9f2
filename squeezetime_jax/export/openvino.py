"""OpenVINO, the fastest runtime on CPUs: read from the ONNX graph, quantised by NNCF."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.export import onnx
from squeezetime_jax.export.manifest import Manifest
from squeezetime_jax.export.packages import needs, quiet
from squeezetime_jax.model.squeezetime import SqueezeTime


def write(
    model: SqueezeTime,
    path: Path,
    manifest: Manifest,
    calibration: UInt8[np.ndarray, "n t h w 3"] | None = None,
) -> None:
    """Write `path` and its weights, named the same but for `.bin`, for any number of clips a call.

    Args:
      model: the network.
      path: where to.
      manifest: of the file. In bfloat16 the file is that of float32: it is the runtime that is
        asked to compute so.
      calibration: clips for int8.

    Raises:
      UserError: a package is missing.
    """
    openvino = needs("openvino")
    graph = path.with_name("float.onnx")
    onnx.write(model, graph, dataclasses.replace(manifest, dtype="float32"))
    network = openvino.Core().read_model(graph)
    if manifest.dtype == "int8":
        assert calibration is not None
        network = _quantized(network, calibration, manifest)
    with quiet():
        openvino.save_model(network, path, compress_to_fp16=manifest.dtype == "float16")


def _quantized(network: Any, clips: UInt8[np.ndarray, "n t h w 3"], manifest: Manifest) -> Any:
    """The network with weights and activations in int8, by the ranges that they take on clips."""
    nncf = needs("nncf")
    nncf.set_log_level(logging.ERROR)
    feeds = nncf.Dataset([clip[None] for clip in clips], manifest.pack)
    with quiet():
        return nncf.quantize(network, feeds, subset_size=len(clips))
