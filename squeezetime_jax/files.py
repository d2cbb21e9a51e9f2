"""Files that appear whole or not at all."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from squeezetime_jax.errors import UserError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A hidden file beside `path`, with its suffix, which replaces `path` at the end.

    If the body raises, it is removed and `path` stays as it was. Its name is its own, so that two
    processes may write one file. Missing folders are made.

    Raises:
      UserError: the file cannot be written.
    """
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another path") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
      UserError: as `whole`.
    """
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
