import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    "--config.epochs=1",
    "--config.batch_size=16",
    "--config.model.width=0.125",
    "--config.model.num_frames=4",
    "--config.data.motion.num_train=32",
    "--config.data.motion.num_test=16",
    "--config.data.motion.size=32",
    "--config.data.motion.num_frames=8",
    "--config.data.short_side=32",
    "--config.data.crop_size=32",
    "--config.evaluation.short_side=32",
    "--config.evaluation.crop_size=32",
    "--config.evaluation.batch_size=16",
]


def run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "squeezetime_jax", "demo", "--workdir", folder, *SMALL],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_demo_makes_a_page_and_uses_what_is_there_when_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = run_demo(folder)
    assert first.returncode == 0, first.stderr
    assert "starting from scratch" in first.stdout
    assert f"squeezetime eval --config demo --checkpoint {folder}" in first.stdout
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing outside the page
    names = {"gallery", "confusion", "frame_order", "focus_weights"}
    assert {file.stem for file in (folder / "pictures").iterdir()} == names
    results = json.loads((folder / "results.json").read_text())
    videos = {name: scores["videos"] for name, scores in results.items()}
    assert videos == {"one_view": 16, "several": 16, "shuffled": 3 * 16, "reversed": 16}

    made = (folder / "videos" / "test.txt").stat().st_mtime_ns
    again = run_demo(folder)
    assert again.returncode == 0, again.stderr
    assert "found 48 of them made" in again.stdout
    assert "nothing is left to train" in again.stdout
    assert (folder / "videos" / "test.txt").stat().st_mtime_ns == made
    assert json.loads((folder / "results.json").read_text()) == results


def test_demo_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"precious")
    refused = run_demo(tmp_path)
    assert refused.returncode == 1
    assert "holds something that is no motion data set" in refused.stderr.splitlines()[-1]
