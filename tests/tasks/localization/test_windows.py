from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.tasks.localization.annotations import (
    Annotations,
    Instance,
    VideoFacts,
    read_annotations,
)
from squeezetime_jax.tasks.localization.config import Window
from squeezetime_jax.tasks.localization.dataset import (
    clip_indices,
    instances_of,
    offsets,
    training_windows,
)
from squeezetime_jax.tasks.localization.losses import priors

# Facts of the reference's own run on its own files.


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (100, [0]),
        (256, [0]),
        (257, [0, 1]),
        (384, [0, 128]),
        (400, [0, 128, 144]),
        (640, [0, 128, 256, 384]),
        (641, [0, 128, 256, 384, 385]),
    ],
)
def test_the_last_test_window_ends_with_the_video(num_frames: int, expected: list[int]) -> None:
    assert offsets(num_frames, 256, 128) == expected


def test_thumos14_has_7842_training_windows(thumos14: Path) -> None:
    windows = training_windows(read_annotations(thumos14, "val"))
    assert len(windows) == 7842
    assert len({window.video for window in windows}) == 196
    assert sum(len(window.classes) for window in windows) == 22_416
    assert max(len(window.classes) for window in windows) == 26
    first = windows[0]
    assert (first.video, first.offset) == ("video_validation_0000051", 510)
    assert (first.segments.tolist(), first.classes.tolist()) == ([[165, 249]], [3])
    lengths = np.concatenate([window.segments @ [-1, 1] for window in windows])
    expected = [2.0, 5.0, 7.0, 15.0, 28.0, 50.0, 86.1]
    found = np.quantile(lengths, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95])
    assert found.round(1).tolist() == expected


def test_thumos14_has_3485_test_windows(thumos14: Path) -> None:
    videos = read_annotations(thumos14, "test").videos.values()
    counts = [len(offsets(video.sample_count, 256, 128)) for video in videos]
    assert (len(counts), sum(counts), max(counts)) == (212, 3485, 130)


def test_native_frames_become_sampled_ones_by_the_counts_of_both(thumos14: Path) -> None:
    annotations = read_annotations(thumos14, "val")
    first = instances_of(annotations, "video_validation_0000051", "frames")[0]
    assert first.tolist() == [675.0, 759.0]
    facts = annotations.videos["video_validation_0000990"]
    assert 1602 * facts.sample_count / facts.count == 533.7093086554164
    # The reference's frames of this video were counted at another rate; seconds are right.
    odd = "video_validation_0000666"
    by_frames, by_seconds = (instances_of(annotations, odd, base) for base in ("frames", "seconds"))
    off = np.abs(by_frames - by_seconds)[:, 0] / 10
    assert (off.min().round(), off.max().round()) == (38, 129)


def _split(segments: list[tuple[int, int, int]]) -> Annotations:
    """One video of 320 sampled frames, segments in them."""
    rows = tuple(Instance(c, (s / 10, e / 10), (3.0 * s, 3.0 * e)) for s, e, c in segments)
    return Annotations(("",) * 20, {"v": VideoFacts(30.0, 960, 320)}, {"v": rows})


def test_a_window_has_the_instances_that_it_holds_half_of() -> None:
    split = _split([(10, 50, 4), (240, 300, 7), (300, 310, 9), (0, 20, 11)])
    found = {
        window.offset: [[*s, c] for s, c in zip(window.segments, window.classes, strict=True)]
        for window in training_windows(split)
    }
    # At 30 the window holds three quarters of the second, but none whole.
    assert found == {
        0: [[10, 50, 4], [1, 20, 11]],
        60: [[180, 240, 7], [240, 250, 9]],
        64: [[176, 236, 7], [236, 246, 9]],
    }


def test_segments_come_from_native_frames_or_from_seconds() -> None:
    """300 of 1000 native frames are sampled; the instance lasts from 5 to 20 s."""
    instance = Instance(1, (5.0, 20.0), (100.0, 500.0))
    split = Annotations(("",), {"v": VideoFacts(33.0, 1000, 300)}, {"v": (instance,)})
    assert instances_of(split, "v", "frames").tolist() == [[30.0, 150.0]]
    assert instances_of(split, "v", "seconds").tolist() == [[50.0, 200.0]]


# Clips of a window.


def test_the_clips_are_centred_on_the_priors_of_their_cells() -> None:
    clips = clip_indices(Window(), 16)
    assert clips.shape == (32, 16)
    assert clips[0].tolist() == [0, 0, 0, 0, *range(12)]
    assert clips[31].tolist() == [*range(244, 256), 255, 255, 255, 255]
    assert clips[5].tolist() == list(range(36, 52))
    centres = clips[1:-1].mean(axis=1) + 0.5  # between the eighth and the ninth frame
    assert centres.tolist() == priors((32,), 256)[1:-1].tolist()


def test_padding_may_be_behind_or_grey() -> None:
    clips = clip_indices(Window(padding=(0, 8), padding_mode="zero"), 16)
    assert clips[0].tolist() == list(range(16))
    assert clips[31].tolist() == [*range(248, 256), *[-1] * 8]
