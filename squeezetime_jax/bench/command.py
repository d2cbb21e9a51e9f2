"""`squeezetime bench`: what networks cost on this machine, in every runtime that is at hand."""

import dataclasses
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from squeezetime_jax.bench.benchmark import VARIANTS
from squeezetime_jax.errors import UserError
from squeezetime_jax.machine import available_cpus
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.counts import count

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
RUNTIMES = ("jit", "fused", *SUFFIXES)
DTYPES = {
    "jit": ("float32", "bfloat16"),
    "fused": ("float32", "bfloat16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
    "litert": ("float32", "int8"),
}
_FIELDS = {"depth": int, "width": float, "num_frames": int, "num_classes": int}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure.

    Attributes:
      variants: networks, as "width=0.5,num_frames=8"; "" is the released one.
      runtimes: of `RUNTIMES`.
      dtypes: that they compute in, where they know them.
      height: of the clips, in pixels.
      width: of the clips, in pixels.
      seconds: spent on each measurement.
    """

    variants: Sequence[str] = tuple(VARIANTS)
    runtimes: Sequence[str] = RUNTIMES
    dtypes: Sequence[str] = ("float32",)
    height: int = 224
    width: int = 224
    seconds: float = 3.0

    def jobs(self) -> Iterator[tuple[str, dict[str, Any], str, str]]:
        """(variant, its fields, runtime, dtype) of each measurement.

        Raises:
          UserError: a variant is no network, or a runtime or type is unknown.
        """
        known = {"runtime": RUNTIMES, "dtype": sorted({d for ds in DTYPES.values() for d in ds})}
        for name, words in (("runtime", self.runtimes), ("dtype", self.dtypes)):
            for word in words:
                if word not in known[name]:
                    raise UserError(f"{name} {word!r}: wanted one of {', '.join(known[name])}")
        networks = [(variant, parse_variant(variant)) for variant in self.variants]
        for variant, network in networks:
            for runtime in self.runtimes:
                for dtype in self.dtypes:
                    if dtype in DTYPES[runtime]:
                        yield variant, network, runtime, dtype


def parse_variant(text: str) -> dict[str, Any]:
    """Fields of the configuration from "width=0.5,num_frames=8".

    Raises:
      UserError: it is no network.
    """
    fields: dict[str, Any] = {}
    try:
        for part in filter(None, text.split(",")):
            name, value = part.split("=")
            fields[name] = _FIELDS[name](value)
        SqueezeTimeConfig(**fields)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"variant {text!r}: {error}; wanted fields of {', '.join(_FIELDS)}, such as"
            " width=0.5,num_frames=8"
        ) from None
    return fields


def bench(request: Request, *, as_json: bool = False, save: Path | None = None) -> int:
    """Measure, one process each, and print a table or JSON.

    Args:
      request: what to measure.
      as_json: one JSON object, for programs.
      save: a picture of size and accuracy against speed.

    Returns:
      The exit status: 1 if nothing could be measured.
    """
    if save is not None:
        from squeezetime_jax.bench import plot  # Matplotlib takes a second to import

        plot.check(save)
    jobs, rows, notes = list(request.jobs()), [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, (variant, network, runtime, dtype) in enumerate(jobs, 1):
            title = f"{variant or 'released'}, {runtime} {dtype}"
            print(f"{number}/{len(jobs)} {title}", file=sys.stderr, flush=True)
            job = {"network": network, "runtime": runtime, "dtype": dtype}
            for name in ("height", "width", "seconds"):
                job[name] = getattr(request, name)
            result = _measure(job, Path(folder) / f"{number}{SUFFIXES.get(runtime, '')}")
            if "error" in result:
                notes.append(f"{title}: {result['error']}")
            else:
                rows.append(_row(variant, request, job, result))
    found = {"machine": machine(), "size": [request.height, request.width], "rows": rows}
    if as_json:
        print(json.dumps({**found, "notes": notes}))
    else:
        console = Console()
        console.width = max(console.width, 150)  # piped output is not cut at 80 columns
        console.print(_table(found))
        for note in notes:
            print(f"squeezetime bench: {note}", file=sys.stderr)
    if save is not None and rows:
        print(f"wrote {plot.draw(found, save)}", file=sys.stderr)
    return 0 if rows else 1


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


def _measure(job: dict[str, Any], file: Path) -> dict[str, Any]:
    where = "file" if job["runtime"] in SUFFIXES else "cache"
    job = {**job, where: str(file)}
    failed = _in_a_process({**job, "write": True})
    return failed or _in_a_process(job)


def _in_a_process(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "squeezetime_jax.bench.worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"error": f"ended with status {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1]) or {}


def _row(
    variant: str, request: Request, job: dict[str, Any], result: dict[str, Any]
) -> dict[str, Any]:
    counts = count(SqueezeTimeConfig(**job["network"]), request.height, request.width)
    batch, rate = max(result["throughput"], key=lambda pair: pair[1])
    return {
        "variant": variant,
        "runtime": job["runtime"],
        "dtype": job["dtype"],
        "parameters": counts.backbone + counts.head,
        "multiply_adds": counts.multiply_adds,
        "best_batch": batch,
        "clips_per_second": rate,
        **result,
    }


def _table(found: dict[str, Any]) -> Table:
    height, width = found["size"]
    title = f"{found['machine']}; clips of {height}x{width}; medians, with the middle half of runs"
    table = Table(title=title)
    columns = ("ms a clip", "middle half", "clips/s", "at batch", "peak MiB", "first answer s")
    for column in ("network", "parameters", "multiply-adds", "runtime", "device", *columns):
        is_text = column in ("network", "runtime", "device")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=is_text)
    for row in found["rows"]:
        low, high = row["spread"]
        table.add_row(
            row["variant"] or "released",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds'] / 1e9:.2f} G",
            f"{row['runtime']} {row['dtype']}",
            row["device"],
            f"{row['milliseconds']:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{row['clips_per_second']:.1f}",
            f"{row['best_batch']}",
            f"{row['peak_mib']:.0f}" if row["peak_mib"] is not None else "",
            f"{row['first_seconds']:.1f}",
        )
    return table
