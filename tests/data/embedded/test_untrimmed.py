import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data import video
from squeezetime_jax.data.embedded import untrimmed
from squeezetime_jax.data.embedded.untrimmed import Untrimmed, draw_segments
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import read_annotations, read_ground_truth

SMALL = Untrimmed(num_train=2, num_test=1, size=32, seconds=(10, 14))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrimmed.write_untrimmed(tmp_path_factory.mktemp("untrimmed") / "data", SMALL)


def test_the_files_are_thumos14s_and_agree(folder: Path) -> None:
    truth, videos = read_ground_truth(folder / "thumos_gt.json", "test")
    assert videos == {"video_test_0000000"}
    test = read_annotations(folder, "test")
    (own,) = test.instances.values()
    assert len(own) == len(truth.videos) > 0
    for instance, label, segment in zip(own, truth.labels, truth.segments, strict=True):
        assert test.class_names[instance.class_id - 1] == label
        assert instance.seconds == tuple(segment)
        assert instance.frames == tuple(20 * segment)
    for name, facts in read_annotations(folder, "val").videos.items():
        info = video.probe(folder / "videos" / f"{name}.mp4")
        assert (info.num_frames, info.fps) == (facts.count, 20.0)
        assert facts.sample_count == facts.count // 2


def test_a_finished_set_is_reused_and_another_refused(folder: Path) -> None:
    before = (folder / "untrimmed.json").stat().st_mtime_ns
    untrimmed.write_untrimmed(folder, SMALL)
    assert (folder / "untrimmed.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="made with seed=0, not seed=1; choose another folder"):
        untrimmed.write_untrimmed(folder, dataclasses.replace(SMALL, seed=1))
    with pytest.raises(UserError, match="not empty, and not written by this program"):
        untrimmed.write_untrimmed(folder / "videos", SMALL)


def test_segments_overlap_in_pairs_of_two_classes_with_the_given_share() -> None:
    overlapping = total = 0
    for seed in range(40):
        found = draw_segments(np.random.default_rng(seed), 60, 0.3)
        total += len(found)
        for number, one in enumerate(found):
            later = [other for other in found[number + 1 :] if other.start < one.end]
            assert len(later) <= 1
            overlapping += len(later)
            assert all(other.label != one.label for other in later)
            assert one.end <= 59.5
            assert one.start == round(one.start, 1)
    assert 0.1 < overlapping / total < 0.3
    alone = draw_segments(np.random.default_rng(0), 60, 0.0)
    assert all(a.end < b.start for a, b in itertools.pairwise(alone))


def test_shapes_move_in_segments_only() -> None:
    still = Untrimmed(difficulty=0.0, overlaps=0.0, size=32)
    frames, segments = untrimmed.video(still, "val", 0)
    change = np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    times = (np.arange(len(change)) + 1) / 20
    inside = np.zeros(len(change), bool)
    for segment in segments:
        inside |= (segment.start <= times) & (times < segment.end)
    assert change[~inside].max() == 0
    assert (change[inside] > 0).mean() > 0.95


def test_videos_differ_and_follow_from_the_seed() -> None:
    first, segments = untrimmed.video(SMALL, "val", 0)
    again, same = untrimmed.video(SMALL, "val", 0)
    assert (first == again).all()
    assert segments == same
    other, _ = untrimmed.video(SMALL, "test", 0)
    assert other.shape != first.shape or (other != first).any()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seconds must be two ascending .* got \(3, 9\)"):
        Untrimmed(seconds=(3, 9))
