"""How fast one clip is scored, ours and the rivals in one process, and the memory that it takes.

    python experiments/bench_inference.py [--batch 1] [--seconds 60] [--memory]

Medians of interleaved runs on two threads, and ratios to the PyTorch twin of `tests/torch_twin.py`
in eager mode, at 16x224x224: the network as it is trained (jit), the fused network, its forms one
by one, ONNX Runtime and OpenVINO on the twin's ONNX graph and on ours. What is not installed is
left out. `--memory` measures peaks instead, each in a process of its own, from loading to scoring,
imports taken out.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ.setdefault("OMP_NUM_THREADS", "2")

import jax
import numpy as np
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.bench import worker
from squeezetime_jax.compilation import inference_options
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import export
from squeezetime_jax.model.fused import ACCELERATOR, CPU, EXPORT, Form, fuse, logits

Run = Callable[[], object]
THREADS = 2


def ours(model: SqueezeTime, clips: np.ndarray) -> dict[str, Run]:
    device_clips = jax.device_put(clips)
    options = dict(inference_options())

    def compiled(network: Callable, weights: object, options: dict = options) -> Run:
        program = jax.jit(network, compiler_options=options).lower(weights, device_clips).compile()
        return lambda: jax.block_until_ready(program(weights, device_clips))

    def form(form: Form, options: dict = options) -> Run:
        return compiled(logits, jax.device_put(fuse(model, form)), options)

    graph, state = nnx.split(model)
    return {
        "jit": compiled(lambda state, clips: nnx.merge(graph, state)(clips), state),
        "fused": form(CPU),
        "fused, XLA's default options": form(CPU, {}),
        "fused, 1x1 as products": form(dataclasses.replace(CPU, pointwise="product")),
        "fused, pool as a window": form(dataclasses.replace(CPU, max_pool="window")),
        "fused, nothing merged": form(dataclasses.replace(CPU, merge=False)),
        "fused, weights into inputs": form(dataclasses.replace(CPU, weigh="input")),
        "fused, as for accelerators": form(ACCELERATOR),
        "fused, as exported": form(EXPORT),
    }


def exported(model: SqueezeTime, clips: np.ndarray, folder: Path) -> dict[str, Run]:
    side_by_side = clips.transpose(0, 2, 3, 1, 4).reshape(*clips.shape[:1], *clips.shape[2:4], -1)
    packed = np.ascontiguousarray(side_by_side)
    runs: dict[str, Run] = {}
    for name in ("onnx", "openvino"):
        file = folder / f"ours{formats.get(name).suffix}"
        export(model, file, format=name)
        runtime = open_runtime(file, threads=THREADS)
        runs[f"{name}, our graph"] = lambda runtime=runtime: runtime.run(packed)
    return runs


def twins(clips: np.ndarray, folder: Path) -> dict[str, Run]:
    import onnxruntime
    import openvino
    import torch
    from torch_twin import Twin

    torch.set_num_threads(THREADS)
    twin = Twin(SqueezeTimeConfig.k400()).eval()
    x = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3)))
    file = str(folder / "twin.onnx")
    torch.onnx.export(twin, (x,), file, dynamo=False, opset_version=17, input_names=["clip"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(file, options)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    network = openvino.Core().compile_model(file, "CPU", settings)

    def eager() -> object:
        with torch.inference_mode():
            return twin(x)

    return {
        "PyTorch eager": eager,
        "ONNX Runtime, the twin's graph": lambda: session.run(None, {"clip": x.numpy()}),
        "OpenVINO, the twin's graph": lambda: network(x.numpy()),
    }


def interleaved(runs: dict[str, Run], seconds: float) -> None:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            time.sleep(0.005)  # threads of the one before stop spinning
            begin = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begin))
    base = times.get("PyTorch eager") or times["jit"]
    for name, found in times.items():
        low, median, high = statistics.quantiles(found, n=4)
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        print(f"{name:32} {median:7.1f} ms ({low:.1f}-{high:.1f})  {ratio:.2f} of the first line")


def peaks(folder: Path) -> None:
    for runtime in ("jit", "fused", "onnx", "openvino"):
        where = {"file" if runtime in FORMATS else "cache": str(folder / runtime)}
        if runtime in FORMATS:
            where["file"] += formats.get(runtime).suffix
        job = worker.Job(network={}, runtime=runtime, dtype="float32", **where)
        in_a_process(dataclasses.replace(job, write=True))
        print(runtime, in_a_process(dataclasses.replace(job, seconds=1.0))[:400])


def in_a_process(job: worker.Job) -> str:
    import json

    command = [sys.executable, "-m", "squeezetime_jax.bench.worker"]
    command.append(json.dumps(dataclasses.asdict(job)))
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.memory:
            peaks(folder)
            return
        model = SqueezeTime(SqueezeTimeConfig.k400(), nnx.Rngs(0))
        model.eval()
        shape = (args.batch, 16, 224, 224, 3)
        clips = np.random.default_rng(0).standard_normal(shape, np.float32)
        runs: dict[str, Run] = {}
        for make in (lambda: twins(clips, folder), lambda: exported(model, clips, folder)):
            try:
                runs.update(make())
            except (ImportError, UserError) as error:
                print(f"left out: {error}")
        runs.update(ours(model, clips))
        print(f"batch {args.batch}, {THREADS} threads, {os.cpu_count()} cores", flush=True)
        interleaved(runs, args.seconds)


if __name__ == "__main__":
    main()
