"""Measures one network in one runtime, in a process of its own.

A process of its own shows its own memory, and what one runtime leaves behind slows no other down.
`benchmark_command` starts it: a job as JSON in, a result as JSON out.
"""

import dataclasses
import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from squeezetime_jax.compilation import inference_options, use_compilation_cache
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import formats
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import export
from squeezetime_jax.machine import give_back_memory
from squeezetime_jax.model.abstract import abstract_model
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.fused import fuse, logits
from squeezetime_jax.model.squeezetime import SqueezeTime

Run = Callable[[Any], Any]

_WARM_UP = 3
_LEAST_RUNS = 5
_CALIBRATION_CLIPS = 4
_MAX_BATCH = {"cpu": 16}
_MAX_BATCH_ELSEWHERE = 1024
_WORTH_WHILE = 1.03  # the throughput of a batch over that of half of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure.

    Attributes:
      network: fields of `SqueezeTimeConfig` that differ from the released network's.
      runtime: "jit", the network as it is trained; "fused"; or a format of `squeezetime export`.
      dtype: what it computes in.
      height: of the clips, in pixels.
      width: of the clips, in pixels.
      seconds: spent on each measurement.
      file: the exported file, where the runtime opens one.
      cache: folder of compiled programs, where the runtime is JAX.
      write: only write that file, or compile into that folder.
    """

    network: dict[str, Any]
    runtime: str
    dtype: str
    height: int = 224
    width: int = 224
    seconds: float = 3.0
    file: str = ""
    cache: str = ""
    write: bool = False

    @property
    def config(self) -> SqueezeTimeConfig:
        """Of the network."""
        own = {"dtype": self.dtype} if self.dtype == "bfloat16" and not self.file else {}
        return SqueezeTimeConfig.k400(**{**self.network, **own})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured.

    Attributes:
      milliseconds: of one clip, median.
      spread: a quarter of the runs took less than the first of these milliseconds, a quarter more
        than the second.
      runs: how many there were.
      throughput: (batch, clips a second) from medians, batches doubling until it stops paying.
      peak_mib: the most memory from loading the weights to scoring one clip again and again, over
        what the imports took; None where the system does not tell.
      first_seconds: from weights and the compiled program, or from the exported file, to the first
        answer.
      device: what computed.
    """

    milliseconds: float
    spread: tuple[float, float]
    runs: int
    throughput: list[tuple[int, float]]
    peak_mib: float | None
    first_seconds: float
    device: str


def measure(job: Job) -> Result:
    """Measure; memory first, while nothing but one clip has been scored.

    Raises:
      UserError: the runtime is not installed, or does not compute in the type.
    """
    _import(job)
    before = _forget_peak()
    run, is_fixed, seconds = _open(job)
    give_back_memory()  # as `squeezetime predict` does
    clip = _clips(job, 1)
    begin = time.perf_counter()
    run(clip)
    first = seconds + time.perf_counter() - begin
    for _ in range(_WARM_UP):
        run(clip)
    peak = _peak_over(before)
    times = _times(run, clip, job.seconds)
    low, median, high = statistics.quantiles(times, n=4)
    return Result(
        milliseconds=1e3 * median,
        spread=(1e3 * low, 1e3 * high),
        runs=len(times),
        throughput=[(1, 1 / median)] if is_fixed else _sweep(job, run, 1 / median),
        peak_mib=peak,
        first_seconds=first,
        device=_device(job),
    )


