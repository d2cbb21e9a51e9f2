import json

import cv2
import numpy as np
import pytest

from squeezetime_jax.data import transforms
from squeezetime_jax.data.video import Video

PROTOCOLS = {
    "val": transforms.VALIDATION,
    "test": transforms.KINETICS_TEST,
    "hmdb_test": transforms.HMDB51_TEST,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["arm_wrestling.mp4", "test.avi"])
def test_views_are_mmaction2s(golden, reference, name, protocol):
    with np.load(golden / "video.npz") as arrays:
        expected = arrays[f"{name.split('.')[0]}.{protocol}.sample"]
    with Video(reference(f"video/{name}")) as video:
        views = transforms.views(video, PROTOCOLS[protocol])
    size = PROTOCOLS[protocol].crop_size
    assert views.shape == (PROTOCOLS[protocol].num_views, 16, size, size, 3)
    sample = views.transpose(0, 4, 1, 2, 3)[:, :, ::5, ::16, ::16]
    assert sample.shape == expected.shape
    # The very same numbers so far; a decoder of another build may round another way.
    assert np.abs(sample.astype(int) - expected).mean((1, 2, 3, 4)).max() <= 1.0


class CountedFrames:
    """A video of noise that tells which frames were asked for."""

    def __init__(self, num_frames, height, width):
        self.pixels = np.random.default_rng(0).integers(
            0, 256, (num_frames, height, width, 3), np.uint8
        )
        self.num_frames = num_frames
        self.times = np.arange(num_frames) / 30
        self.asked = []

    def frames(self, indices, *, short_side=None):
        self.asked += list(indices)
        return transforms.resize_short_side(self.pixels[indices], short_side)


def test_views_are_clips_within_crops_and_each_frame_is_read_once():
    video = CountedFrames(20, 16, 24)
    protocol = transforms.ViewProtocol(2, 3, short_side=16, crop_size=16, num_frames=4)
    views = transforms.views(video, protocol)
    starts, lefts = [0, 7], [0, 8, 4]
    assert len(video.asked) == len(set(video.asked)) == 8
    for crop, left in enumerate(lefts):
        for clip, start in enumerate(starts):
            expected = video.pixels[start : start + 13 : 4, :, left : left + 16]
            np.testing.assert_array_equal(views[crop * 2 + clip], expected)


def test_no_interval_spreads_the_clip_over_the_video():
    protocol = transforms.ViewProtocol(1, 1, 16, 16, num_frames=4, frame_interval=None)
    assert protocol.indices(41).tolist() == [[5, 15, 25, 35]]


def test_three_crops_of_an_upright_video_go_down():
    frames = np.arange(9, dtype=np.uint8)[None, :, None, None] * np.ones((1, 1, 4, 3), np.uint8)
    tops = [int(crop[0, 0, 0, 0]) for crop in transforms.three_crops(frames, 4)]
    # 9 - 4 = 5 is odd: the last crop ends a pixel early, as in mmaction2.
    assert tops == [0, 4, 2]


