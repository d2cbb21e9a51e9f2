"""Benchmarks of the network: a training step, a clip in every runtime, the error of exports."""

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.commands import TESTS
from benchmarks.measuring import Found, interleaved, show, timed
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.compilation import inference_options
from squeezetime_jax.data.augment import NONE, Augmentation, augment
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import formats
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import export
from squeezetime_jax.model.fused import ACCELERATOR, CPU, EXPORT, Form, fuse, logits
from squeezetime_jax.tasks.recognition.experiment import Data, Recognition
from squeezetime_jax.tasks.recognition.task import Recognition as Task
from squeezetime_jax.training import devices
from squeezetime_jax.training.step import Trainer

Call = Callable[[], object]
EAGER = "PyTorch eager"
FILES = {
    "openvino": ("float32", "bfloat16", "int8"),
    "onnx": ("float32", "int8"),
    "litert": ("float32", "int8"),
}
_PAUSE = 0.005  # seconds in which the threads of the runtime before stop spinning

sys.path.insert(0, str(TESTS))


def train(args: argparse.Namespace) -> None:
    """A training step, beside PyTorch's."""
    measure(
        (lambda: {"ours": our_step(args, NONE)}, lambda: {"PyTorch": torch_step(args)}),
        args,
        {"ms a clip": 1e3 / args.batch},
        "PyTorch",
    )


def augmentation(args: argparse.Namespace) -> None:
    """The augmentation on the device, alone and as a share of a training step."""
    batch = jax.device_put(_batch(args))
    compiled = jax.jit(augment, static_argnums=(3, 4))

    def alone(what: Augmentation) -> Call:
        words = (jax.random.key(0), batch["clips"], batch["labels"], what, jnp.dtype(args.dtype))
        return lambda: jax.block_until_ready(compiled(*words))

    runs = {
        "normalise": alone(NONE),
        "augment": alone(Augmentation()),
        "step, normalise": our_step(args, NONE),
        "step, augment": our_step(args, Augmentation()),
    }
    found = measure([lambda: runs], args, {"ms": 1e3}, "step, augment")
    ms = {name: statistics.median(figures[:, 0]) for name, figures in found.items()}
    share = 1 - ms["step, normalise"] / ms["step, augment"]
    parts = (ms["augment"] - ms["normalise"]) / ms["step, augment"]
    print(f"share of a step: {share:.1%} (from the parts alone: {parts:.1%})")


def inference(args: argparse.Namespace) -> None:
    """A clip in JAX in every form, and in ONNX Runtime and OpenVINO on our graph and PyTorch's."""
    model = _model(SqueezeTimeConfig.k400())
    clips = _clips(args.batch, args.side)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers = (
            lambda: {EAGER: torch_network(clips, args.threads)},
            lambda: torch_graph(clips, folder, args.threads),
            lambda: {
                f"{name}, our graph": exported(model, folder, name, "float32", clips, args.threads)
                for name in ("onnx", "openvino")
            },
            lambda: jax_forms(model, clips),
        )
        measure(makers, args, {"ms": 1e3}, EAGER)


def exports(args: argparse.Namespace) -> None:
    """A clip in each exported file, beside PyTorch; files in `--folder` are written once.

    int8 is calibrated on noise, which changes the result and not the speed.
    """
    model = _model(SqueezeTimeConfig.k400())
    clips = _clips(1, args.side)

    def maker(name: str, dtype: str) -> Mapping[str, Call]:
        file = exported(model, args.folder, name, dtype, clips, args.threads)
        return {f"{name}, {dtype}": file}

    files = [functools.partial(maker, name, dtype) for name in FILES for dtype in FILES[name]]
    eager = {EAGER: torch_network(clips, args.threads)}
    measure([lambda: eager, *files], args, {"ms": 1e3}, EAGER)


def export_errors(args: argparse.Namespace) -> None:
    """The largest difference of a logit over the largest logit, for widths and frames.

    The weights are random, and so are the statistics of batch norm, so that no folding is trivial.
    """
    for width in args.widths:
        for num_frames in args.frames:
            begin = time.monotonic()
            model = _model(SqueezeTimeConfig(width=width, num_frames=num_frames))
            found = []
            for name in args.formats:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"network{formats.get(name).suffix}"
                    report = export(model, path, format=name, height=args.side, width=args.side)
                found.append(f"{name} {report.check.relative:.1e}")
            what = f"width {width:<4} {num_frames:>2} frames, {args.side} x {args.side}"
            print(what, *found, f"({time.monotonic() - begin:.0f} s)", sep="  ", flush=True)


def measure(
    makers: Iterable[Callable[[], Mapping[str, Call]]],
    args: argparse.Namespace,
    columns: Mapping[str, float],
    baseline: str,
) -> Found:
    """Measure the calls of all makers by turns; what is not installed is left out and named."""
    calls: dict[str, Call] = {}
    for make in makers:
        try:
            calls.update(make())
        except (ImportError, UserError) as error:
            print(f"left out: {error}")
    given = ", ".join(f"{name} {value}" for name, value in vars(args).items() if name != "what")
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores; {given}", flush=True)
    found = interleaved({name: timed(call, _PAUSE) for name, call in calls.items()}, args.rounds)
    show(found, columns, baseline)
    return found


