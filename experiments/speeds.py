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


def measure(table: Table, settings: Settings, *, dry_run: bool = False) -> None:
    """Time every row that was not timed; a runtime that is not installed is left out."""
    for row in table.rows if table.runtimes else ():
        command = bench_command(table, row, settings)
        if dry_run:
            print(shlex.join(command))
        elif not measured(table, row, settings):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                path = speed_file(table, row, settings)
                write_whole(path, done.stdout.splitlines()[-1] + "\n")
