"""One clip in each exported file, beside the PyTorch twin: medians of interleaved runs.

    python experiments/bench_exports.py --folder exports [--seconds 40]

Writes the full-size network in the formats and types below into the folder, unless they are there,
and then measures them at 16x224x224 on two threads. int8 is calibrated on noise, which changes what
it computes and not how fast.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import bench_inference
import numpy as np
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.export import formats
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import export

FILES = {
    "openvino": ("float32", "bfloat16", "int8"),
    "onnx": ("float32", "int8"),
    "litert": ("float32", "int8"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=40.0)
    args = parser.parse_args()
    clips = np.random.default_rng(0).integers(0, 256, (4, 16, 224, 224, 3), np.uint8)
    runs = {"PyTorch eager": eager(clips[:1])}
    for name, dtypes in FILES.items():
        for dtype in dtypes:
            runtime = open_runtime(written(args.folder, name, dtype, clips), threads=2)
            packed = runtime.manifest.pack(clips[:1])
            runs[f"{name}, {dtype}"] = lambda run=runtime.run, packed=packed: run(packed)
    if args.seconds:
        bench_inference.interleaved(runs, args.seconds)


def written(folder, format, dtype, clips):
    path = folder / f"network-{dtype}{formats.get(format).suffix}"
    if not path.exists():
        model = SqueezeTime(SqueezeTimeConfig.k400(), nnx.Rngs(0))
        model.eval()
        export(model, path, format=format, dtype=dtype, calibration=clips)
    return path


def eager(clip):
    import torch
    from torch_twin import Twin

    torch.set_num_threads(2)
    twin = Twin(SqueezeTimeConfig.k400()).eval()
    pixels = torch.from_numpy(clip.transpose(0, 4, 1, 2, 3).astype(np.float32) / 58 - 2)

    def run():
        with torch.inference_mode():
            return twin(pixels)

    return run


if __name__ == "__main__":
    main()
