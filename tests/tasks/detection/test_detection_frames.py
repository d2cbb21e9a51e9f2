"""Which frames make a clip, beside mmaction2's numbers; and where they are read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from squeezetime_jax.data.embedded import scenes
from squeezetime_jax.data.video import VideoError
from squeezetime_jax.tasks.detection.frames import FolderFrames, Sampling, VideoFrames, open_frames


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (902, list(range(30, 91, 4))),
        (903, list(range(60, 121, 4))),
        (1798, list(range(26910, 26971, 4))),
        (900, [1] * 8 + [2, *range(6, 31, 4)]),
        (901, [1, *range(4, 61, 4)]),
        (1799, list(range(26940, 27001, 4))),
    ],
)
def test_frames_of_a_second(second: int, expected: list[int]) -> None:
    assert Sampling().numbers(second).tolist() == expected
    earlier = [max(number - 1, 1) for number in expected]
    assert Sampling(frame_offset=0).numbers(second).tolist() == earlier


def test_training_moves_each_frame_by_itself() -> None:
    drawn = Sampling().numbers(902, np.random.RandomState(0))
    expected = [28, 35, 37, 40, 47, 51, 55, 59, 61, 67, 69, 74, 76, 83, 86, 88]
    assert drawn.tolist() == expected
    many = np.stack([Sampling().numbers(950, np.random.default_rng(k)) for k in range(200)])
    moved = many - Sampling().numbers(950)
    assert (moved.min(), moved.max()) == (-2, 1)
    assert (np.diff(many, axis=1) >= 1).all()


def test_a_bad_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="frame_offset must be 0 or 1, got 2"):
        Sampling(frame_offset=2)
    with pytest.raises(ValueError, match="end must be more than 900, got 900"):
        Sampling(end=900)


def grey(number: int, size: int = 32) -> np.ndarray:
    return np.full((size, size, 3), 5 * number, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v").mkdir()
    for number in range(1, 20):
        cv2.imwrite(str(tmp_path / "v" / f"img_{number:05}.jpg"), grey(number))
    return tmp_path


def test_frames_of_folders(folder: Path) -> None:
    frames = open_frames(folder, Sampling())
    assert isinstance(frames, FolderFrames)
    found = frames.read(("v", 902), np.array([3, 3, 19]))
    assert found.mean(axis=(1, 2, 3)).round().tolist() == [15, 15, 95]
    with pytest.raises(VideoError, match=r"img_00020\.jpg: cannot read the frame \(No such file"):
        frames.read(("v", 902), np.array([20]))
    (folder / "v" / "img_00004.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(VideoError, match=r"img_00004\.jpg"):
        frames.read(("v", 902), np.array([4]))
    cv2.imwrite(str(folder / "v" / "img_00005.jpg"), grey(5, 48))
    with pytest.raises(VideoError, match="frames of 2 sizes"):
        frames.read(("v", 902), np.array([5, 6]))


def test_frames_of_videos(tmp_path: Path) -> None:
    """A file of 10 frames a second from second 900 on: frame n shows (n - 1) / 30 s later."""
    scenes.encode(tmp_path / "v.mp4", np.stack([grey(n) for n in range(40)]), 10)
    frames = open_frames(tmp_path, Sampling(), begins_at=900.0)
    assert isinstance(frames, VideoFrames)
    found = frames.read(("v", 900), np.array([1, 4, 31, 61])).mean(axis=(1, 2, 3)) / 5
    np.testing.assert_allclose(found, [0, 1, 10, 20], atol=0.5)
    with pytest.raises(VideoError, match=r"v\.mp4: 40 frames from second 900 on, but .* 909.97"):
        frames.read(("v", 900), np.array([300]))
    with pytest.raises(VideoError, match="no such video"):
        frames.read(("w", 900), np.array([1]))