def test_ten_crops_are_corners_and_centre_mirrored_and_as_they_are():
    frames = np.zeros((1, 8, 12, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.mgrid[:8, :12]
    crops = transforms.ten_crops(frames, 4)
    assert [tuple(crop[0, 0, 0, :2]) for crop in crops[1::2]] == [
        *((0, 0), (0, 8), (4, 0), (4, 8), (2, 4))
    ]
    for mirrored, crop in zip(crops[::2], crops[1::2], strict=True):
        np.testing.assert_array_equal(mirrored, crop[:, :, ::-1])


@pytest.mark.parametrize(("size", "expected"), [((30, 41), (20, 27)), ((41, 30), (27, 20))])
def test_short_side_is_resized_as_opencv_does(size, expected):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    resized = transforms.resize_short_side(frames, 20)
    assert resized.shape == (2, *expected, 3)
    for before, after in zip(frames, resized, strict=True):
        np.testing.assert_array_equal(after, cv2.resize(before, expected[::-1]))


def test_center_crop_takes_the_middle():
    frames = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    np.testing.assert_array_equal(transforms.center_crop(frames, 3), frames[:, 1:4, 2:5])


def test_a_crop_must_fit():
    with pytest.raises(ValueError, match="8 x 8 is larger than frames of 9 x 7"):
        transforms.center_crop(np.zeros((1, 7, 9, 3), np.uint8), 8)


def plain_multi_scale_rectangles(height, width, size=224):
    """All rectangles that the specification allows, by sides."""
    short = min(height, width)
    sides = [int(short * scale) for scale in (1, 0.875, 0.75, 0.66, 0.5)]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    return {(sides[i], sides[j]) for i in range(5) for j in range(5) if abs(i - j) <= 1}


def test_multi_scale_crop_draws_every_rectangle_and_one_per_clip():
    # The colour of a pixel tells its place, so that the crop's corners tell the rectangle.
    y, x = np.mgrid[:256, :340]
    frame = np.stack([y, x // 2, np.zeros_like(x)], -1).astype(np.uint8)
    frames = np.stack([frame, frame])
    rng = np.random.default_rng(0)
    seen, corners = set(), set()
    for _ in range(400):
        crop = transforms.multi_scale_crop(frames, rng)
        assert crop.shape == (2, 224, 224, 3)
        np.testing.assert_array_equal(crop[0], crop[1])
        (top, left), (bottom, right) = crop[0, 0, 0, :2], crop[0, -1, -1, :2]
        height, width = int(bottom) - int(top) + 1, 2 * (int(right) - int(left)) + 1
        corners.add((int(top), int(left)))
        allowed = plain_multi_scale_rectangles(256, 340)
        near = [pair for pair in allowed if abs(pair[0] - height) < 4 and abs(pair[1] - width) < 5]
        assert near, (height, width)
        seen.update(near)
    assert seen == plain_multi_scale_rectangles(256, 340)
    assert len(corners) > 300


def test_multi_scale_crop_snaps_to_the_size():
    # 0.875 of 257 is 224.9: cut as 224, which needs no resizing.
    assert (224, 224) in plain_multi_scale_rectangles(257, 300)
    frames = np.random.default_rng(0).integers(0, 256, (1, 257, 300, 3), np.uint8)
    rng = np.random.default_rng(3)
    exact = 0
    for _ in range(60):
        crop = transforms.multi_scale_crop(frames, rng)[0]
        windows = np.lib.stride_tricks.sliding_window_view(frames[0], (224, 224), axis=(0, 1))
        corner = np.argwhere((windows[:, :, :, 0, 0] == crop[0, 0]).all(-1))
        exact += any(np.array_equal(frames[0][t : t + 224, x : x + 224], crop) for t, x in corner)
    assert exact > 0


def test_test_indices_are_mmaction2s(golden):
    cases = json.loads((golden / "video.json").read_text())["test_indices"]
    assert len(cases) > 50
    for case in cases:
        found = transforms.test_indices(
            case["total_frames"], case["num_clips"], case["clip_len"], case["frame_interval"]
        )
        np.testing.assert_array_equal(found, case["indices"], str(case))


def test_uniform_indices_are_mmaction2s(golden):
    for case in json.loads((golden / "video.json").read_text())["uniform"]:
        expected = np.array(case["indices"])
        found = transforms.uniform_indices(case["total_frames"], expected.shape[1], len(expected))
        np.testing.assert_array_equal(found, expected)


def test_starts_are_rounded_half_to_even():
    # 66 - 61 = 5 over 2 steps: 0, 2.5, 5.
    assert transforms.test_indices(66, 3)[:, 0].tolist() == [0, 2, 5]
    # 68 - 61 = 7 over 2 steps: 0, 3.5, 7.
    assert transforms.test_indices(68, 3)[:, 0].tolist() == [0, 4, 7]


def test_training_clip_starts_anywhere_it_fits():
    rng = np.random.default_rng(0)
    starts = {int(transforms.training_indices(70, rng=rng)[0]) for _ in range(300)}
    assert starts == set(range(70 - 64 + 1))


def test_training_clip_has_its_interval_and_wraps_round():
    rng = np.random.default_rng(0)
    assert np.all(np.diff(transforms.training_indices(500, rng=rng)) == 4)
    assert transforms.training_indices(10, 8, 3, rng=rng).tolist() == [0, 3, 6, 9, 2, 5, 8, 1]


def test_training_clip_is_the_seeds():
    first, again = (
        transforms.training_indices(900, rng=np.random.default_rng(7)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("num_video_frames", [1, 5, 16, 40, 301])
def test_random_uniform_frames_stay_in_their_segments(num_video_frames):
    rng = np.random.default_rng(0)
    segment = (num_video_frames - 1) / 16
    edges = np.round(np.arange(17) * segment)
    drawn = np.concatenate(
        [transforms.uniform_indices(num_video_frames, 16, 1, rng=rng) for _ in range(50)]
    )
    assert np.all((edges[:-1] <= drawn) & (drawn <= edges[1:]))
    assert drawn.max() < num_video_frames
    if num_video_frames == 301:
        assert len(np.unique(drawn[:, 3])) > 10


def test_a_video_without_frames_has_no_clip():
    with pytest.raises(ValueError, match="num_video_frames must be at least 1, got 0"):
        transforms.test_indices(0, 1)
