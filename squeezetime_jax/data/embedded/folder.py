"""The folder that an embedded data set is made in: whose it is, and whether all is there.

A JSON file in it, the marker, says what the data set was made with. What was cut short is taken up
again, what is complete is reused, and anything else is left alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole


def claim(marker: Path, arguments: Mapping[str, Any], *, foreign: str, other: str) -> bool:
    """Make the marker's folder this data set's.

    Args:
      marker: the file.
      arguments: what the data set is made with.
      foreign: message about a folder that is not empty and has no marker.
      other: message about a data set with other arguments; `{was}` and `{expected}` stand for
        those that differ.

    Returns:
      Whether the data set is complete.

    Raises:
      UserError: the folder holds something else.
    """
    folder = marker.parent
    arguments = json.loads(json.dumps(arguments))
    if not marker.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: {foreign}")
        _write(marker, arguments, complete=False)
        return False
    try:
        found = json.loads(marker.read_text())
    except ValueError:
        found = {}
    differing = [name for name, value in arguments.items() if found.get(name) != value]
    if differing:
        was, expected = (
            ", ".join(f"{name}={fields.get(name)}" for name in differing)
            for fields in (found, arguments)
        )
        raise UserError(f"{folder}: {other.format(was=was, expected=expected)}")
    return bool(found.get("complete"))


def complete(marker: Path, arguments: Mapping[str, Any]) -> None:
    """Write down that the data set is there, to its last file."""
    _write(marker, arguments, complete=True)


def _write(marker: Path, arguments: Mapping[str, Any], *, complete: bool) -> None:
    write_whole(marker, json.dumps({**arguments, "complete": complete}))
