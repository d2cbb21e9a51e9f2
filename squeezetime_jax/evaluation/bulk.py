"""Work on very many videos: shared among hosts, and continued after it was stopped."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole

# Where launchers say which process this is, and of how many.
_LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)


def parse_shard(text: str) -> tuple[int, int]:
    """The share of a host: "3/16" is the third of 16; "auto" is what SLURM or MPI says.

    Returns:
      Its number, from 0, and how many there are.

    Raises:
      UserError: it is neither.
    """
    if text == "auto":
        for rank, size in _LAUNCHERS:
            if os.environ.get(rank, "").isdecimal() and os.environ.get(size, "").isdecimal():
                return int(os.environ[rank]), int(os.environ[size])
        names = " or ".join(rank for rank, _ in _LAUNCHERS)
        raise UserError(f"--shard auto: {names} not set; give the share, such as --shard 3/16")
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--shard {text}: expected I/N with I from 1 to N, such as 3/16, or auto")
    return number - 1, count


def share(paths: Sequence[str], shard: str | None) -> list[str]:
    """The videos of a host's share: every N-th; all of them if there are no shares."""
    number, count = parse_shard(shard) if shard else (0, 1)
    return list(paths[number::count])


def name_of_share(path: Path, shard: str | None) -> Path:
    """The file of a host's share: `scores-00003-of-00016.jsonl`."""
    if not shard:
        return path
    number, count = parse_shard(shard)
    return path.with_name(f"{path.stem}-{number + 1:05d}-of-{count:05d}{path.suffix}")


def same_job(note: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a job, or compare them with those that it was begun with.

    Raises:
      UserError: they differ.
    """
    settings = json.loads(json.dumps(dict(settings)))
    try:
        found = json.loads(note.read_text())
    except FileNotFoundError:
        write_whole(note, json.dumps(settings, indent=1) + "\n")
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{note}: damaged ({error}); remove it, or choose another --out") from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise UserError(
                f"{note}: begun with {name} {found.get(name)!r}, now {value!r}; choose another"
                " --out"
            )


class ResultsFile:
    """A file of JSON lines, to which results are appended as they come.

    A line that was cut off when the program was stopped is removed.

    Args:
      path: the file; made if absent.
      settings: of the job; another job is refused.

    Attributes:
      done: paths of the videos that have a line.

    Raises:
      UserError: the file is of another job, damaged, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        same_job(path.with_name(f".{path.name}.job"), settings)
        self.done: set[str] = set()
        try:
            self._file = path.open("a+b")
            self._file.seek(0)
            end = 0
            for line in self._file:
                if not line.endswith(b"\n"):
                    break
                self.done.add(json.loads(line)["path"])
                end += len(line)
            self._file.truncate(end)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be written ({reason}); choose another") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: line {len(self.done) + 1}: expected a JSON object with a path ({error});"
                " choose another --out"
            ) from None

    def add(self, fields: Mapping[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(dict(fields)).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
