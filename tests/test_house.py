"""The rooms of the package: what may import what, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import squeezetime_jax

PACKAGE = Path(squeezetime_jax.__file__).parent
# From the bottom up. A room imports itself and the floors below its own, nothing beside or above.
FLOORS = [
    {"errors", "machine"},
    {"command_line", "compilation", "files", "hosts"},
    {"model"},
    {"peers"},
    {"checkpoint", "data"},
    {"evaluation"},
    {"training"},
    {"tasks"},
    {"export"},
    {"bench"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(room: str) -> int:
    """Index of a room's floor; the command and the package itself stand above all."""
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def imported_rooms(source: str) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, *path = name.split(".")
            if package == PACKAGE.name and path:
                rooms.add(path[0])
    return rooms


def climbs(room: str, source: str) -> set[str]:
    """Rooms that `source`, standing in `room`, may not import."""
    above = {other for other in imported_rooms(source) if floor(other) >= floor(room)}
    return above - {room}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(module: Path) -> None:
    room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if floor(room) < len(FLOORS):
        assert not climbs(room, module.read_text())


def test_an_import_upwards_is_seen() -> None:
    assert climbs("model", "from squeezetime_jax.data.video import Video") == {"data"}
    assert climbs("data", "from squeezetime_jax import errors, model") == set()
    assert climbs("checkpoint", "import squeezetime_jax.data.video") == {"data"}
    assert climbs("training", "from squeezetime_jax.cli import main") == {"cli"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"av", "cv2", "flax", "grain", "jax", "matplotlib", "orbax", "tensorflow_datasets"}
    code = "import squeezetime_jax.data.video, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(done.stdout.split()) == {"av", "cv2"}  # what decoding takes
    code = code.replace(".data.video", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(done.stdout.split())


def test_the_package_lists_and_refuses_names() -> None:
    names = "SqueezeTime SqueezeTimeConfig Stream create from_state_dict load predict train"
    assert set(squeezetime_jax.__all__) == set(names.split()) <= set(dir(squeezetime_jax))
    for name in squeezetime_jax.__all__:
        assert getattr(squeezetime_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = squeezetime_jax.laod
