"""The notebooks of `colab/`: their commands and imports exist; each runs on a CPU, shortened."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from squeezetime_jax import cli, command_line

assert cli.main is command_line.main  # importing `cli` registers the subcommands

FOLDER = Path(__file__).resolve().parents[1] / "colab"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def cells_of(name: str, kind: str = "code") -> list[dict]:
    """Cells of a notebook, each with its source as one string."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [
        {**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == kind
    ]


def tagged(name: str, tag: str) -> str:
    """The source of the one cell with a tag."""
    (source,) = (c["source"] for c in cells_of(name) if tag in c["metadata"].get("tags", []))
    return source


def python_of(source: str) -> str:
    """The Python of a cell, without commands for the shell and for IPython."""
    return re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE)


def values_of(name: str) -> dict[str, str]:
    """The parameters of a notebook, and a file or folder where they leave it to a later cell."""
    values: dict[str, str] = {}
    exec(tagged(name, "parameters"), values)
    later = {"videos": "motion", "video": "a.mp4", "new": "a.mp4"}
    return {**values, **{each: path for each, path in later.items() if not values.get(each)}}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_its_one_installation(name: str) -> None:
    first, *others = [cell["source"] for cell in cells_of(name)]
    assert first == tagged(name, "install")
    assert first.splitlines()[1:] == ["%pip install -q {repository}"]
    assert not any("pip install" in source for source in others)
    # The package is on no index: what is installed is the clone.
    values: dict[str, str] = {}
    exec(python_of(first), values)
    assert (FOLDER / values["repository"] / "pyproject.toml").is_file()
    everything = "".join(cell["source"] for cell in cells_of(name, "markdown")) + "".join(others)
    assert "install squeezetime" not in everything


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_no_results(name: str) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_notebook_is_one_that_the_program_takes(name: str) -> None:
    lines = [line for cell in cells_of(name) for line in cell["source"].splitlines()]
    commands = [line.strip()[1:] for line in lines if line.strip().startswith("!")]
    assert commands
    for command in commands:
        program, *words = shlex.split(command.format(**values_of(name)))
        assert program == "squeezetime"
        command_line.parse(words)


@pytest.mark.parametrize("name", NAMES)
def test_every_import_of_a_notebook_exists(name: str) -> None:
    for cell in cells_of(name):
        for node in ast.walk(ast.parse(python_of(cell["source"]))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("squeezetime_jax"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


SMALL = (
    "--config.epochs=1 --config.batch_size=16 --config.evaluation.batch_size=16"
    " --config.model.width=0.125 --config.model.num_frames=4"
)


def shortened(name: str, demo_fields: Sequence[str]) -> dict[str, object]:
    """Parameters for a short run, in a folder with a complete run of the demo."""
    return {
        "quick_start": {"weights": "demo"},
        "fine_tune": {"weights": "", "options": SMALL, "num_train": 32, "num_test": 16},
        "train_accelerator": {"workdir": "demo", "options": " ".join(demo_fields)},
    }[name]


@pytest.mark.slow
@pytest.mark.needs("nbclient", "ipykernel")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Jupyter's own
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(
    name: str,
    demo_run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    changed = shortened(name, demo_run.fields)
    assert changed.keys() <= values_of(name).keys()
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "install" in tags:
            cell.source = ""
        if "parameters" in tags:
            cell.source += "".join(f"\n{each} = {value!r}" for each, value in changed.items())
        if cell.cell_type == "code" and "!squeezetime" in cell.source:
            cell.source += "\nassert not globals().get('_exit_code')"  # a failure stops no notebook
    shutil.copytree(demo_run.folder, tmp_path / "demo")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
