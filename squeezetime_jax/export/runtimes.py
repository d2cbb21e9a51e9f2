"""Exported files, opened in their own runtimes.

runtime = open_runtime("k400.tflite")
scores = runtime(clips)
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.errors import UserError
from squeezetime_jax.export.manifest import INPUT, OUTPUT, Format, Manifest, read_manifest
from squeezetime_jax.export.packages import needs, quiet

Run = Callable[[np.ndarray], np.ndarray]

_REPEATS = 10


class Runtime:
    """An exported file, loaded and compiled.

    Args:
      manifest: what stands beside the file.
      run: from clips as the manifest packs them to logits.
    """

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self.manifest = manifest
        self.run = run

    def __call__(self, clips: UInt8[np.ndarray, "n t h w 3"]) -> Float[np.ndarray, "n classes"]:
        """Logits of RGB clips, 0..255, whatever their number."""
        packed = self.manifest.pack(clips)
        step = self.manifest.batch or len(clips)
        parts = [self.run(packed[i : i + step]) for i in range(0, len(clips), step)]
        return np.concatenate(parts).astype(np.float32)

    def milliseconds(self, clips: UInt8[np.ndarray, "n t h w 3"]) -> float:
        """Median time of one call on clips that are packed already."""
        packed = self.manifest.pack(clips)
        times = []
        for _ in range(_REPEATS + 2):
            begin = time.perf_counter()
            self.run(packed)
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times[2:])  # the first calls compile and allocate


def open_runtime(path: str | os.PathLike[str], *, threads: int | None = None) -> Runtime:
    """Open an exported file in its own runtime, on the CPU (StableHLO: on JAX's default device).

    Args:
      path: what `squeezetime export` wrote.
      threads: that compute; by default one per core. JAX keeps its own.

    Raises:
      UserError: the file or its manifest is not there or damaged, or the runtime is not installed.
    """
    manifest = read_manifest(path)
    if not Path(path).is_file():
        raise UserError(f"{path}: found no such file; wanted what `squeezetime export` wrote")
    opener = _OPENERS[manifest.format]
    try:
        run = opener(os.fspath(path), manifest, threads or os.cpu_count() or 1)
    except UserError:
        raise
    except Exception as error:  # each runtime raises its own kinds over a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: cannot be opened ({reason}); export the network again") from None
    return Runtime(manifest, run)


def _open_stablehlo(path: str, manifest: Manifest, threads: int) -> Run:
    needs("flatbuffers")
    from jax import export

    program = jax.jit(export.deserialize(bytearray(Path(path).read_bytes())).call)
    return lambda packed: np.asarray(program(packed))


def _open_onnx(path: str, manifest: Manifest, threads: int) -> Run:
    onnxruntime = needs("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda packed: session.run([OUTPUT], {INPUT: packed})[0]


def _open_litert(path: str, manifest: Manifest, threads: int) -> Run:
    interpreter = needs("ai_edge_litert.interpreter")
    with quiet():
        model = interpreter.Interpreter(model_path=path, num_threads=threads)
        signature = model.get_signature_runner()
    return lambda packed: signature(**{INPUT: packed})[OUTPUT]


def _open_openvino(path: str, manifest: Manifest, threads: int) -> Run:
    openvino = needs("openvino")
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Left to itself it computes in bfloat16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": "bf16" if manifest.dtype == "bfloat16" else "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda packed: compiled(packed)[OUTPUT]


_OPENERS: dict[Format, Callable[[str, Manifest, int], Run]] = {
    "stablehlo": _open_stablehlo,
    "onnx": _open_onnx,
    "litert": _open_litert,
    "openvino": _open_openvino,
}
