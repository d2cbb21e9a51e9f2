"""OpenVINO, the fastest runtime on CPUs: read from the ONNX graph, quantised by NNCF."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

from squeezetime_jax.export import onnx
from squeezetime_jax.export.formats import Format, Run, quiet
from squeezetime_jax.export.manifest import OUTPUT, Clips, Manifest

# When imported, OpenVINO and NNCF report their use to their makers from a forked process, which may
# lock up beside JAX's threads; where this module cannot be imported they do not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _write(model: Any, path: Path, manifest: Manifest, calibration: Clips | None) -> None:
    """The network, and its weights in a file of the same name that ends in `.bin`.

    A bfloat16 file is that of float32; the manifest tells the runtime to compute in bfloat16.
    """
    import openvino

    graph = path.with_name("float.onnx")
    onnx.FORMAT.write(model, graph, dataclasses.replace(manifest, dtype="float32"), None)
    network = openvino.Core().read_model(graph)
    if calibration is not None:
        network = _quantized(network, calibration, manifest)
    with quiet():
        openvino.save_model(network, path, compress_to_fp16=manifest.dtype == "float16")


def _quantized(network: Any, clips: Clips, manifest: Manifest) -> Any:
    """The network with weights and activations in int8, by the ranges that they take on clips."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    feeds = nncf.Dataset([clip[None] for clip in clips], manifest.pack)
    with quiet():
        return nncf.quantize(network, feeds, subset_size=len(clips))


def _open(path: str, manifest: Manifest, threads: int) -> Run:
    import openvino

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # By default it computes in bfloat16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": "bf16" if manifest.dtype == "bfloat16" else "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda packed: compiled(packed)[OUTPUT]


FORMAT = Format(
    name="openvino",
    suffix=".xml",
    weights_suffix=".bin",
    dtypes=("float32", "float16", "bfloat16", "int8"),
    packages={
        "onnx": onnx.FORMAT.packages["onnx"],
        "openvino": "openvino>=2026.4,<2027",
        "nncf": "nncf>=3.4,<4",
    },
    runtime="openvino",
    any_network=False,
    write=_write,
    open=_open,
)
