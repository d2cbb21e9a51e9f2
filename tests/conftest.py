"""What every test shares: a compilation cache, reference numbers and files, required packages."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Compiling takes most of the suite's time, and half as long without LLVM's optimisations.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
# The workers of a run and the processes that tests start share one cache of compiled programs.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jaxtyping
import pytest

REFERENCE = Path(
    os.environ.get("SQUEEZETIME_REFERENCE", Path(__file__).resolve().parents[2] / "shared")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--complete`."""
    parser.addoption(
        "--complete",
        action="store_true",
        help="fail, rather than skip, where a package or the reference files are missing",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose packages are missing; mark those that read the reference files."""
    for item in items:
        if "reference" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.reference)
        if config.getoption("complete"):
            continue
        for mark in item.iter_markers("needs"):
            missing = [name for name in mark.args if importlib.util.find_spec(name) is None]
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the authors' own code."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Path of a reference file: other projects' videos, annotations, checkpoints; skips without."""

    def find(name: str) -> Path:
        path = REFERENCE / name
        if not path.exists():
            absent = pytest.fail if request.config.getoption("complete") else pytest.skip
            absent(f"{path} not found; SQUEEZETIME_REFERENCE names the folder of such files")
        return path

    return find


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
