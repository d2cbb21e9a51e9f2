"""`squeezetime compile`: what the compiler says of a run, before there are devices for it.

The training step and the evaluation of a config are those of `train` and `eval`; nothing is trained
and no data are opened. Whether a program fits is the compiler's answer; how long it takes is an
estimate from published figures of the chip.
"""

import contextlib
import dataclasses
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich import console, progress

from squeezetime_jax.bench.chips import CHIPS, memory_of
from squeezetime_jax.data.workers import is_terminal
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.training import devices, runner
from squeezetime_jax.training.step import Trainer
from squeezetime_jax.training.task import Task

TRAINING = "training step"

# The learning rate's schedule has numbers that follow from the length of an epoch, and the data
# that give it need not be here.
_STEPS_PER_EPOCH = 1000
_MAX_TRIES = 4
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled program; all amounts are of one device.

    Attributes:
      name: what it computes.
      batch_size: clips, videos or whatever a call takes, on all devices together.
      fits: whether a device has the memory for it.
      seconds: that compiling took.
      memory: bytes that it needs; None: the compiler does not say.
      arguments: bytes of weights, batch and whatever else it is called with.
      outputs: bytes of results that do not take the place of arguments.
      temporaries: bytes of what it keeps while it runs.
      code: bytes of the program itself.
      flops: floating-point operations.
      bytes_accessed: bytes that its operations read and write, as the compiler counts them.
      collective_bytes: bytes that it gets from other devices.
      estimate: seconds at the chip's published rates: `compute` for its arithmetic, `memory` for
        reading and writing; None: the rates are not known.
    """

    name: str
    batch_size: int
    fits: bool
    seconds: float
    memory: int | None
    arguments: int | None = None
    outputs: int | None = None
    temporaries: int | None = None
    code: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    collective_bytes: int | None = None
    estimate: dict[str, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What the compiler says of a run.

    Attributes:
      device: kind of the devices.
      devices: how many there are.
      hosts: how many there are.
      device_memory: bytes of a device; None: not known.
      batch_size: of the config.
      programs: the training step with this batch, then those of the evaluation.
      nearest: the training step with the largest batch below it that fits, if it does not fit
        itself; None: none was found, or none is needed.
      notes: what is to be known of the numbers.
    """

    device: str
    devices: int
    hosts: int
    device_memory: int | None
    batch_size: int
    programs: list[Program]
    nearest: Program | None
    notes: list[str]


def compile_run(fields: ConfigDict, row: list[jax.Device], *, as_json: bool = False) -> int:
    """Compile a run's programs for devices, and print what they cost.

    Args:
      fields: as `training.config.read` returns them.
      row: the devices; this machine may lack them.
      as_json: print one JSON object instead of text.

    Returns:
      The exit status: 0 if all programs fit, else 1.

    Raises:
      UserError: a field is invalid, or the devices cannot share the batch.
    """
    found = examine(fields, row)
    print(json.dumps(dataclasses.asdict(found)) if as_json else as_text(found))
    return 0 if all(program.fits for program in found.programs) else 1


def examine(fields: ConfigDict, row: list[jax.Device]) -> Report:
    """Compile a run's programs for devices; see `compile_run`."""
    mesh = devices.data_mesh(devices=row)
    with tempfile.TemporaryDirectory() as folder:
        task = runner.open_task(fields, Path(folder))
    runner.check_batch(task, mesh)
    batch_size = task.experiment.batch_size
    step = _training_step(task, mesh)
    nearest = None if step.fits else _nearest(task, mesh, step)
    programs = [step]
    with _progress("tracing the evaluation"):
        evaluation = task.lower_evaluation(mesh)
    for name, lowered in evaluation.items():
        frames = next(x for x in jax.tree.leaves(lowered.in_avals) if x.dtype == jnp.uint8)
        programs.append(_compiled(name, frames.shape[0], lowered, mesh))
    parts = task.experiment.optimizer.accumulation
    notes = []
    if parts > 1:
        notes.append(
            f"optimizer.accumulation: operations, bytes and seconds of the training step are of one"
            f" of the {parts} parts of the batch"
        )
    return Report(
        device=mesh.devices.flat[0].device_kind,
        devices=mesh.size,
        hosts=len({device.process_index for device in row}),
        device_memory=memory_of(mesh.devices.flat[0], row),
        batch_size=batch_size,
        programs=programs,
        nearest=nearest,
        notes=notes,
    )


def _training_step(task: Task, mesh: Mesh) -> Program:
    with _progress(f"tracing the {TRAINING}"):
        lowered = Trainer(task, mesh, _STEPS_PER_EPOCH).lower_step()
    return _compiled(TRAINING, task.experiment.batch_size, lowered, mesh)


def _nearest(task: Task, mesh: Mesh, step: Program) -> Program | None:
    """The largest smaller batch that fits: guessed from the memory of one that does not, tried."""
    state = Trainer(task, mesh, _STEPS_PER_EPOCH).abstract_state()
    fixed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    limit = memory_of(mesh.devices.flat[0], list(mesh.devices.flat))
    for _ in range(_MAX_TRIES):
        size = step.batch_size - 1
        if step.memory is not None and limit is not None and step.memory > max(limit, fixed):
            size = int(step.batch_size * (limit - fixed) / (step.memory - fixed))
        smaller = _next_below(task, mesh, size)
        if smaller is None:
            return None
        step = _training_step(smaller, mesh)
        if step.fits:
            return step
    return None


