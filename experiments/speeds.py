"""What the networks of a table cost on this machine, measured once by `squeezetime bench`."""

import dataclasses
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from launch import PROGRAM
from paper import Row, Table
from runs import Run, Settings, run_of

from squeezetime_jax.bench import comparison
from squeezetime_jax.bench.command import machine
from squeezetime_jax.files import write_whole


def timed_run(table: Table, row: Row, settings: Settings) -> Run:
    """The run whose network and clip are timed."""
    scale = "paper" if table.paper_network else settings.scale
    return run_of(table, row, dataclasses.replace(settings, scale=scale))


def bench_command(table: Table, row: Row, settings: Settings) -> list[str]:
    """The benchmark of a row, as words."""
    run = timed_run(table, row, settings)
    names = ("depth", "width", "num_frames", "num_classes")
    fields = ",".join(f"{name}={getattr(run.network(), name)}" for name in names)
    runtimes, dtypes = (sorted({way.split()[i] for way in table.runtimes}) for i in (0, 1))
    words = [
        "--json",
        "--network",
        f"squeezetime:{fields}",
        "--size",
        str(run.side()),
        str(run.side()),
    ]
    return [*PROGRAM, "bench", *words, "--runtime", *runtimes, "--dtype", *dtypes]


def speed_file(table: Table, row: Row, settings: Settings) -> Path:
    """Where the measurements of a row lie."""
    run = timed_run(table, row, settings)
    network = run.network()
    name = f"r{network.depth}_w{network.width:g}_t{network.num_frames}_{run.side()}.json"
    return settings.folder / "speed" / name


def measured(table: Table, row: Row, settings: Settings) -> dict[str, dict[str, Any]]:
    """What was measured of a row on this machine, by "runtime dtype"; empty before it was."""
    if not table.runtimes:
        return {}
    try:
        found = json.loads(speed_file(table, row, settings).read_text())
    except FileNotFoundError:
        return {}
    if found["machine"] != machine():  # times of two machines are not compared
        return {}
    return {f"{each['runtime']} {each['dtype']}": each for each in found["rows"]}


def networks_file(settings: Settings) -> Path:
    """Where the measurements of the paper's other networks lie."""
    return settings.folder / "speed" / "networks.json"


def networks_command(settings: Settings) -> list[str]:
    """The benchmark of the networks of Tables 6 and 7, as words; it continues where it stopped."""
    file = networks_file(settings)
    words = ["--network", "paper", "--runtime", "jit", "--max-batch", "1", "--seconds", "2"]
    return [*PROGRAM, "bench", *words, "--results", str(file), "--save", f"{file}.png"]


def networks_table(settings: Settings) -> str:
    """The networks of Tables 6 and 7 as measured here, in Markdown; empty before they were."""
    try:
        found = json.loads(networks_file(settings).read_text())
    except FileNotFoundError:
        return ""
    if found["machine"] != machine():
        return ""
    heads = ["network", "clip", "parameters, M", "multiply-adds, G", "runtime"]
    lines = [[*heads, "ms a clip", "peak, MiB", "paper, ms"], ["---"] * 5 + ["---:"] * 3]
    for row in sorted(found["rows"], key=lambda row: row["milliseconds"]):
        peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        lines.append(
            [
                row["network"],
                "x".join(map(str, (row["num_frames"], *row["size"]))),
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['multiply_adds'] / 1e9:.2f}",
                f"{row['runtime']} {row['dtype']}",
                f"{row['milliseconds']:.1f}",
                peak,
                str(row["paper_cpu_ms"] or ""),
            ]
        )
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = [f"{line}." for line in comparison.ranks(found["rows"])]
    return "\n\n".join([f"Networks at the paper's clips, on {machine()}:", text, *notes]) + "\n"


def measure(table: Table, settings: Settings, *, dry_run: bool = False) -> None:
    """Time every row that was not timed; a runtime that is not installed is left out."""
    if table.networks and dry_run:
        print(shlex.join(networks_command(settings)))
    elif table.networks:
        networks_file(settings).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(networks_command(settings), stdout=subprocess.DEVNULL)
    for row in table.rows if table.runtimes else ():
        command = bench_command(table, row, settings)
        if dry_run:
            print(shlex.join(command))
        elif not measured(table, row, settings):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                path = speed_file(table, row, settings)
                write_whole(path, done.stdout.splitlines()[-1] + "\n")
