"""Measures one network in one runtime, in a process of its own.

A process of its own shows its own memory, and what one runtime leaves behind slows no other down.
`squeezetime bench` starts it twice for each job: once to write the exported file or to compile, and
once to measure, when told to: the runtimes of a network take turns.
"""

import dataclasses
import functools
import importlib
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from squeezetime_jax.bench import networks
from squeezetime_jax.compilation import inference_options, use_compilation_cache
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import export
from squeezetime_jax.machine import available_cpus, give_back_memory
from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.fused import fuse, logits
from squeezetime_jax.peers import registry

Run = Callable[[Any], Any]

_WARM_UP = 3
_MIN_RUNS = 5
_CALIBRATION_CLIPS = 4
_MAX_BATCH = {"cpu": 16}
_MAX_BATCH_ELSEWHERE = 1024
_MIN_GAIN = 1.03  # the throughput of a batch over that of half of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure.

    Attributes:
      network: "NAME" or "NAME:FIELD=VALUE,...".
      runtime: "jit", the network as it is trained; "fused"; "torch", a module of PyTorch that a
        script makes; or a format of `squeezetime export`.
      dtype: type that it computes in.
      height: of the clips, in pixels.
      width: of the clips, in pixels.
      seconds: spent on each measurement.
      max_batch: the largest batch that throughput is measured with; None: 16 on CPUs.
      script: for "torch", a file with `build(network, clip) -> (module, input)`, where the clip is
        (frames, height, width); None where it has not the network.
    """

    network: str
    runtime: str
    dtype: str
    height: int
    width: int
    seconds: float = 3.0
    max_batch: int | None = None
    script: str = ""

    @property
    def is_exported(self) -> bool:
        """Whether an exported file is measured, and not a program of JAX's."""
        return self.runtime in FORMATS

    @property
    def config(self) -> NetworkConfig:
        """Of the network; exported files have their own type."""
        config = networks.parse(self.network)
        is_bfloat16 = self.dtype == "bfloat16" and not self.is_exported
        return dataclasses.replace(config, dtype="bfloat16" if is_bfloat16 else config.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured.

    Attributes:
      milliseconds: of one clip, median.
      spread: first and third quartile of these milliseconds.
      runs: how many there were.
      throughput: (batch, clips a second) from medians; batches double until that gains little.
      peak_mib: peak of memory from loading the weights to scoring one clip again and again, over
        what the imports took; None where the system does not say.
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


def prepare(job: Job, path: str) -> None:
    """Write the exported file, or compile into the cache; random weights do not change the speed.

    Raises:
      UserError: the network cannot be exported.
    """
    if not job.is_exported:
        if job.runtime != "torch":
            use_compilation_cache()
        run, _, _ = _open(job, path)
        run(_clips(job, 1))
        return
    shape = (_CALIBRATION_CLIPS, job.config.num_frames, job.height, job.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    export(
        _network(job.config),
        path,
        format=job.runtime,
        dtype=job.dtype,
        height=job.height,
        width=job.width,
        calibration=noise if job.dtype == "int8" else None,
    )


class Measurement:
    """A network that is loaded in its runtime and has scored one clip again and again.

    Memory is measured first, while nothing but one clip has been scored.

    Args:
      job: what to measure.
      path: the exported file, as `prepare` left it.

    Attributes:
      peak_mib: as of `Result`.
      first_seconds: as of `Result`.
      device: as of `Result`.
    """

    def __init__(self, job: Job, path: str):
        if job.is_exported:  # the code of a runtime is not counted as memory of the network
            importlib.import_module(formats.get(job.runtime).runtime)
        elif job.runtime == "torch":
            importlib.import_module("torch")
        else:
            use_compilation_cache()
        jax.devices()
        before = _reset_peak()
        self._job = job
        self._run, self._is_fixed, seconds = _open(job, path)
        give_back_memory()  # as `squeezetime predict` does
        self._clip = _clips(job, 1)
        begin = time.perf_counter()
        self._run(self._clip)
        self.first_seconds = seconds + time.perf_counter() - begin
        for _ in range(_WARM_UP):
            self._run(self._clip)
        self.peak_mib = _peak_over(before)
        on_cpu = job.runtime == "torch" or (job.is_exported and job.runtime != "stablehlo")
        self.device = "cpu" if on_cpu else jax.devices()[0].device_kind

    def times(self, seconds: float) -> list[float]:
        """Seconds of one clip, again and again."""
        return _times(self._run, self._clip, seconds, warm_up=1, min_runs=1)

    def throughput(self, single: float) -> list[tuple[int, float]]:
        """(batch, clips a second), given those of one clip."""
        return [(1, single)] if self._is_fixed else _sweep(self._job, self._run, single)


def result_of(
    times: Sequence[float],
    throughput: Sequence[Sequence[int | float]],
    *,
    peak_mib: float | None,
    first_seconds: float,
    device: str,
) -> Result:
    """The result of a measurement whose times were taken in turns."""
    low, median, high = (1e3 * quartile for quartile in statistics.quantiles(times, n=4))
    return Result(
        milliseconds=median,
        spread=(low, high),
        runs=len(times),
        throughput=[(int(batch), rate) for batch, rate in throughput],
        peak_mib=peak_mib,
        first_seconds=first_seconds,
        device=device,
    )


def _network(config: NetworkConfig) -> Any:
    """A network with weights of NumPy's: JAX's draws would leave their own memory behind."""
    model = registry.abstract(config)
    model.eval()
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        draw = rng.standard_normal(leaf.shape, np.float32)
        value = (
            np.ones_like(draw) if path[-1] in ("scale", "var") else draw / (1 + draw.size) ** 0.5
        )
        leaf.set_value(value.astype(leaf.dtype))
    return model


def _open(job: Job, path: str) -> tuple[Run, bool, float]:
    """What scores normalised clips; whether it takes one clip only; the seconds of opening it."""
    if job.is_exported:
        begin = time.perf_counter()
        runtime = open_runtime(path)
        seconds = time.perf_counter() - begin
        return runtime.run, runtime.manifest.batch == 1, seconds
    if job.runtime == "torch":
        return _open_torch(job), True, 0.0
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


def _open_torch(job: Job) -> Run:
    """A module of the script, eager, without gradients; its clip is its own.

    Raises:
      UserError: the script does not have the network.
    """
    import torch

    made = runpy.run_path(job.script)["build"](
        job.network, (job.config.num_frames, job.height, job.width)
    )
    if made is None:
        raise UserError(f"{job.script} does not build {job.network}")
    module, clip = made
    module.eval()
    torch.set_num_threads(available_cpus())

    def run(_: Any) -> Any:
        with torch.no_grad():
            return module(clip)

    return run


def _plain(graph: Any, state: Any, clips: Any) -> Any:
    return nnx.merge(graph, state)(clips)


def _clips(job: Job, batch: int) -> Any:
    """Normalised clips, where the network reads them."""
    frames = job.config.num_frames
    shape: tuple[int, ...] = (batch, frames, job.height, job.width, 3)
    if job.is_exported:
        shape = (batch, job.height, job.width, 3 * frames)
    clips: Float[np.ndarray, ...] = np.random.default_rng(0).standard_normal(shape, np.float32)
    return clips if job.is_exported else jax.device_put(clips)


def _times(
    run: Run, clips: Any, seconds: float, *, warm_up: int = _WARM_UP, min_runs: int = _MIN_RUNS
) -> list[float]:
    for _ in range(warm_up):
        run(clips)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < min_runs or time.perf_counter() < end:
        begin = time.perf_counter()
        run(clips)
        times.append(time.perf_counter() - begin)
    return times


def _sweep(job: Job, run: Run, single: float) -> list[tuple[int, float]]:
    """Throughput of doubling batches, until that gains little or memory is exhausted."""
    found = [(1, single)]
    limit = job.max_batch or _MAX_BATCH.get(jax.default_backend(), _MAX_BATCH_ELSEWHERE)
    while (batch := 2 * found[-1][0]) <= limit:
        try:
            rate = batch / statistics.median(_times(run, _clips(job, batch), job.seconds))
        except (MemoryError, RuntimeError):  # XLA raises the latter when memory is exhausted
            break
        found.append((batch, rate))
        if rate < _MIN_GAIN * found[-2][1]:
            break
    return found


def _status(name: str) -> float | None:
    """MiB of a line of `/proc/self/status`, which Linux has."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), None)


def _reset_peak() -> float | None:
    """MiB in use now, from which the peak counts; None where the system does not say."""
    give_back_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS:")


def _peak_over(before: float | None) -> float | None:
    """Peak in MiB over `before`; on an accelerator, of its memory."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20 or None
    peak = _status("VmHWM:")
    return None if peak is None or before is None else peak - before


def main() -> None:
    """`prepare|measure PATH JOB`: a job as JSON in, results or an error as lines of JSON out.

    A measurement answers with what it found while loading; then, for each line of its input, a
    number of seconds, with the times of so many; and after "sweep RATE" with the throughput.
    """
    task, path, fields = sys.argv[1:]
    job = Job(**json.loads(fields))
    try:
        if task == "prepare":
            prepare(job, path)
            _say({})
            return
        found = Measurement(job, path)
    except UserError as error:
        _say({"error": str(error)})
        return
    names = ("peak_mib", "first_seconds", "device")
    _say({name: getattr(found, name) for name in names})
    for line in sys.stdin:
        word, _, rate = line.partition(" ")
        _say(found.throughput(float(rate)) if word == "sweep" else found.times(float(word)))


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
