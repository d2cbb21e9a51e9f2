"""What every test shares: a compilation cache, reference numbers and files, required packages."""

import fcntl
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Compiling takes most of the suite's time: half of it without LLVM's optimisations, MLIR's emitters
# and modules in several parts.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
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


def pytest_sessionstart() -> None:
    """Keep libtpu's warnings out of what tests compare; jaxtyping's import hook is in place now."""
    from squeezetime_jax.machine import quiet_libtpu

    quiet_libtpu()


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
def fuzz_seed() -> int:
    """Seed of random cases: another one in each run, unless SQUEEZETIME_FUZZ_SEED gives it."""
    seed = int(os.environ.get("SQUEEZETIME_FUZZ_SEED") or random.randrange(2**31))
    print(f"SQUEEZETIME_FUZZ_SEED={seed} repeats the random cases")
    return seed


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


class DemoRun(NamedTuple):
    """A run of `squeezetime demo`.

    Attributes:
      folder: its working directory.
      output: what it printed.
      fields: of the config, as words of the command.
    """

    folder: Path
    output: str
    fields: tuple[str, ...]


DEMO_FIELDS = (
    *("--config.epochs=1", "--config.batch_size=16", "--config.evaluation.batch_size=16"),
    *("--config.model.width=0.125", "--config.model.num_frames=4"),
    *("--config.data.motion.num_train=32", "--config.data.motion.num_test=16"),
    *("--config.data.motion.size=32", "--config.data.motion.num_frames=8"),
    *("--config.data.short_side=32", "--config.data.crop_size=32"),
    *("--config.evaluation.short_side=32", "--config.evaluation.crop_size=32"),
)


@pytest.fixture(scope="session")
def demo() -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Runs `squeezetime demo` in a folder, with little data and a small network."""

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "squeezetime_jax", "demo", "--workdir", str(folder)]
        return subprocess.run([*command, *DEMO_FIELDS], capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def demo_run(
    demo: Callable[[Path], subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> DemoRun:
    """A complete run, made once for all tests and workers, which copy it and leave it as it is."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, output = root / "demo", root / "demo.txt"
    with (root / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            done = demo(folder)
            assert done.returncode == 0, done.stderr
            output.write_text(done.stdout)
    return DemoRun(folder, output.read_text(), DEMO_FIELDS)
