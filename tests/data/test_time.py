"""Clips in time: the same span from videos of any rate, from files and from shards."""

import numpy as np
import pytest
import videos

from squeezetime_jax.data import jpeg, records, transforms
from squeezetime_jax.data.transforms import AtRate, TrainingClip, ViewProtocol
from squeezetime_jax.data.video import FrameSequence, Video, timed_stream

RATES = (24, 25, 30, 50, 60, 120, 240)
SECONDS = 1.3
TICK = videos.Fraction(1, 48_000)


def file_of_rate(rate):
    """A video of so many frames per second, or of a variable rate, and its times."""
    if rate == "variable":
        times = np.cumsum(np.random.default_rng(0).integers(5, 60, 50)) / 1000
    else:
        times = np.arange(round(SECONDS * rate)) / rate
    pts = np.round(times / float(TICK)).astype(int)
    pictures = videos.moving_frames(len(pts), 16, 32)
    data = videos.encode(pictures, "mp4", "mpeg4", {"g": "12"}, pts=pts.tolist(), time_base=TICK)
    return data, times - times[0]


class Watched:
    """A video that remembers the times of the frames that were read."""

    def __init__(self, video):
        self._video, self.num_frames, self.times = video, video.num_frames, video.times

    def frames(self, indices, *, short_side=None):
        self.read = self.times[np.asarray(indices)]
        return self._video.frames(indices, short_side=short_side)


@pytest.mark.parametrize("form", ["file", *records.FORMS])
@pytest.mark.parametrize("rate", [*RATES, "variable"])
def test_a_clip_spans_the_same_time_at_any_rate(rate, form):
    data, times = file_of_rate(rate)
    stored = data if form == "file" else records.encode(data, form)
    with records.open_record(stored, "x") as opened:
        assert np.abs(opened.times - times).max() < 1e-4
        video = Watched(opened)
        gap = np.diff(times).max()
        clip = TrainingClip(16, 2, 16, 16, "center", target_fps=30.0)
        clip.cut(video, np.random.default_rng(1))
        assert abs(np.ptp(video.read) - 15 * 2 / 30) <= gap
        protocol = ViewProtocol(1, 1, 16, 16, num_frames=16, frame_interval=2, target_fps=30.0)
        transforms.views(video, protocol)
        assert abs(np.ptp(video.read) - 15 * 2 / 30) <= gap
        assert abs(np.mean(video.read) - times[-1] / 2) <= 0.1  # a single clip is in the middle


def test_at_its_own_rate_a_video_is_itself():
    data, _ = file_of_rate(30)
    with Video(data) as opened:
        video = Watched(opened)
        at_rate = AtRate(video, 30.0)
        assert at_rate.num_frames == video.num_frames
        at_rate.frames(np.arange(video.num_frames))
        np.testing.assert_array_equal(video.read, video.times)


def test_the_nearest_frame_is_taken_and_of_two_the_earlier():
    class Frames:
        num_frames, times = 3, np.array([0.0, 0.1, 0.9])

        def frames(self, indices, *, short_side=None):
            return np.asarray(indices, np.uint8)[:, None, None, None].repeat(3, -1)

    video = AtRate(Frames(), 10.0)
    assert video.num_frames == 14  # the last frame is shown as long as the middle one of the gaps
    found = video.frames(np.arange(14))[:, 0, 0, 0]
    assert found.tolist() == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]


def test_times_that_reach_for_aeons_take_no_memory():
    data = videos.encode(videos.moving_frames(3), "matroska", pts=[0, 40, 1 << 50])
    with Video(data) as opened:
        clip = TrainingClip(4, 4, 16, 16, "center", target_fps=240.0)
        assert clip.cut(opened, np.random.default_rng(0)).shape == (4, 16, 16, 3)


def test_frames_without_times_are_thirty_a_second():
    pictures = [records.encode_jpeg(frame) for frame in videos.moving_frames(4)]
    np.testing.assert_allclose(FrameSequence(pictures).times, np.arange(4) / 30)
    stamped = [jpeg.with_time(picture, 0.5 * k) for k, picture in enumerate(pictures)]
    np.testing.assert_allclose(FrameSequence(stamped).times, np.arange(4) / 2)
    np.testing.assert_array_equal(
        FrameSequence(stamped).frames(range(4)), FrameSequence(pictures).frames(range(4))
    )


@pytest.mark.parametrize("name", videos.ENCODINGS)
def test_times_are_those_of_a_player(name):
    data = videos.encode(videos.moving_frames(20), *videos.ENCODINGS[name])
    with Video(data) as opened:
        np.testing.assert_allclose(opened.times, np.arange(20) / 25, atol=2e-3)
    slack = 0.081 if name == "avi-h264" else 2e-3  # it has no presentation times at all
    times = [seconds for seconds, _ in timed_stream(data)]
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=slack)
