"""What every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

# Compiling takes most of the suite's time, and half as long without LLVM's optimisations.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

import jax
import jaxtyping
import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the authors' own code; skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("SQUEEZETIME_GOLDEN", default))
    if not folder.is_dir():
        pytest.skip(f"no golden folder at {folder}; set SQUEEZETIME_GOLDEN")
    return folder


@pytest.fixture
def untyped() -> Iterator[None]:
    """Shapes and types go unchecked, as for users: what the code itself refuses is under test."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def float64() -> Iterator[None]:
    """JAX computes in double precision."""
    with jax.enable_x64(True):
        yield
