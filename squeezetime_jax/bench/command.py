"""`squeezetime bench`: what networks cost on this machine, in every runtime that is installed."""

import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from squeezetime_jax.bench import networks
from squeezetime_jax.bench.worker import Job
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.machine import available_cpus
from squeezetime_jax.model.config import SqueezeTimeConfig

RUNTIMES = ("jit", "fused", *FORMATS)
_JAX_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure.

    Attributes:
      networks: "NAME" or "NAME:FIELD=VALUE,..." of the register; "all" is the whole register.
      runtimes: any of `RUNTIMES`.
      dtypes: types that they compute in; a runtime that does not have one leaves it out.
      size: height and width of the clips, in pixels; None: each network's published one.
      seconds: spent on each measurement.
    """

    networks: Sequence[str] = networks.DEFAULT
    runtimes: Sequence[str] = RUNTIMES
    dtypes: Sequence[str] = ("float32",)
    size: tuple[int, int] | None = None
    seconds: float = 3.0


def plan(request: Request) -> tuple[list[Job], list[str]]:
    """The measurements that can be made, and for those that cannot, why.

    Raises:
      UserError: a network, runtime or type is unknown, or a size is invalid.
    """
    dtypes = {dtype for name in FORMATS for dtype in formats.get(name).dtypes} | {*_JAX_DTYPES}
    for name, words, known in (
        ("runtime", request.runtimes, RUNTIMES),
        ("dtype", request.dtypes, sorted(dtypes)),
    ):
        for word in words:
            if word not in known:
                raise UserError(f"{name} {word!r} not found; choose any of {', '.join(known)}")
    jobs: list[Job] = []
    notes: dict[str, None] = {}
    for name in networks.names(request.networks):
        config = networks.parse(name)
        height, width = request.size or networks.published_size(config)
        networks.check_size(config, height, width)
        for runtime in request.runtimes:
            format = formats.get(runtime) if runtime in FORMATS else None
            any_network = format.any_network if format else runtime == "jit"
            if not any_network and not isinstance(config, SqueezeTimeConfig):
                notes[f"{runtime}: for SqueezeTime only"] = None
            elif format and (command := formats.pip_install(format.packages)):
                notes[f"{runtime}: packages are not installed; run {command}"] = None
            else:
                jobs += [
                    Job(
                        network=name,
                        runtime=runtime,
                        dtype=dtype,
                        height=height,
                        width=width,
                        seconds=request.seconds,
                    )
                    for dtype in request.dtypes
                    if dtype in (format.dtypes if format else _JAX_DTYPES)
                ]
    return jobs, list(notes)


def bench(request: Request, *, as_json: bool = False, save: Path | None = None) -> int:
    """Measure each network in each runtime, in a process of its own; print a table or JSON.

    Args:
      request: what to measure.
      as_json: one JSON object, for programs.
      save: a picture of the times.

    Returns:
      The exit status.

    Raises:
      UserError: the request is invalid, or nothing could be measured.
    """
    if save is not None:
        from squeezetime_jax.bench import plot  # Matplotlib takes a second to import

        plot.check(save)
    jobs, notes = plan(request)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate(jobs, 1):
            title = f"{job.network}, {job.runtime} {job.dtype}"
            print(f"{number}/{len(jobs)} {title}", file=sys.stderr, flush=True)
            suffix = formats.get(job.runtime).suffix if job.runtime in FORMATS else ""
            result = _measure(job, Path(folder) / f"{number}{suffix}")
            if "error" in result:
                notes.append(f"{title}: {result['error']}")
            else:
                rows.append(_row(job, result))
    if not rows:
        reasons = "; ".join(notes) or "no runtime computes in these types"
        raise UserError(f"nothing was measured: {reasons}")
    found = {"machine": machine(), "rows": rows, "notes": notes}
    if as_json:
        print(json.dumps(found))
    else:
        _print(_table(found))
        for note in notes:
            print(f"not measured: {note}")
    if save is not None:
        print(f"wrote {plot.draw(found, save)}", file=sys.stderr)
    return 0


def print_counts(height: int, width: int) -> int:
    """Print parameters and multiply-adds of SqueezeTime's variants beside the paper's.

    Raises:
      UserError: the clips are too small.
    """
    networks.check_size(SqueezeTimeConfig(), height, width)
    _print(networks.counts_table(height, width))
    return 0


def _print(table: Table) -> None:
    """Print a table as wide as it is: piped output is not cut at 80 columns."""
    console = Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)


def machine() -> str:
    """The processor and how much of it is ours; the accelerator names itself in each row."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        pass
    return f"{name}, {available_cpus()} threads, {platform.system()}"


def _measure(job: Job, path: Path) -> dict[str, Any]:
    """Write the exported file, or compile, in one process; measure in another."""
    for task in ("prepare", "measure"):
        words = [task, str(path), json.dumps(dataclasses.asdict(job))]
        command = [sys.executable, "-m", "squeezetime_jax.bench.worker", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"error": f"ended with status {done.returncode}: {last}"}
        answer = json.loads(done.stdout.splitlines()[-1])
        if "error" in answer:
            break
    return answer


def _row(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    config = networks.parse(job.network)
    batch, rate = max(result["throughput"], key=lambda pair: pair[1])
    return {
        "network": job.network,
        "runtime": job.runtime,
        "dtype": job.dtype,
        "size": [job.height, job.width],
        "num_frames": config.num_frames,
        "parameters": networks.parameters(config),
        "multiply_adds": networks.multiply_adds(config, job.height, job.width),
        "published_top1": networks.published_top1(config),
        "best_batch": batch,
        "clips_per_second": rate,
        **result,
    }


def _table(found: dict[str, Any]) -> Table:
    table = Table(title=f"{found['machine']}; medians, with the middle half of the runs")
    for column in ("network", "clip", "runtime", "device"):
        table.add_column(column, no_wrap=True)
    for column in (
        *("parameters", "multiply-\nadds", "ms a clip", "middle half"),
        *("clips/s", "at batch", "peak\nMiB", "first\nanswer, s"),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["rows"]:
        low, high = row["spread"]
        table.add_row(
            row["network"],
            "x".join(map(str, (row["num_frames"], *row["size"]))),
            f"{row['runtime']} {row['dtype']}",
            row["device"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            f"{row['milliseconds']:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{row['clips_per_second']:.1f}",
            f"{row['best_batch']}",
            f"{row['peak_mib']:.0f}" if row["peak_mib"] is not None else "",
            f"{row['first_seconds']:.1f}",
        )
    return table