def our_step(args: argparse.Namespace, augmentation: Augmentation) -> Call:
    """A training step on a batch that is on the devices."""
    data = Data(train="motion", crop="center", crop_size=args.side, short_side=args.side)
    run = Recognition(
        batch_size=args.batch, model=_config(args), data=data, augmentation=augmentation
    )
    mesh = devices.data_mesh()
    trainer = Trainer(Task(run), mesh, steps_per_epoch=100)
    step, key, state = trainer.compile_step(), trainer.key(), trainer.new_state()
    batch = jax.device_put(_batch(args), devices.split_batch(mesh))

    def call() -> None:
        nonlocal state
        state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)

    return call


def torch_step(args: argparse.Namespace) -> Call:
    """The same step of the PyTorch twin: forward, backward, clip, decay, momentum."""
    import torch
    from torch_twin import Twin

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    twin = Twin(_config(args)).train().to(device)
    half = args.dtype == "bfloat16"
    if half:
        twin = twin.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9, weight_decay=7e-5)
    batch = _batch(args)
    clips = torch.from_numpy(_channels_first(batch["clips"])).to(device)
    labels = torch.from_numpy(batch["labels"]).long().to(device)

    def call() -> None:
        sgd.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            scores = twin(clips)
        loss = torch.nn.functional.cross_entropy(scores.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 40)
        sgd.step()
        loss.item()

    return call


def jax_forms(model: SqueezeTime, clips: np.ndarray) -> Mapping[str, Call]:
    """The network as it is trained, fused, and in the forms that were weighed against it."""
    pixels = jax.device_put(_normalised(clips))
    options = dict(inference_options())

    def compiled(network: Callable, weights: object, options: dict = options) -> Call:
        program = jax.jit(network, compiler_options=options).lower(weights, pixels).compile()
        return lambda: jax.block_until_ready(program(weights, pixels))

    def form(form: Form, options: dict = options) -> Call:
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


def exported(
    model: SqueezeTime, folder: Path, name: str, dtype: str, clips: np.ndarray, threads: int
) -> Call:
    """An exported file in its runtime; written unless it is there."""
    side = clips.shape[2]
    path = folder / f"network-{side}-{dtype}{formats.get(name).suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        noise = _clips(4, side) if dtype == "int8" else None
        size = {"height": side, "width": side}
        export(model, path, format=name, dtype=dtype, calibration=noise, **size)
    runtime = open_runtime(path, threads=threads)
    packed = runtime.manifest.pack(clips)
    return lambda: runtime.run(packed)


def torch_network(clips: np.ndarray, threads: int) -> Call:
    """The PyTorch twin of the authors' network, in eager mode."""
    twin, pixels, torch = _twin(clips)
    torch.set_num_threads(threads)

    def call() -> object:
        with torch.inference_mode():
            return twin(pixels)

    return call


def torch_graph(clips: np.ndarray, folder: Path, threads: int) -> Mapping[str, Call]:
    """The twin's ONNX graph in ONNX Runtime and OpenVINO."""
    import onnxruntime
    import openvino

    twin, pixels, torch = _twin(clips)
    file, inputs = str(folder / "twin.onnx"), {"clip": pixels.numpy()}
    torch.onnx.export(twin, (pixels,), file, dynamo=False, opset_version=17, input_names=["clip"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    network = openvino.Core().compile_model(file, "CPU", settings)
    return {
        "ONNX Runtime, the twin's graph": lambda: session.run(None, inputs),
        "OpenVINO, the twin's graph": lambda: network(inputs["clip"]),
    }


def _twin(clips: np.ndarray) -> tuple[Any, Any, Any]:
    """The twin, its clips, and PyTorch."""
    import torch
    from torch_twin import Twin

    return Twin(SqueezeTimeConfig.k400()).eval(), torch.from_numpy(_channels_first(clips)), torch


def _model(config: SqueezeTimeConfig) -> SqueezeTime:
    """A network with random weights and random statistics of batch norm."""
    model = SqueezeTime(config, nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("mean", "var"):
            values = rng.uniform(0.7, 1.3, leaf.shape) - (path[-1] == "mean")
            leaf.set_value(jnp.asarray(values, jnp.float32))
    model.eval()
    return model


def _config(args: argparse.Namespace) -> SqueezeTimeConfig:
    fields = {"depth": args.depth, "width": args.width, "dtype": args.dtype}
    return SqueezeTimeConfig(**fields, dropout=0.0, bn_group_size=None)


def _batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
    labels = np.random.default_rng(0).integers(0, 400, args.batch).astype(np.int32)
    return {"clips": _clips(args.batch, args.side), "labels": labels}


def _clips(batch: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 16, side, side, 3), np.uint8)


def _normalised(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.float32) / 64 - 2


def _channels_first(clips: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(_normalised(clips), -1, 1))
