"""Packages that only some commands need."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from squeezetime_jax.errors import UserError

# What is imported -> the name that pip knows, where it is another.
_DISTRIBUTIONS = {
    "ai_edge_litert": "ai-edge-litert",
    "ai_edge_quantizer": "ai-edge-quantizer",
    "litert_converter": "litert-converter",
}


def needs(module: str) -> Any:
    """Import a module of an optional package.

    Raises:
      UserError: the package is not installed; says how to install it.
    """
    package = module.split(".")[0]
    require(package)
    if package in ("openvino", "nncf"):
        # On import they report their use to their makers from a forked process, which may lock up
        # beside JAX's threads; without this module they do not.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    found = importlib.import_module(module)
    if module == "onnxruntime":
        found.disable_telemetry_events()
    return found


def require(*packages: str) -> None:
    """Refuse to go on where an optional package is missing; nothing is imported.

    Raises:
      UserError: as for `needs`.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"needs the package {_DISTRIBUTIONS.get(package, package)}, which is not installed;"
                ' run pip install "squeezetime-jax[export]"'
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's progress bars, prints and remarks out of the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    sys.stderr.flush()
    terminal = os.dup(2)  # what libraries in C++ write to
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
