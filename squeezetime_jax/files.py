"""Files are written whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from squeezetime_jax.errors import UserError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write to, beside `path` and with its suffix, that takes its place once all is well.

    Folders on the way are made.

    Raises:
      UserError: the file cannot be written.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
      UserError: as `whole`.
    """
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
