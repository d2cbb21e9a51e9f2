"""What the networks of a table cost on this machine, measured once by `squeezetime bench`."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from squeezetime_jax.bench.command import machine
from squeezetime_jax.files import write_whole
from squeezetime_jax.model.config import SqueezeTimeConfig


@dataclasses.dataclass(frozen=True)
class Timed:
    """A network that is timed, and on what.

    Attributes:
      network: what is timed.
      side: of its clips, in pixels.
      ways: "runtime dtype", as `squeezetime bench` names them.
    """

    network: SqueezeTimeConfig
    side: int
    ways: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The benchmark as words."""
        names = ("depth", "width", "num_frames", "num_classes")
        variant = ",".join(f"{name}={getattr(self.network, name)}" for name in names)
        runtimes, dtypes = (sorted({way.split()[place] for way in self.ways}) for place in (0, 1))
        words = ["--json", "--variant", variant, "--size", str(self.side), str(self.side)]
        words += ["--runtime", *runtimes, "--dtype", *dtypes]
        return [sys.executable, "-m", "squeezetime_jax", "bench", *words]

    def file(self, folder: Path) -> Path:
        """Where what was measured lies."""
        network = f"r{self.network.depth}_w{self.network.width:g}_t{self.network.num_frames}"
        return folder / "speed" / f"{network}_{self.side}.json"

    def found(self, folder: Path) -> dict[str, dict[str, Any]]:
        """What was measured on this machine, by way; empty before it was."""
        try:
            measured = json.loads(self.file(folder).read_text())
        except FileNotFoundError:
            return {}
        if measured["machine"] != machine():  # times of two machines are not compared
            return {}
        return {f"{row['runtime']} {row['dtype']}": row for row in measured["rows"]}

    def measure(self, folder: Path, *, dry_run: bool = False) -> None:
        """Measure, unless it was done; a runtime that is not installed is left out."""
        if dry_run:
            print(shlex.join(self.command))
        elif not self.found(folder):
            done = subprocess.run(self.command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                write_whole(self.file(folder), done.stdout.splitlines()[-1] + "\n")
