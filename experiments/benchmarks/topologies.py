"""The compiler's answers for TPU slices: the table of docs/scaling.md."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-m", "squeezetime_jax"]
# Name in the table -> topology, slices, chips.
SLICES = {
    "v5e-8": ("v5e:2x4", 1, 8),
    "v5e-256": ("v5e:16x16", 1, 256),
    "2 x v5e-256": ("v5e:16x16", 2, 512),
    "v6e-8": ("v6e:2x4", 1, 8),
    "v5p-64": ("v5p:4x4x4", 1, 64),
}
# Config -> clips or windows of each chip: the batch of each device in the published recipe.
BATCHES = {"k400": 64, "ava21": 16, "thumos14": 1}
_HEAD = (
    *("config", "slice", "batch", "memory of a chip, GiB", "TFLOP a chip", "GB read and written"),
    *("MB received", "estimate, ms", "bounded by"),
)


def compile_all(args: argparse.Namespace) -> None:
    """Compile each config for each slice that `args.out` lacks, add the answer, print the table."""
    for config in args.configs:
        for name in args.slices:
            if (config, name) in _answers(args.out):
                continue
            topology, slices, chips = SLICES[name]
            command = [
                *(*PROGRAM, "compile", f"--config={config}", "--json", f"--topology={topology}"),
                *(f"--slices={slices}", f"--config.batch_size={BATCHES[config] * chips}"),
                "--config.model.dtype=bfloat16",
            ]
            print(" ".join(command[1:]), file=sys.stderr, flush=True)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if not done.stdout:
                raise SystemExit(f"ended with status {done.returncode}")
            line = json.dumps({"config": config, "slice": name, **json.loads(done.stdout)})
            with args.out.open("a") as file:
                file.write(line + "\n")
    print(table(_answers(args.out)))


def _answers(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(answer["config"], answer["slice"]): answer for answer in found}


def table(answers: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """The training steps of `squeezetime compile --json` as a table in Markdown."""
    rows: list[Sequence[str]] = [_HEAD, ["---"] * len(_HEAD)]
    missing = []
    for config in BATCHES:
        for name in SLICES:
            if (config, name) in answers:
                rows.append([config, name, *_cells(answers[config, name])])
            else:
                missing.append(f"{config} on {name}")
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(["", f"Not run: {', '.join(missing)}."] if missing else [])])


def _cells(answer: Mapping[str, Any]) -> list[str]:
    step = answer["programs"][0]
    memory = f"{step['memory'] / 2**30:.1f} of {answer['device_memory'] / 2**30:.0f}"
    batch = f"{step['batch_size']:,}"
    if not step["fits"]:
        return [batch, f"{memory}: does not fit", *[""] * (len(_HEAD) - 4)]
    estimate = step["estimate"]
    bound = "memory" if estimate["memory"] > estimate["compute"] else "arithmetic"
    return [
        *(batch, memory, f"{step['flops'] / 1e12:.2f}", f"{step['bytes_accessed'] / 1e9:.0f}"),
        *(f"{step['collective_bytes'] / 1e6:.0f}", f"{1e3 * max(estimate.values()):.0f}", bound),
    ]
