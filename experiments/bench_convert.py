"""Time and memory of converting full-size weights, beside reading them with `torch.load`.

    python experiments/bench_convert.py [--rounds 5]

Each round runs in processes of their own, by turns: import of a `.pth` (50 layers, width 1, 400
classes, 119 MB) into a network, export of the network, what `squeezetime convert` does (file to
checkpoint directory, and back), and the baseline, `torch.load(weights_only=True)` followed by
`load_state_dict` into the same network in PyTorch (`tests/torch_twin.py`), where it is installed.
Imports of libraries are outside the measurement. Memory is the peak resident size while
converting above that of the process with its libraries alone, so the network itself counts, on
the way out too. Targets: conversion under 5 s and under 3x the file.
"""

import argparse
import importlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def write_full_size(path: Path) -> None:
    import numpy as np

    from squeezetime_jax import SqueezeTimeConfig
    from squeezetime_jax.checkpoint.torch_file import write_torch_file
    from squeezetime_jax.checkpoint.torch_names import full_name, rows
    from squeezetime_jax.model.abstract import abstract_model, flat_leaves

    random = np.random.default_rng(0)
    config = SqueezeTimeConfig()
    leaves = flat_leaves(abstract_model(config))
    state_dict = {}
    for row in rows(config, leaves):
        shape = row.layout.released_shape(leaves[row.path].shape) if row.layout else ()
        array = random.standard_normal(shape, np.float32) if row.layout else np.zeros((), np.int64)
        state_dict[full_name(row.name)] = array
    write_torch_file(path, {"state_dict": state_dict})


def prepare_import(path: Path) -> Callable[[], object]:
    import jax

    from squeezetime_jax.checkpoint.convert import from_torch_file

    return lambda: jax.block_until_ready(from_torch_file(path)[0].head.classifier.kernel[...])


def prepare_export(path: Path) -> Callable[[], object]:
    from squeezetime_jax.checkpoint.convert import from_torch_file, to_torch_file

    model, _ = from_torch_file(path)
    return lambda: to_torch_file(path.with_name("export.pth"), model)


def prepare_torch(path: Path) -> Callable[[], object]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import torch
    from torch_twin import Twin

    from squeezetime_jax import SqueezeTimeConfig

    def load() -> None:
        twin = Twin(SqueezeTimeConfig())
        twin.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)

    return load


def prepare_convert(path: Path) -> Callable[[], object]:
    from squeezetime_jax.checkpoint.store import convert_checkpoint

    return lambda: convert_checkpoint(path, tempfile.mkdtemp(dir=path.parent))


def prepare_back(path: Path) -> Callable[[], object]:
    from squeezetime_jax.checkpoint.store import convert_checkpoint

    folder = tempfile.mkdtemp(dir=path.parent)
    code = "import sys; from squeezetime_jax.checkpoint.store import convert_checkpoint as convert"
    command = [sys.executable, "-c", f"{code}; convert(*sys.argv[1:])", str(path), folder]
    subprocess.run(command, check=True)
    return lambda: convert_checkpoint(folder, path.with_name("back.pth"))


PREPARE = {
    "import": prepare_import,
    "export": prepare_export,
    "convert": prepare_convert,
    "back": prepare_back,
    "torch": prepare_torch,
}


def measure(name: str, path: Path) -> None:
    """One measurement, printed as JSON: seconds, CPU seconds, bytes."""
    libraries = {"torch": ["torch"]}.get(name, ["orbax.checkpoint"])
    for library in ["squeezetime_jax.checkpoint.store", *libraries]:
        importlib.import_module(library)
    sys.modules["jax"].devices()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run = PREPARE[name](path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    start, cpu = time.perf_counter(), time.process_time()
    result = run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps([seconds, cpu, peak - before]))
    del result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]))
        return

    names = [n for n in PREPARE if n != "torch" or importlib.util.find_spec("torch")]
    results: dict[str, list[list[float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full.pth"
        write_full_size(path)
        size = path.stat().st_size
        for _ in range(args.rounds):
            for name in names:
                command = [sys.executable, __file__, "--measure", name, str(path)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results[name].append(json.loads(done.stdout))
    print(f"file: {size / 1e6:.1f} MB; medians of {args.rounds} rounds")
    baseline = statistics.median(r[0] for r in results.get("torch", [[float("nan")]]))
    for name, rounds in results.items():
        seconds, cpu, peak = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{name:10s} {seconds:6.2f} s ({seconds / baseline:4.1f}x torch)  {cpu:6.2f} s CPU  "
            f"{peak / size:5.2f}x the file in memory"
        )


if __name__ == "__main__":
    main()
