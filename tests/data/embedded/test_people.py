"""The embedded persons: AVA's formats, and nothing but order tells."""

from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data.embedded import people
from squeezetime_jax.data.embedded.people import People
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.annotations import (
    read_actions,
    read_excluded,
    read_ground_truth,
)
from squeezetime_jax.tasks.detection.boxes import pairwise_iou
from squeezetime_jax.tasks.detection.dataset import KeyFrames
from squeezetime_jax.tasks.detection.proposals import read_proposals

SMALL = People(num_train=6, num_test=3, size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return people.write_people(tmp_path_factory.mktemp("p") / "people", SMALL)


def test_files_are_in_avas_formats(folder: Path) -> None:
    files = people.written(folder, "train")
    actions = read_actions(files.actions)
    assert list(actions.values()) == list(people.ACTIONS)
    assert read_excluded(files.excluded) == set()
    frames = KeyFrames(read_ground_truth(files.ground_truth, max_action=14), 15)
    proposals = read_proposals(files.proposals)
    assert len(frames) == len(proposals) == 6
    for index in range(6):
        key_frame = frames[index]
        assert key_frame.frame == (people.video_id("train", index), people.SECOND)
        assert 2 <= len(key_frame.boxes) <= 4
        assert (key_frame.labels[:, 1 : people.HOURS + 1].sum(axis=1) == 1).all()
        found = proposals.select(key_frame.frame)
        assert len(found) == len(key_frame.boxes)
        overlaps = pairwise_iou(key_frame.boxes, found[:, :4])
        assert (overlaps.max(axis=0) > 0.8).all()
        assert (np.sort(pairwise_iou(key_frame.boxes, key_frame.boxes))[:, :-1] < 0.05).all()
        with Video(files.root / f"{key_frame.frame[0]}.mp4") as video:
            assert (video.num_frames, video.info.fps) == (32, people.FPS)


def test_a_folder_is_continued_or_refused(folder: Path) -> None:
    before = people.written(folder, "test").ground_truth.read_bytes()
    (folder / people._MARKER).write_text(
        (folder / people._MARKER).read_text().replace("true", "false")
    )
    lost = folder / "videos" / "train_00003.mp4"
    whole = lost.read_bytes()
    lost.unlink()
    people.write_people(folder, SMALL)
    assert people.written(folder, "test").ground_truth.read_bytes() == before
    assert len(lost.read_bytes()) == len(whole)
    with pytest.raises(UserError, match="made with num_test=3, not num_test=4"):
        people.write_people(folder, People(num_train=6, num_test=4, size=32))
    with pytest.raises(UserError, match="not empty, and not written by this program"):
        people.write_people(folder / "videos", SMALL)


def place_in(frame: np.ndarray, background: np.ndarray, box: tuple) -> np.ndarray:
    """The middle of what differs from the background within a box, from the box's corner."""
    x1, y1, x2, y2 = (round(64 * c) for c in box)
    seen = np.abs(frame - background).sum(axis=-1)[y1:y2, x1:x2]
    seen = np.where(seen > 60, seen, 0)
    y, x = np.mgrid[: y2 - y1, : x2 - x1]
    return np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()


def test_a_persons_box_does_not_give_its_place_away() -> None:
    """The mean place over the frames is the box's middle, whatever the heading."""
    still = People(size=64, difficulty=0.0)
    for index in range(3):
        frames, persons = people.people_video(still, "train", index)
        background = np.median(frames.astype(float), axis=0)
        for person in persons:
            middle = np.mean([place_in(f, background, person.box) for f in frames], axis=0)
            sides = 64 * np.subtract(person.box[2:], person.box[:2])
            assert np.abs(middle - (sides - 1) / 2).max() < 1.2


def test_headings_are_what_they_are_called() -> None:
    """The person's next frames lie in the direction of its hour."""
    still = People(size=64, difficulty=0.0)
    for index in range(4):
        frames, persons = people.people_video(still, "test", index)
        middle = len(frames) // 2
        background = np.median(frames.astype(float), axis=0)
        for person in persons:
            places = [
                place_in(frames[number], background, person.box)
                for number in (middle - 1, middle + 1)
            ]
            dx, dy = np.subtract(places[1], places[0])
            hour = np.arctan2(dx, -dy) / (2 * np.pi) * 12
            assert abs((hour - person.actions[0] + 6) % 12 - 6) < 1.5
