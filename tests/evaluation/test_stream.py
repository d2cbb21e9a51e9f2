"""Scores of frames as they arrive, beside those of the same frames in a file."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from small import SAMPLING

import squeezetime_jax as st
from squeezetime_jax.data import transforms
from squeezetime_jax.evaluation.stream import Moment, Stream
from squeezetime_jax.evaluation.views import RuntimeScorer, Sampling, Scorer

WINDOW = 7  # 4 frames, 2 apart


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def scorer(model: st.SqueezeTime) -> Scorer:
    return Scorer(model)


class Held:
    """A video whose frames are there already."""

    def __init__(self, held: np.ndarray) -> None:
        self._held = held
        self.num_frames = len(held)
        self.times = np.arange(len(held)) / 25

    def frames(self, indices: np.ndarray, *, short_side: int | None = None) -> np.ndarray:
        assert short_side is not None
        return transforms.resize_short_side(self._held[indices], short_side)


def offline(scorer: Scorer, frames: np.ndarray) -> np.ndarray:
    """Scores of a video of these frames, by the one-view protocol."""
    views = transforms.views(Held(frames), SAMPLING.protocol("1x1", 4))
    return np.asarray(scorer.scores(views[None])[0])


def pushed(stream: Stream, frames: np.ndarray) -> list[Moment]:
    moments = (stream.push(frame, number / 25) for number, frame in enumerate(frames))
    return [moment for moment in moments if moment]


def test_equals_the_same_frames_in_a_file(scorer: Scorer, frames: np.ndarray) -> None:
    found = pushed(Stream(scorer, sampling=SAMPLING, hop=3), frames)
    assert [moment.frame for moment in found] == [6, 9, 12, 15, 18]
    for moment in found:
        assert moment.seconds == moment.frame / 25
        window = frames[moment.frame + 1 - WINDOW : moment.frame + 1]
        np.testing.assert_allclose(moment.scores, offline(scorer, window), atol=1e-6)


def silent() -> RuntimeScorer:
    """A network that says nothing."""
    return RuntimeScorer(lambda clips: np.zeros((1, 3), np.float32))


def numbered(number: int) -> np.ndarray:
    """A frame that tells its number."""
    return np.broadcast_to(np.array([*divmod(number, 256), 0], np.uint8), (8, 8, 3))


@pytest.mark.parametrize("rate", [10, 24, 25, 30, 50, 60, 120, 240, "variable"])
def test_a_clip_in_time_is_that_of_a_file(rate: int | str) -> None:
    gaps = np.random.default_rng(0).integers(4, 120, 60) / 1000
    times = np.cumsum(gaps) if rate == "variable" else np.arange(2 * int(rate)) / int(rate) + 7
    sampling = Sampling(one_crop_side=8, crop_size=8, frame_interval=4, fps=30.0)
    stream = Stream(
        RuntimeScorer(lambda clips: np.zeros((1, 3), np.float32)), sampling=sampling, num_frames=8
    )
    clips = {}
    for number, time in enumerate(times):
        if stream.push(numbered(number), float(time)):
            clip, count, _, _ = stream._ring.clip()
            clips[count] = clip
    file = Held(np.stack([numbered(number) for number in range(len(times))]))
    file.times = times - times[0]
    assert len(clips) > 3
    for count, clip in clips.items():
        found = transforms.AtRate(file, 30.0).frames(np.arange(count - 29, count, 4), short_side=8)
        np.testing.assert_array_equal(clip, found)


def test_a_pause_and_a_new_start_do_not_fill_the_window() -> None:
    sampling = Sampling(one_crop_side=8, crop_size=8, frame_interval=1, fps=10.0)
    stream = Stream(
        RuntimeScorer(lambda clips: np.zeros((1, 3), np.float32)), sampling=sampling, num_frames=4
    )
    for number, time in enumerate([0.0, 0.1, 0.2, 1e9, 1e9 + 0.1, 0.0, 0.1]):
        stream.push(numbered(number), time)
    assert stream._ring.count == stream.num_frames == 7


def test_scores_are_smoothed(scorer: Scorer, frames: np.ndarray) -> None:
    found = pushed(Stream(scorer, sampling=SAMPLING, hop=1, smoothing=0.25), frames[:8])
    first, second = (offline(scorer, frames[k : k + WINDOW]) for k in (0, 1))
    np.testing.assert_allclose(found[1].scores, 0.75 * first + 0.25 * second, atol=1e-6)


def test_the_window_is_all_that_is_held(scorer: Scorer) -> None:
    stream = Stream(scorer, sampling=SAMPLING, hop=1000)
    held = stream._ring.frames
    assert held.shape == (WINDOW, 32, 32, 3)
    for number in range(30):
        stream.push(np.full((40, 56, 3), number, np.uint8))
    assert stream._ring.frames is held
    assert sorted(held[:, 0, 0, 0]) == list(range(23, 30))
    assert stream.num_frames == 30


class Slow:
    """A network whose first clip takes it as long as the source takes to its end."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.working, self.read = threading.Event(), threading.Event()

    def frames(self, count: int) -> Iterator[tuple[float, np.ndarray]]:
        for number in range(count):
            if number == WINDOW:
                assert self.working.wait(10)
            yield float(number), np.full((32, 32, 3), number, np.uint8)
        self.read.set()

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.seen.append(clips[0, :, 0, 0, 0].tolist())
        self.working.set()
        assert self.read.wait(10)
        return np.zeros((1, 3), np.float32)


def test_a_slow_network_sees_the_latest_window_of_a_live_source() -> None:
    network = Slow()
    stream = Stream(RuntimeScorer(network), sampling=SAMPLING, num_frames=4, hop=2)
    found = list(stream.follow(network.frames(30), live=True))
    # The first window, then, of the eleven that were due meanwhile, the one at the end.
    assert [moment.frame for moment in found] == [6, 29]
    assert network.seen == [[0, 2, 4, 6], [23, 25, 27, 29]]
    assert found[1].seconds == 29.0
    np.testing.assert_allclose(found[0].scores, 1 / 3)


def test_a_source_that_is_no_faster_loses_nothing(scorer: Scorer, frames: np.ndarray) -> None:
    stream = Stream(scorer, sampling=SAMPLING, hop=3)
    found = list(stream.follow(((0.0, frame) for frame in frames), live=False))
    assert [moment.frame for moment in found] == [6, 9, 12, 15, 18]


def test_what_goes_wrong_with_a_live_source_is_raised(scorer: Scorer) -> None:
    def broken() -> Iterator[tuple[float, np.ndarray]]:
        yield 0.0, np.zeros((40, 56, 3), np.uint8)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Stream(scorer, sampling=SAMPLING).follow(broken(), live=True))


def test_a_live_source_is_left_alone_afterwards(scorer: Scorer) -> None:
    taken = []

    def endless() -> Iterator[tuple[float, np.ndarray]]:
        while True:
            taken.append(len(taken))
            yield 0.0, np.zeros((32, 32, 3), np.uint8)

    moments = Stream(scorer, sampling=SAMPLING).follow(endless(), live=True)
    next(moments)
    moments.close()
    (reader,) = [t for t in threading.enumerate() if t.name == "stream"] or [None]
    if reader:
        reader.join(10)
        assert not reader.is_alive()


@pytest.mark.parametrize("wrong", [{"hop": 0}, {"smoothing": 0.0}, {"smoothing": 1.5}])
def test_what_makes_no_sense_is_refused(scorer: Scorer, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Stream(scorer, **wrong)
    with pytest.raises(ValueError, match="num_frames"):
        Stream(RuntimeScorer(lambda clips: np.zeros((1, 3), np.float32)))
