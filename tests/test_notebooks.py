"""The notebooks of `colab/`, each run from top to bottom on a CPU with shortened settings."""

import os
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="comes with the extra `test`")
nbclient = pytest.importorskip("nbclient", reason="comes with the extra `test`")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "colab"
SMALL_VIDEOS = (
    "--config.data.motion.num_train=32 --config.data.motion.num_test=16"
    " --config.data.motion.size=32 --config.data.motion.num_frames=8"
    " --config.data.short_side=32 --config.data.crop_size=32"
    " --config.evaluation.short_side=32 --config.evaluation.crop_size=32"
)
SMALL = (
    "--config.epochs=1 --config.batch_size=16 --config.evaluation.batch_size=16"
    " --config.model.width=0.125 --config.model.num_frames=4"
)
SHORT = {
    "quick_start": f'weights = "k400.pth"\nvideo = ""\ndemo_options = "{SMALL} {SMALL_VIDEOS}"',
    "fine_tune": (
        f'videos = ""\nweights = "k400.pth"\noptions = "{SMALL}"\nnum_train, num_test = 32, 16'
    ),
    "train_accelerator": (
        f'config = "demo"\nworkdir = "runs/motion"\noptions = "{SMALL} {SMALL_VIDEOS}"'
    ),
}


def tagged(notebook, tag: str) -> list:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_begins_with_its_one_installation(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (install,) = tagged(notebook, "install")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0] is install
    assert install.source == "%pip install -q squeezetime-jax"
    assert not any("pip install" in cell.source for cell in code[1:])
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Jupyter's own
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(
    name: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (parameters,) = tagged(notebook, "parameters")
    known = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    assert known == {line.split(" = ")[0] for line in SHORT[name].splitlines()}
    parameters.source = SHORT[name]
    tagged(notebook, "install")[0].source = ""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "!squeezetime" in cell.source:
            cell.source += "\nassert _exit_code == 0"  # Jupyter itself goes on after a failure
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
