"""The page of an evaluation."""

import re
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import annotation_list
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.evaluation import scoring
from squeezetime_jax.tasks.recognition import page
from squeezetime_jax.tasks.recognition.scores import VideoScores


@pytest.fixture
def scores(videos: Path) -> VideoScores:
    """11 videos of 8 classes; the third and the tenth are taken for class 0 with 90 % and 60 %."""
    labels = np.arange(11) % 8
    wrong = {2: 0.9, 9: 0.6}
    found = np.full((11, 8), 0.01)
    for row, label in enumerate(labels):
        found[row, label] = 0.93
        if wrong.get(row):
            found[row] = (1 - wrong[row]) / 7
            found[row, 0] = wrong[row]
    source = annotation_list(videos / "test.txt", videos, videos / "label_map.txt")
    protocol = ViewProtocol(num_clips=1, num_crops=1, short_side=32, crop_size=32, num_frames=4)
    return VideoScores(found, labels, np.arange(11), source, protocol, motion.CLASSES)


def test_the_page_contains_its_pictures_and_links_to_the_wrong_videos(
    scores: VideoScores, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "the page"
    scoring.report(scoring.Scored(scores, 11, {}), {}, save=folder)
    assert f"wrote {folder / 'report.html'}" in capsys.readouterr().err
    text = (folder / "report.html").read_text()
    pictures = {"confusion", "reliability", "classes", "mistake1", "mistake2"}
    assert {file.stem for file in folder.glob("*.png")} == pictures
    assert text.count('src="data:image/png;base64,') == len(pictures)
    assert "81.8 % of 11 videos recognised" in text
    assert "moving down taken for moving right" in text
    titles = re.findall(r"<h3>\d\. (.*?)</h3>", text)
    assert titles[0] == "moving right (90.0 %); labelled moving down (1.4 %)"
    links = [urllib.parse.unquote(link) for link in re.findall(r'<a href="(.*?)">', text)]
    expected = [scores.source[k].video for k in (2, 9)]
    assert [(folder / link).resolve() for link in links] == expected


def test_a_picture_or_a_folder_is_expected(scores: VideoScores, tmp_path: Path) -> None:
    with pytest.raises(scoring.UserError, match=r"page\.doc: expected a folder, for the page, or"):
        scoring.report(scoring.Scored(scores, 11, {}), {}, save=tmp_path / "page.doc")


def test_mistakes_are_the_wrong_ones_the_most_confident_first(scores: VideoScores) -> None:
    assert page.mistakes(scores.scores, scores.labels).tolist() == [2, 9]


def test_the_most_confused_classes_of_many() -> None:
    confusion = 5 * np.eye(50, dtype=np.int64)
    confusion[40, 3], confusion[7, 40] = 2, 1
    assert page.most_confused(confusion) == [3, 7, 40]
    assert page.most_confused(confusion[:5, :5]) == [0, 1, 2, 3, 4]
