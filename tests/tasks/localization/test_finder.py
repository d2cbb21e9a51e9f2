from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_localizer import HEAD, SMALL, WINDOW

from squeezetime_jax.tasks.localization import losses
from squeezetime_jax.tasks.localization.config import Inference
from squeezetime_jax.tasks.localization.dataset import clip_indices, offsets
from squeezetime_jax.tasks.localization.inference import (
    STAGES,
    Candidates,
    Finder,
    merge,
    segments_and_scores,
)
from squeezetime_jax.tasks.localization.model import Localizer, normalise_frames

# Windows that share clips: 16 frames, clips of 4 at stride 2, a window every 6 frames.
INFERENCE = Inference(stride=6, min_score=0.2, drops_last=False)


@pytest.fixture(scope="module")
def model() -> Localizer:
    model = Localizer(SMALL, WINDOW, HEAD, nnx.Rngs(0))
    model.eval()
    return model


@pytest.fixture(scope="module")
def finder(model: Localizer) -> Finder:
    return Finder(model, INFERENCE)


def video(num_frames: int) -> np.ndarray:
    return np.random.default_rng(num_frames).integers(0, 256, (num_frames, 36, 36, 3), np.uint8)


def by_windows(model: Localizer, frames: np.ndarray) -> list:
    """Detections of windows that are each seen whole, in one piece."""
    length = WINDOW.num_frames
    points = jnp.asarray(losses.priors(model.head.lengths, length), jnp.float32)
    candidates = []
    see = nnx.jit(lambda model, window: model(window))
    for offset in offsets(len(frames), length, INFERENCE.stride):
        part = frames[offset : offset + length, 2:34, 2:34]
        window = normalise_frames(jnp.asarray(part), WINDOW, jnp.float32)
        window = jnp.pad(window, ((0, length - len(part)), *[(0, 0)] * 3))  # grey
        segments, scores = segments_and_scores(see(model, window[None]), points, length)
        arrays = np.asarray(segments[0]), np.asarray(scores[0])
        candidates.append(Candidates.of_window(*arrays, offset, INFERENCE.min_score))
    return merge(candidates, INFERENCE)


@pytest.mark.parametrize("num_frames", [9, 16, 47])
def test_shared_clips_change_nothing(model: Localizer, finder: Finder, num_frames: int) -> None:
    found = finder.find(iter(video(num_frames)))
    expected = by_windows(model, video(num_frames))
    assert len(found.detections) == len(expected) > 0
    np.testing.assert_allclose(found.detections, expected, atol=1e-3)
    assert found.num_frames == num_frames
    assert found.cost["windows"] == len(offsets(num_frames, 16, 6))
    assert all(found.cost[stage] > 0 for stage in STAGES)


@pytest.mark.parametrize("num_frames", [16, 47, 400])
def test_each_distinct_clip_is_seen_once(finder: Finder, num_frames: int) -> None:
    rows = clip_indices(WINDOW, SMALL.num_frames)
    distinct = {
        (rows[k] + offset).tobytes()
        for offset in offsets(num_frames, 16, 6)
        for k in range(len(rows))
    }
    found = finder.find(iter(video(num_frames)))
    assert found.cost["clips"] == len(distinct)
    assert num_frames == 16 or len(distinct) < 0.75 * found.cost["windows"] * len(rows)


def test_a_long_video_is_held_a_piece_at_a_time(finder: Finder) -> None:
    alive: dict[int, int] = {}
    frames = video(64)

    class Counted(np.ndarray):
        """An array that says when it is gone."""

        def __del__(self) -> None:
            if self.base is not None and self.ndim == 3:
                alive["now"] = alive["now"] - 1

    def source() -> Iterator[np.ndarray]:
        for number in range(600):
            frame = frames[number % 64].copy()[None].view(Counted)[0]
            alive["now"] = alive.get("now", 0) + 1
            alive["highest"] = max(alive.get("highest", 0), alive["now"])
            yield frame

    found = finder.find(source())
    assert found.num_frames == 600
    assert alive["highest"] < 100  # 8 windows at stride 6 and one more


def test_a_video_without_frames_holds_nothing(finder: Finder) -> None:
    found = finder.find(iter(()))
    assert (found.detections, found.cost["windows"], found.cost["clips"]) == ([], 0, 0)


def test_the_control_shuffles_the_frames_of_each_clip_alike_in_every_run(
    model: Localizer, finder: Finder
) -> None:
    frames = video(47)
    first, again = (Finder(model, INFERENCE, shuffle=3).find(iter(frames)) for _ in range(2))
    assert first.detections == again.detections
    assert first.detections != finder.find(iter(frames)).detections
    still = np.repeat(frames[:1], 16, axis=0)
    assert (
        Finder(model, INFERENCE, shuffle=3).find(iter(still)).detections
        == finder.find(iter(still)).detections
    )
