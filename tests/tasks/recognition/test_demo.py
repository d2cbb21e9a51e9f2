import json
import re
import shutil
from pathlib import Path

import pytest


@pytest.mark.slow
def test_demo_makes_a_page_and_uses_what_is_there_when_run_again(
    demo, demo_run, tmp_path: Path
) -> None:
    assert "starting from scratch" in demo_run.output
    assert f"squeezetime eval --config demo --checkpoint {demo_run.folder}" in demo_run.output
    folder = tmp_path / "demo"
    shutil.copytree(demo_run.folder, folder)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    # Nothing outside the page but the page of the mistakes.
    assert not re.search(r'(src|href)="(?!data:|mistakes/report.html")', page)
    assert (folder / "mistakes" / "report.html").is_file()
    names = {"gallery", "confusion", "frame_order", "focus_weights"}
    assert {file.stem for file in (folder / "pictures").iterdir()} == names
    results = json.loads((folder / "results.json").read_text())
    videos = {name: scores["videos"] for name, scores in results.items()}
    assert videos == {"one_view": 16, "several": 16, "shuffled": 3 * 16, "reversed": 16}

    made = (folder / "videos" / "test.txt").stat().st_mtime_ns
    again = demo(folder)
    assert again.returncode == 0, again.stderr
    assert "found 48 of them made" in again.stdout
    assert "nothing is left to train" in again.stdout
    assert (folder / "videos" / "test.txt").stat().st_mtime_ns == made
    assert json.loads((folder / "results.json").read_text()) == results


def test_demo_refuses_a_folder_of_something_else(demo, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"precious")
    refused = demo(tmp_path)
    assert refused.returncode == 1
    assert "not empty, and not a motion data set" in refused.stderr.splitlines()[-1]
