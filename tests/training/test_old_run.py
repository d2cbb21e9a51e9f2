"""A run that version 0.1 began: it loads, and continues as that version would have."""

import json
import re
import zipfile
from pathlib import Path

import pytest

import squeezetime_jax
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training import config, runner
from squeezetime_jax.training.report import Reporter, read_metrics

FILE = Path(__file__).parent / "data" / "run_of_version_0.1.zip"
CHANGES = {
    "epochs": 3,
    "batch_size": 8,
    "model.width": 0.03125,
    "model.num_frames": 4,
    "model.branches": "tfc",
    "model.gate_init": "released",
    "model.bn_group_size": 4,
    "model.position_grids": (8, 4, 2, 1),
    "data.motion.num_train": 16,
    "data.motion.num_test": 8,
    "data.motion.size": 32,
    "data.motion.num_frames": 8,
    "data.short_side": 32,
    "data.crop_size": 32,
    "evaluation.short_side": 32,
    "evaluation.crop_size": 32,
    "evaluation.batch_size": 8,
    "evaluation.every_epochs": 1.0,
    "optimizer.ema": 0.9,
    "run.log_steps": 1,
    "run.keep": 10,
    "run.tensorboard": False,
    "run.save_epochs": 0.5,
}
"""Of configs/demo.py: 6 steps of 8 clips. The run was made by version 0.1 (git caf6ccd)."""

# ml_collections' own
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Its folder, without what came after step 3; `metrics.jsonl` beside it has all 6 steps."""
    with zipfile.ZipFile(FILE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "run"


def _train(folder: Path, **changes: object) -> None:
    words = [f"--config.{name}={value}" for name, value in {**CHANGES, **changes}.items()]
    runner.train(config.read(["--config=demo", *words]), folder, Reporter())


def test_its_checkpoint_loads(old: Path) -> None:
    model = squeezetime_jax.load(old)
    assert model.config.name == "squeezetime"
    assert model.config.width == 0.03125
    scores = runner.RunCheckpoints(old, Recognition(config.parse(_fields())).meta(None)).scores(2)
    assert scores["top1"] == 0.125  # written by Orbax then


def _fields():
    words = [f"--config.{name}={value}" for name, value in CHANGES.items()]
    return config.read(["--config=demo", *words])


def test_it_continues_as_it_would_have(old: Path) -> None:
    _train(old, **{"data.workers": 0, "evaluation.batch_size": 4})
    found = read_metrics(old)
    expected = [
        json.loads(line) for line in (old.parent / "metrics.jsonl").read_text().splitlines()
    ]
    assert [(line["step"], line["kind"]) for line in found] == [
        (line["step"], line["kind"]) for line in expected
    ]
    assert found[-1]["step"] == 6
    for mine, theirs in zip(found, expected, strict=True):
        mine.pop("kind"), theirs.pop("kind")
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_another_config_is_refused(old: Path) -> None:
    with pytest.raises(UserError, match=re.escape("optimizer.momentum: 0.9 -> 0.8; choose")):
        _train(old, **{"optimizer.momentum": 0.8})