def _next_below(task: Task, mesh: Mesh, size: int) -> Task | None:
    """The task with the largest batch of at most `size` clips that the devices can share."""
    for batch_size in range(size // mesh.size * mesh.size, 0, -mesh.size):
        other = dataclasses.replace(task.experiment, batch_size=batch_size)
        smaller = type(task)(other, task.folder)
        with contextlib.suppress(UserError):
            runner.check_batch(smaller, mesh)
            return smaller
    return None


def _compiled(name: str, batch_size: int, lowered: jax.stages.Lowered, mesh: Mesh) -> Program:
    """Compile a program and read what the compiler says of it."""
    begin = time.monotonic()
    device = mesh.devices.flat[0]
    title = f"compiling the {name} for {count(mesh.size, 'device')} ({device.device_kind})"
    with _progress(title):
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Program(
                name=name,
                batch_size=batch_size,
                fits=False,
                seconds=round(time.monotonic() - begin, 1),
                memory=_used(str(error)),
            )
    memory: Any = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": outputs,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    cost: Any = compiled.cost_analysis() or {}
    limit = memory_of(device, list(mesh.devices.flat))
    return Program(
        name=name,
        batch_size=batch_size,
        # What does not fit on a TPU does not compile.
        fits=device.platform == "tpu" or limit is None or sum(parts.values()) <= limit,
        seconds=round(time.monotonic() - begin, 1),
        memory=sum(parts.values()),
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        collective_bytes=devices.collective_bytes(compiled.as_text() or ""),
        estimate=_estimate(device.device_kind, cost),
        **parts,
    )


def _used(message: str) -> int | None:
    """Bytes that a program would need, from the compiler's refusal."""
    match = _USED.search(message)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None


def _estimate(kind: str, cost: Any) -> dict[str, float] | None:
    if kind not in CHIPS or "flops" not in cost or "bytes accessed" not in cost:
        return None
    chip = CHIPS[kind]
    return {
        "compute": cost["flops"] / chip.flops,
        "memory": cost["bytes accessed"] / chip.bandwidth,
    }


@contextlib.contextmanager
def _progress(title: str) -> Iterator[None]:
    """The seconds so far, on a terminal; elsewhere one line."""
    screen = console.Console(stderr=True, force_terminal=is_terminal(sys.stderr))
    if not screen.is_terminal:
        print(title, file=sys.stderr, flush=True)
        yield
        return
    columns = progress.SpinnerColumn(), progress.TextColumn(title), progress.TimeElapsedColumn()
    with progress.Progress(*columns, console=screen) as bar:
        bar.add_task(title, total=None)
        yield


def as_text(report: Report) -> str:
    """A report for people, as lines."""
    hosts = f" of {count(report.hosts, 'host')}" if report.hosts > 1 else ""
    lines = [f"{count(report.devices, 'device')}{hosts}: {report.device}"]
    for program in report.programs:
        lines += ["", *_lines(program, report)]
    if not report.programs[0].fits:
        lines += ["", *_advice(report)]
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def _lines(program: Program, report: Report) -> list[str]:
    limit = report.device_memory
    of = f" of {_gib(limit)}" if limit else ""
    verdict = "fits" if program.fits else "does not fit"
    lines = [
        f"{program.name}, batch of {program.batch_size:,} ({program.batch_size // report.devices}"
        f" a device), compiled in {program.seconds:.0f} s",
        f"  {verdict}: memory of a device {_gib(program.memory)}{of}",
    ]
    if program.arguments is None:
        return lines
    lines[-1] += (
        f" (arguments {_gib(program.arguments)}, outputs {_gib(program.outputs)}, temporaries"
        f" {_gib(program.temporaries)}, program {_gib(program.code)})"
    )
    if program.flops is not None and program.bytes_accessed is not None:
        lines.append(
            f"  a device computes {_amount(program.flops)}FLOP, reads and writes"
            f" {_amount(program.bytes_accessed)}B, receives"
            f" {_amount(program.collective_bytes or 0)}B from others"
        )
    if program.estimate is not None:
        compute, memory = program.estimate["compute"], program.estimate["memory"]
        bound = "arithmetic" if compute > memory else "its memory's bandwidth"
        slower = max(compute, memory)
        lines.append(
            f"  estimate: at best {1e3 * slower:.3g} ms, bounded by {bound} (arithmetic"
            f" {1e3 * compute:.3g} ms, memory {1e3 * memory:.3g} ms at the chip's published rates)"
        )
    return lines


def _advice(report: Report) -> list[str]:
    if report.nearest is None:
        return [
            "no smaller batch that fits was found; choose --config.model.dtype=bfloat16, a larger"
            " --config.optimizer.accumulation, or more chips"
        ]
    size = report.nearest.batch_size
    return [
        f"the nearest batch that fits: --config.batch_size={size}",
        *_lines(report.nearest, report),
    ]


def _gib(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 2**30:.3f} GiB"


def _amount(number: int | float) -> str:
    """A number with the prefix of its unit: "1.97 T"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.3g} "
