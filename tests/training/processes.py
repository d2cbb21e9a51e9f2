"""The tiny experiment in other processes, which share the compilation cache of the tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("tiny.py")


def start(*arguments: object, num_devices: int = 1, **environment: str) -> subprocess.Popen:
    """Start `tiny.py`; its output is a pipe."""
    return start_program(PROGRAM, *arguments, num_devices=num_devices, **environment)


def start_program(
    program: Path, *arguments: object, num_devices: int = 1, **environment: str
) -> subprocess.Popen:
    """Start a program on so many simulated devices; its output is a pipe."""
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(num_devices)}
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit status, output and errors."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
