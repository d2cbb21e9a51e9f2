"""Measure speed, memory and precision on this machine.

    python experiments/bench.py WHAT [options]

Each WHAT takes turns between its candidates and prints the median, the middle half and the ratio
to a baseline; with what is not installed left out. `squeezetime bench` measures any network in any
runtime, each in a process of its own.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import at_least

# Module and function in `benchmarks/`, rounds by default, and what is measured.
WHATS = {
    "import": ("commands", "imports", 11, "importing the package, beside Flax NNX"),
    "convert": ("commands", "convert", 5, "converting full-size weights, beside torch.load"),
    "predict": ("commands", "predict", 5, "`squeezetime predict` from the command to the answer"),
    "data": ("data", "data", 30, "training clips and test views, beside mmaction2"),
    "film": ("films", "film", 30, "a clip of a two-hour film, beside one of a ten-second video"),
    "augment": ("networks", "augmentation", 5, "the augmentation, as a share of a training step"),
    "train": ("networks", "train", 5, "a training step, beside PyTorch"),
    "inference": ("networks", "inference", 30, "a clip in JAX and other runtimes, beside PyTorch"),
    "exports": ("networks", "exports", 30, "a clip in each exported file, beside PyTorch"),
    "export-errors": ("networks", "export_errors", 1, "the largest error of exported networks"),
    "compile": ("topologies", "compile_all", 1, "memory and operations on TPUs that are not here"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whats = top.add_subparsers(dest="what", required=True, metavar="WHAT")
    add = {}
    for name, (module, _, rounds, summary) in WHATS.items():
        sub = whats.add_parser(name, help=summary, description=summary)
        add[name] = sub.add_argument
        sub.add_argument("--rounds", type=at_least(1), default=rounds)
        if module == "networks":
            sub.add_argument("--side", type=at_least(32), default=224, help="of a clip, in pixels")
    add["predict"]("--checkpoint", help="default: a full-size one with random weights")
    add["predict"]("--video", help="default: ten seconds of 340 x 256 pixels")
    add["data"]("videos", nargs="+", metavar="VIDEO")
    add["data"]("--reference-python", metavar="PYTHON", help="of an environment with mmaction2")
    add["film"]("--minutes", type=at_least(1), default=120, help="of the film")
    for name in ("augment", "train"):
        add[name]("--batch", type=at_least(1), default=8)
        add[name]("--depth", type=int, default=50)
        add[name]("--width", type=float, default=1.0)
        add[name]("--dtype", choices=("float32", "bfloat16"), default="float32")
    for name in ("inference", "exports"):
        add[name]("--threads", type=at_least(1), default=2)
    add["inference"]("--batch", type=at_least(1), default=1)
    add["exports"]("--folder", type=Path, required=True, help="of the files; written once")
    add["export-errors"]("--widths", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.25])
    add["export-errors"]("--frames", type=int, nargs="+", default=[4, 8, 16, 32])
    formats = ["stablehlo", "onnx", "openvino", "litert"]
    add["export-errors"]("--formats", nargs="+", choices=formats, default=formats)
    # Of `benchmarks.topologies`, which is imported when it runs.
    add["compile"]("--out", type=Path, required=True, help="answers so far; others are added")
    add["compile"]("--configs", nargs="+", default=["k400", "ava21", "thumos14"])
    slices = ["v5e-8", "v5e-256", "2 x v5e-256", "v6e-8", "v5p-64"]
    add["compile"]("--slices", nargs="+", choices=slices, default=slices)
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Measure."""
    args = parser().parse_args(argv)
    # Read when PyTorch and the runtimes are imported, which the modules do.
    os.environ.setdefault("OMP_NUM_THREADS", str(getattr(args, "threads", os.cpu_count())))
    module, function, _, _ = WHATS[args.what]
    getattr(importlib.import_module(f"benchmarks.{module}"), function)(args)


if __name__ == "__main__":
    sys.exit(main())