def write(job: Job) -> None:
    """Write the job's file or program, with random weights: they do not change the speed."""
    if not job.file:
        run, _, _ = _open(job)
        run(_clips(job, 1))
        return
    shape = (_CALIBRATION_CLIPS, job.config.num_frames, job.height, job.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    export(
        _network(job.config),
        job.file,
        format=job.runtime,
        dtype=job.dtype,
        height=job.height,
        width=job.width,
        calibration=noise if job.dtype == "int8" else None,
    )


def _network(config: SqueezeTimeConfig) -> SqueezeTime:
    """A network with weights of NumPy's: JAX's draws would leave their own memory behind."""
    model = abstract_model(config)
    model.eval()
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        draw = rng.standard_normal(leaf.shape, np.float32)
        value = (
            np.ones_like(draw) if path[-1] in ("scale", "var") else draw / (1 + draw.size) ** 0.5
        )
        leaf.set_value(value.astype(leaf.dtype))
    return model


def _open(job: Job) -> tuple[Run, bool, float]:
    """What scores normalised clips; whether it takes one only; and the seconds that it took."""
    if job.file:
        begin = time.perf_counter()
        runtime = open_runtime(job.file)
        seconds = time.perf_counter() - begin
        return runtime.run, runtime.manifest.batch == 1, seconds
    model = _network(job.config)
    weights: Any
    if job.runtime == "fused":
        network: Callable[[Any, Any], Any] = logits
        weights = fuse(model, place=jax.device_put)
    else:
        graph, state = nnx.split(model)
        weights = jax.device_put(state)
        network = functools.partial(_plain, graph)
    compiled = jax.jit(network, compiler_options=dict(inference_options()))
    return lambda clips: jax.block_until_ready(compiled(weights, clips)), False, 0.0


def _plain(graph: Any, state: Any, clips: Any) -> Any:
    return nnx.merge(graph, state)(clips)


def _clips(job: Job, batch: int) -> Any:
    """Normalised clips, where the network takes them from."""
    frames = job.config.num_frames
    shape: tuple[int, ...] = (batch, frames, job.height, job.width, 3)
    if job.file:
        shape = (batch, job.height, job.width, 3 * frames)
    clips: Float[np.ndarray, ...] = np.random.default_rng(0).standard_normal(shape, np.float32)
    return clips if job.file else jax.device_put(clips)


def _times(run: Run, clips: Any, seconds: float) -> list[float]:
    for _ in range(_WARM_UP):
        run(clips)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < end:
        begin = time.perf_counter()
        run(clips)
        times.append(time.perf_counter() - begin)
    return times


def _sweep(job: Job, run: Run, alone: float) -> list[tuple[int, float]]:
    """Throughput of doubling batches, until it stops paying or memory ends."""
    found = [(1, alone)]
    limit = _MAX_BATCH.get(jax.default_backend(), _MAX_BATCH_ELSEWHERE)
    while (batch := 2 * found[-1][0]) <= limit:
        try:
            rate = batch / statistics.median(_times(run, _clips(job, batch), job.seconds))
        except (MemoryError, RuntimeError):  # XLA tells the end of memory by the latter
            break
        found.append((batch, rate))
        if rate < _WORTH_WHILE * found[-2][1]:
            break
    return found


def _device(job: Job) -> str:
    device = jax.devices()[0]
    return "cpu" if job.file and job.runtime != "stablehlo" else device.device_kind


def _import(job: Job) -> None:
    """Load the runtime, whose code is no part of what a network takes."""
    if job.file:
        format = formats.get(job.runtime)
        format.require(to_open=not job.write)
        importlib.import_module(format.runtime)
    if job.cache:
        use_compilation_cache(job.cache)
    jax.devices()


def _status(name: str) -> float | None:
    """MiB of a line of Linux's account of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _forget_peak() -> float | None:
    """MiB that are taken now; the peak counts from here on. None where the system cannot tell."""
    give_back_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS:")


def _peak_over(before: float | None) -> float | None:
    """MiB at the most, over `before`; on an accelerator, those of its memory."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20 or None
    peak = _status("VmHWM:")
    return None if peak is None or before is None else peak - before


def main() -> None:
    """A job on the command line, a result or an error on standard output."""
    job = Job(**json.loads(sys.argv[1]))
    try:
        answer = {}
        if job.write:
            _import(job)
            write(job)
        else:
            answer = dataclasses.asdict(measure(job))
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
