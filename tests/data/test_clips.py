import json

import numpy as np
import pytest

from squeezetime_jax.data import clips


def test_test_indices_are_mmaction2s(golden):
    cases = json.loads((golden / "video.json").read_text())["test_indices"]
    assert len(cases) > 50
    for case in cases:
        found = clips.test_indices(
            case["total_frames"], case["num_clips"], case["clip_len"], case["frame_interval"]
        )
        np.testing.assert_array_equal(found, case["indices"], str(case))


def test_uniform_indices_are_mmaction2s(golden):
    for case in json.loads((golden / "video.json").read_text())["uniform"]:
        expected = np.array(case["indices"])
        found = clips.uniform_indices(case["total_frames"], expected.shape[1], len(expected))
        np.testing.assert_array_equal(found, expected)


def test_starts_are_rounded_half_to_even():
    # 66 - 61 = 5 over 2 steps: 0, 2.5, 5.
    assert clips.test_indices(66, 3)[:, 0].tolist() == [0, 2, 5]
    # 68 - 61 = 7 over 2 steps: 0, 3.5, 7.
    assert clips.test_indices(68, 3)[:, 0].tolist() == [0, 4, 7]


def test_training_clip_starts_anywhere_it_fits():
    rng = np.random.default_rng(0)
    starts = {int(clips.training_indices(70, rng=rng)[0]) for _ in range(300)}
    assert starts == set(range(70 - 64 + 1))


def test_training_clip_has_its_interval_and_wraps_round():
    rng = np.random.default_rng(0)
    assert np.all(np.diff(clips.training_indices(500, rng=rng)) == 4)
    assert clips.training_indices(10, 8, 3, rng=rng).tolist() == [0, 3, 6, 9, 2, 5, 8, 1]


def test_training_clip_is_the_seeds():
    first, again = (clips.training_indices(900, rng=np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("num_video_frames", [1, 5, 16, 40, 301])
def test_random_uniform_frames_stay_in_their_segments(num_video_frames):
    rng = np.random.default_rng(0)
    segment = (num_video_frames - 1) / 16
    edges = np.round(np.arange(17) * segment)
    drawn = np.concatenate(
        [clips.uniform_indices(num_video_frames, 16, 1, rng=rng) for _ in range(50)]
    )
    assert np.all((edges[:-1] <= drawn) & (drawn <= edges[1:]))
    assert drawn.max() < num_video_frames
    if num_video_frames == 301:
        assert len(np.unique(drawn[:, 3])) > 10


def test_a_video_without_frames_has_no_clip():
    with pytest.raises(ValueError, match="num_video_frames is 0"):
        clips.test_indices(0, 1)
