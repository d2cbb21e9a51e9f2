"""What the package knows about a file format, and what the format modules share."""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import io
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS
from squeezetime_jax.export.manifest import Clips, Manifest

Run = Callable[[np.ndarray], np.ndarray]
"""From clips as the manifest describes them to logits (n, classes)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """A file format.

    Attributes:
      name: on the command line and in manifests.
      suffix: of the file that is opened.
      weights_suffix: of the file beside it that holds the weights, if there is one.
      dtypes: that files of this format can compute in.
      packages: module -> pip requirement of everything that writing and opening a file imports.
      runtime: the module that opens a file.
      any_network: whether every network can be written, or SqueezeTime only.
      batch: number of clips in one call; None: any number.
      write: writes a network to a path, given its manifest and the clips that int8 is calibrated
        on.
      open: opens a path, given its manifest and the number of threads.
    """

    name: str
    suffix: str
    weights_suffix: str = ""
    dtypes: tuple[str, ...]
    packages: Mapping[str, str]
    runtime: str
    any_network: bool
    batch: int | None = None
    write: Callable[[Any, Path, Manifest, Clips | None], None]
    open: Callable[[str, Manifest, int], Run]

    def files(self, path: Path) -> list[Path]:
        """The files of an export to `path`, without the manifest; `path` itself last."""
        return [path.with_suffix(self.weights_suffix), path] if self.weights_suffix else [path]

    def require(self, *, to_open: bool = False) -> None:
        """Check that the packages are installed, without importing them.

        Args:
          to_open: whether only those that open a file are needed.

        Raises:
          UserError: one is not installed; says how to install it.
        """
        module = self.runtime.split(".")[0]
        packages = {module: self.packages[module]} if to_open else self.packages
        if command := pip_install(packages):
            raise UserError(
                f"format {self.name} needs packages that are not installed; run {command}"
            )


def get(name: str) -> Format:
    """The format of a name.

    Raises:
      UserError: there is none; suggests the nearest.
    """
    if name in FORMATS:
        return importlib.import_module(f"{__package__}.{name}").FORMAT
    names = {get(known).suffix[1:]: known for known in FORMATS} | {name: name for name in FORMATS}
    near = difflib.get_close_matches(name.lower().strip("."), names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise UserError(f"format {name!r} not found; choose one of {', '.join(FORMATS)}{hint}")


def of_file(path: str | os.PathLike[str]) -> Format | None:
    """The format whose files are named like `path`."""
    suffix = Path(path).suffix
    return next((format for format in map(get, FORMATS) if format.suffix == suffix), None)


def pip_install(packages: Mapping[str, str]) -> str:
    """The command that installs those of some packages that are missing, or "" if none is.

    Args:
      packages: module -> pip requirement.
    """
    missing = [spec for module, spec in packages.items() if not importlib.util.find_spec(module)]
    return shlex.join(["pip", "install", *missing]) if missing else ""


def first_line(error: Exception) -> str:
    """The first line of an error's message, for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's progress bars, prints and remarks out of the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    terminal = os.dup(2)  # C++ libraries write to the descriptor itself
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        logging.disable(before)
