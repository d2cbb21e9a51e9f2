"""`squeezetime bench`: what networks cost on this machine, in every runtime that is installed."""

import contextlib
import dataclasses
import functools
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from squeezetime_jax.bench import comparison, networks
from squeezetime_jax.bench.worker import Job, result_of
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.files import write_whole
from squeezetime_jax.machine import available_cpus
from squeezetime_jax.model.config import SqueezeTimeConfig

RUNTIMES = ("jit", "fused", *FORMATS)
_TURNS = 5  # that the runtimes of a network take
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
      max_batch: the largest batch that throughput is measured with; None: 16 on CPUs.
      torch: a Python file whose `build(network, clip)` makes PyTorch modules, measured beside the
        runtimes; `worker.Job` describes it.
    """

    networks: Sequence[str] = networks.DEFAULT
    runtimes: Sequence[str] = RUNTIMES
    dtypes: Sequence[str] = ("float32",)
    size: tuple[int, int] | None = None
    seconds: float = 3.0
    max_batch: int | None = None
    torch: str = ""


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
    if request.torch and not Path(request.torch).is_file():
        raise UserError(f"--torch {request.torch}: file not found")
    jobs: list[Job] = []
    notes: dict[str, None] = {}
    for name in networks.names(request.networks):
        config = networks.parse(name)
        height, width = request.size or networks.published_size(config)
        networks.check_size(config, height, width)
        make = functools.partial(
            Job,
            network=name,
            height=height,
            width=width,
            seconds=request.seconds,
            max_batch=request.max_batch,
        )
        for runtime in request.runtimes:
            format = formats.get(runtime) if runtime in FORMATS else None
            any_network = format.any_network if format else runtime == "jit"
            if not any_network and not isinstance(config, SqueezeTimeConfig):
                notes[f"{runtime}: for SqueezeTime only"] = None
            elif format and (command := formats.pip_install(format.packages)):
                notes[f"{runtime}: packages are not installed; run {command}"] = None
            else:
                jobs += [
                    make(runtime=runtime, dtype=dtype)
                    for dtype in request.dtypes
                    if dtype in (format.dtypes if format else _JAX_DTYPES)
                ]
        if request.torch:
            jobs.append(make(runtime="torch", dtype="float32", script=request.torch))
    return jobs, list(notes)


def bench(
    request: Request,
    *,
    results: Path | None = None,
    as_json: bool = False,
    save: Path | None = None,
) -> int:
    """Measure each network in each runtime, in a process of its own; print a table or JSON.

    Args:
      request: what to measure.
      results: a JSON file that what was measured is written to after each network; what it has
        already, of this machine, is not measured again.
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
    keys = [_key(dataclasses.asdict(job)) for job in jobs]
    rows = _read(results) if results else {}
    open_jobs = [job for job, key in zip(jobs, keys, strict=True) if key not in rows]
    for network, group in itertools.groupby(open_jobs, key=lambda job: job.network):
        turns = list(group)
        place = 1 + list(dict.fromkeys(job.network for job in jobs)).index(network)
        total = len({job.network for job in jobs})
        ways = ", ".join(f"{job.runtime} {job.dtype}" for job in turns)
        print(f"{place}/{total} {network}: {ways}", file=sys.stderr, flush=True)
        for job, result in zip(turns, _measure(turns), strict=True):
            if "error" in result:
                notes.append(f"{network}, {job.runtime} {job.dtype}: {result['error']}")
            else:
                rows[_key(dataclasses.asdict(job))] = _row(job, result)
        if results:
            write_whole(results, json.dumps({"machine": machine(), "rows": list(rows.values())}))
    found: dict[str, Any] = {
        "machine": machine(),
        "rows": [rows[key] for key in keys if key in rows],
        "notes": notes,
    }
    if not found["rows"]:
        reasons = "; ".join(notes) or "no runtime computes in these types"
        raise UserError(f"nothing was measured: {reasons}")
    if as_json:
        print(json.dumps(found))
    else:
        _print(_table(found))
        for line in (
            *comparison.ranks(found["rows"]),
            *(f"not measured: {each}" for each in notes),
        ):
            print(line)
    if save is not None:
        of_paper = any(comparison.ranks(found["rows"]))
        print(f"wrote {(plot.draw_paper if of_paper else plot.draw)(found, save)}", file=sys.stderr)
    return 0


def _key(row: dict[str, Any]) -> tuple:
    """What a measurement is of, given its row or its job."""
    size = row["size"] if "size" in row else (row["height"], row["width"])
    return row["network"], row["runtime"], row["dtype"], *size


def _read(results: Path) -> dict[tuple, dict[str, Any]]:
    """The rows of a file of results by key; none if there is no file.

    Raises:
      UserError: it is damaged, or of another machine.
    """
    if not results.exists():
        return {}
    try:
        found = json.loads(results.read_text())
        rows = {_key(row): row for row in found["rows"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{results}: expected the JSON of squeezetime bench; choose another file"
        ) from None
    if found["machine"] != machine():
        raise UserError(
            f"{results}: measured on another machine ({found['machine']}); choose another file"
        )
    return rows


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


def _measure(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Results or errors of a network's jobs, each in a process of its own, which take turns."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_Process(job, Path(folder) / str(number)))
            for number, job in enumerate(jobs)
        ]
        times: list[list[float]] = [[] for _ in jobs]
        for _ in range(_TURNS):
            for process, found, job in zip(processes, times, jobs, strict=True):
                found += process.ask(str(job.seconds / _TURNS)) or []
        results = []
        for process, found in zip(processes, times, strict=True):
            rate = 1 / statistics.median(found) if found else 1.0
            throughput = process.ask(f"sweep {rate}")
            results.append(
                {"error": process.error}
                if process.error
                else dataclasses.asdict(result_of(found, throughput, **process.loaded))
            )
    return results


class _Process:
    """A worker that has written the exported file, or compiled, and loaded the network.

    Attributes:
      loaded: what was found while loading.
      error: why it has ended; empty if it has not.
    """

    def __init__(self, job: Job, path: Path) -> None:
        suffix = formats.get(job.runtime).suffix if job.runtime in FORMATS else ""
        words = [f"{path}{suffix}", json.dumps(dataclasses.asdict(job))]
        self.error = ""
        self.loaded: dict[str, Any] = {}
        for task in ("prepare", "measure"):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "squeezetime_jax.bench.worker", task, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if task == "prepare":
                self._answer()
                self._process.communicate()
            elif not self.error:
                self.loaded = self._answer() or {}
            if self.error:
                break

    def ask(self, question: str) -> Any:
        """The answer to a line; None if the worker has ended."""
        if self.error:
            return None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        """The next line that is an answer; libraries print lines of their own."""
        assert self._process.stdout is not None
        last = "no message"
        for line in self._process.stdout:
            last = line.strip() or last
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    self.error = answer.get("error", "")
                return answer
        self.error = f"ended with status {self._process.wait()}: {last}"
        return None

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.communicate()


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
        "paper_cpu_ms": networks.paper_cpu_ms(config),
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
        *("clips/s", "at batch", "peak\nMiB", "first\nanswer, s", "paper's\nCPU, ms"),
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
            f"{row['paper_cpu_ms'] or ''}",
        )
    return table
