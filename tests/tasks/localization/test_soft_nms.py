"""Goldens: the reference's own soft-NMS and decoding on these inputs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.tasks.localization.config import Inference
from squeezetime_jax.tasks.localization.inference import (
    Candidates,
    Detection,
    merge,
    segments_and_scores,
    soft_nms,
)
from squeezetime_jax.tasks.localization.localize import inside
from squeezetime_jax.tasks.localization.losses import priors

PARITY = Inference()
WHOLE = Inference(drops_last=False)
FIVE = [(0, 10, 0.9), (1, 11, 0.8), (20, 30, 0.7), (2, 9, 0.6), (21, 29, 0.0105)]


def suppress(rows: list[tuple], inference: Inference, dtype: type = np.float32) -> list[list]:
    """[start, end, score] of what remains."""
    table = np.array(rows, dtype)
    kept, scores = soft_nms(table[:, :2], table[:, 2], inference)
    return np.column_stack([table[kept, :2], scores[kept]]).tolist()


def test_soft_nms_scores_as_the_reference_in_both_precisions() -> None:
    single = [0.9, 0.07870988547801971, 0.7, 0.22518667578697205]
    double = [0.9, 0.07870988510764443, 0.7, 0.22518665931083973]
    for dtype, expected, tolerance in ((np.float32, single, 3e-8), (np.float64, double, 1e-16)):
        found = suppress(FIVE, PARITY, dtype)
        assert [row[:2] for row in found] == [list(row[:2]) for row in FIVE[:4]]
        assert [row[2] for row in found] == pytest.approx(expected, abs=tolerance)


def test_the_last_segment_is_lost_only_where_the_reference_is_followed() -> None:
    found = suppress(FIVE, WHOLE, np.float64)
    assert len(found) == 5
    assert found[4] == pytest.approx([21, 29, 0.002919391654758538], abs=1e-15)
    assert suppress(FIVE[:1], PARITY) == []
    assert suppress(FIVE[:1], WHOLE) == [pytest.approx([0, 10, 0.9])]
    assert [row[:2] for row in suppress(FIVE[:3], PARITY)] == [[0, 10], [20, 30]]
    twins = [(0, 10, 0.9), (0, 10, 0.5)]
    assert [row[2] for row in suppress(twins, PARITY)] == [pytest.approx(0.9)]
    assert [row[2] for row in suppress(twins, WHOLE, float)][1] == pytest.approx(0.5 * np.exp(-2))


def test_no_more_than_top_k_remain_and_none_below_the_least_score() -> None:
    assert len(suppress(FIVE, dataclasses.replace(WHOLE, top_k=2))) == 2
    assert len(suppress(FIVE, dataclasses.replace(WHOLE, drop_below=0.1))) == 3


def _decode(lengths: tuple, place: list, scores: list, offset: int) -> Candidates:
    """Candidates of class 0, one distance pair and score a prior."""
    logits = np.log([[1 - s, s] for s in scores])
    outputs = {"distances": jnp.array([place], float), "logits": jnp.array([logits], float)}
    points = jnp.asarray(priors(lengths, 256), outputs["logits"].dtype)
    segments, values = segments_and_scores(outputs, points, 256)
    return Candidates.of_window(np.asarray(segments[0]), np.asarray(values[0]), offset, 0.01)


@pytest.mark.usefixtures("float64")
def test_segments_are_cut_at_the_window_and_are_in_seconds() -> None:
    """The prior at 208 frames with (20, 70) in the window from 128 on."""
    lengths = (8,)
    place = [[0, 0]] * 6 + [[20, 70]] + [[0, 0]]
    found = _decode(lengths, place, [0.001] * 6 + [0.5, 0.001], 128)
    assert found.segments.tolist() == [pytest.approx([31.6, 38.4], abs=1e-6)]


@pytest.mark.usefixtures("float64")
def test_windows_are_merged_as_in_the_reference() -> None:
    windows = [
        _decode((2,), [[30, 40], [10, 80]], [0.6, 0.5], 0),
        _decode((2,), [[60, 12], [5, 5]], [0.4, 0.009], 128),
    ]
    assert windows[0].segments.ravel().tolist() == pytest.approx([3.4, 10.4, 18.2, 25.6])
    assert windows[1].segments.ravel().tolist() == pytest.approx([13.2, 20.4])  # .009 fails
    found = merge(windows, PARITY)
    expected = [Detection(0, 0.6, 3.4, 10.4), Detection(0, 0.5, 18.2, 25.6)]
    assert [pytest.approx(each, abs=1e-6) for each in expected] == [tuple(each) for each in found]
    assert len(merge(windows, WHOLE)) == 3
    assert merge([], PARITY) == []


@pytest.mark.usefixtures("float64")
def test_the_quality_scales_the_scores() -> None:
    outputs = {
        "distances": jnp.ones((1, 1, 2)),
        "logits": jnp.log(jnp.array([[[0.2, 0.8]]])),
        "quality": jnp.zeros((1, 1)),
    }
    _, scores = segments_and_scores(outputs, jnp.array([128.0]), 256)
    assert scores.ravel().tolist() == pytest.approx([0.4])


def test_detections_beyond_the_end_of_a_video_are_not_shown() -> None:
    found = [
        Detection(0, 0.5, 1.0, 2.0),
        Detection(1, 0.5, 9.0, 12.0),
        Detection(2, 0.5, 10.0, 11.0),
    ]
    assert inside(found, 10.0) == [found[0], Detection(1, 0.5, 9.0, 10.0)]
