import itertools
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data.embedded import scenes
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization import dataset as frames
from squeezetime_jax.tasks.localization.annotations import VideoFacts, read_annotations
from squeezetime_jax.tasks.localization.config import Data

FACTS = VideoFacts(25.0, 30, 12)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 30 grey frames, 25 a second, each 5 grey levels above the one before."""
    folder = tmp_path_factory.mktemp("videos")
    levels = 40 + 5 * np.arange(30, dtype=np.uint8)
    grey = np.broadcast_to(levels[:, None, None, None], (30, 32, 48, 3))
    scenes.encode(folder / "v.mp4", np.ascontiguousarray(grey), 25)
    return folder


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (30.0, [2, 5, 8, 11, 14]),
        (25.0, [2, 4, 7, 9, 12]),
        (20.0, [1, 3, 5, 7, 9]),
        (10.0, [0, 1, 2, 3, 4]),
        (5.0, [0, 0, 1, 1, 2]),
    ],
)
def test_ten_frames_a_second_are_the_references(fps: float, expected: list[int]) -> None:
    counts = enumerate(itertools.islice(frames.repeats(fps), 20))
    numbers = [number for number, count in counts for _ in range(count)]
    assert numbers[:5] == expected


def test_the_counts_are_those_of_the_tables(thumos14: Path) -> None:
    for video in read_annotations(thumos14, "val").videos.values():
        assert frames.num_sampled(video.count, video.fps) == video.sample_count


def test_a_file_streams_as_it_is_prepared(videos: Path, tmp_path: Path) -> None:
    streamed = list(frames.stream(videos / "v.mp4", 36))
    levels = [frame.mean() for frame in streamed]
    expected = [40 + 5 * n for n in (2, 4, 7, 9, 12, 14, 17, 19, 22, 24, 27, 29)]
    assert levels == pytest.approx(expected, abs=2)
    assert streamed[0].shape == (36, 36, 3)
    data = Data(videos=str(videos), arrays=str(tmp_path))
    assert frames.write_array(data, 36, ("v", FACTS)) == 12
    prepared = frames.read_array(tmp_path, "v", 36)
    assert (np.asarray(prepared) == np.stack(streamed)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


def test_only_missing_videos_are_prepared(videos: Path, tmp_path: Path) -> None:
    frames.write_array(Data(videos=str(videos), arrays=str(tmp_path)), 36, ("v", FACTS))
    before = (tmp_path / "v.npy").stat().st_mtime_ns
    frames.write_arrays({"v": FACTS}, Data(videos="nowhere", arrays=str(tmp_path)), 36)
    assert (tmp_path / "v.npy").stat().st_mtime_ns == before


def test_what_is_missing_or_another_video_is_named(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="video w not found with any suffix"):
        frames.find_video(videos, "w")
    data = Data(videos=str(videos), arrays=str(tmp_path))
    with pytest.raises(UserError, match=r"v.mp4: 12 frames .* the video table says 30"):
        frames.write_array(data, 36, ("v", VideoFacts(25.0, 75, 30)))
    with pytest.raises(UserError, match=r"w.npy: cannot be read as a prepared video"):
        frames.read_array(tmp_path, "w", 36)


def test_a_hostile_or_foreign_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"p.npy: cannot be read as a prepared video"):
        frames.read_array(tmp_path, "p", 36)
    np.save(tmp_path / "f.npy", np.zeros((3, 36, 36, 3), np.float32))
    with pytest.raises(UserError, match=r"f.npy: expected uint8 .*, got float32 \(3, 36, 36, 3\)"):
        frames.read_array(tmp_path, "f", 36)
    np.save(tmp_path / "s.npy", np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"s.npy: expected .*, got uint8 .*window.stored_side"):
        frames.read_array(tmp_path, "s", 36)
    (tmp_path / "t.npy").write_bytes((tmp_path / "s.npy").read_bytes()[:500])
    with pytest.raises(UserError, match=r"t.npy: cannot be read"):
        frames.read_array(tmp_path, "t", 32)
