"""Boxes beside mmaction2's and mmdet's numbers."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.tasks.detection.annotations import read_ground_truth
from squeezetime_jax.tasks.detection.boxes import (
    assign,
    crop_boxes,
    flip_boxes,
    resize_boxes,
    to_pixels,
    training_rois,
)
from squeezetime_jax.tasks.detection.proposals import read_proposals


def f32(*boxes: tuple[float, ...]) -> np.ndarray:
    return np.array(boxes, np.float32).reshape(-1, 4)


def test_a_frame_of_640x360_through_resize_crop_resize_and_flip() -> None:
    shares = np.array(
        [(0.031, 0.162, 0.670, 0.995), (0.9, 0.1, 0.98, 0.4), (0.011, 0.157, 0.655, 0.983)]
    )
    boxes = resize_boxes(to_pixels(shares, 640, 360), (640, 360), (512, 288))
    np.testing.assert_allclose(boxes[0], (15.872, 46.656, 343.04, 286.56), rtol=1e-7)
    boxes = crop_boxes(boxes, left=215, top=5, width=216, height=216)
    expected = f32(
        (0, 41.656002, 128.04001, 215),
        (215, 23.800001, 215, 110.200005),  # all outside: no width is left, and it stays
        (0, 40.216, 120.36002, 215),
    )
    np.testing.assert_allclose(boxes, expected, rtol=2e-7)
    boxes = resize_boxes(boxes, (216, 216), (256, 256))
    expected = f32(
        (0, 49.370075, 151.75113, 254.81482),
        (254.81482, 28.207409, 254.81482, 130.60741),
        (0, 47.663406, 142.64891, 254.81482),
    )
    np.testing.assert_allclose(boxes, expected, rtol=2e-7)
    flipped = flip_boxes(boxes, 256)
    expected = f32(
        (104.24887, 49.370075, 256, 254.81482), (1.1851807, 28.207409, 1.1851807, 130.60741)
    )
    np.testing.assert_allclose(flipped[:2], expected, rtol=2e-7)
    np.testing.assert_array_equal(flip_boxes(jnp.asarray(boxes), 256), flipped)


def test_assignment_in_the_sample_of_mmaction2(reference: Callable[[str], Path]) -> None:
    sample = reference("annotations/ava_sample/eval_detection")
    truth = read_ground_truth(sample / "gt.csv").boxes[:4].astype(np.float32)
    found = read_proposals(sample / "proposal.pkl").all_of(("3reY9zJKhqN", 1774))
    boxes = found[:, :4].astype(np.float32)
    assigned, overlaps = assign(truth, boxes, iou=0.5)
    assert assigned.tolist() == [0, 0, 3, 3, 0, 0, 0, 1, 0, 0]
    expected = [
        0.40386841, 0.47127257, 0.53544776, 0.58797631, 0.29281288,
        0.40979504, 0.45902917, 0.50093938, 0.21560125, 0.32948171,
    ]  # fmt: skip
    np.testing.assert_allclose(overlaps, expected, atol=1e-7)
    assert not assign(truth, boxes, iou=0.9)[0].any()


@pytest.mark.parametrize(
    ("truth", "proposals", "expected"),
    [
        (
            f32((0, 0, 100, 100), (50, 50, 150, 150)),
            f32(
                (2, 2, 101, 101), (0, 0, 100, 100), (50, 50, 150, 155), (200, 200, 210, 210),
                (0, 0, 100, 96),
            ),
            [1, 1, 2, 0, 1],
        ),
        # Nearer to the first, but the best that the second has.
        (f32((0, 0, 100, 100), (0, 0, 100, 96)), f32((0, 0, 100, 98.5)), [2]),
        # No area; exactly 0.9; just below.
        (
            f32((0, 0, 100, 100), (0, 0, 0, 0)),
            f32((0, 0, 0, 0), (0, 0, 100, 90), (0, 0, 100, 89.9)),
            [0, 1, 0],
        ),
        (f32(), f32((0, 0, 1, 1)), [0]),
        (f32((0, 0, 1, 1)), f32(), []),
    ],
)  # fmt: skip
def test_assignment_beside_the_reference(
    truth: np.ndarray, proposals: np.ndarray, expected: list[int]
) -> None:
    assert assign(truth, proposals)[0].tolist() == expected


def test_overlaps_of_the_second_example() -> None:
    truth = f32((0, 0, 100, 100), (50, 50, 150, 150))
    proposals = f32((2, 2, 101, 101), (50, 50, 150, 155), (0, 0, 100, 96))
    np.testing.assert_allclose(assign(truth, proposals)[1], [0.941846, 0.952381, 0.96], atol=1e-6)


def test_training_boxes_are_the_annotated_ones_and_those_that_match() -> None:
    truth = f32((0, 0, 100, 100), (50, 50, 150, 150), (5, 5, 5, 5))
    labels = np.eye(3, 6, dtype=bool)
    proposals = f32((2, 2, 101, 101), (200, 200, 210, 210), (50, 50, 150, 155))
    rng = np.random.default_rng(0)
    boxes, found = training_rois(truth, labels, proposals, max_boxes=32, rng=rng)
    np.testing.assert_array_equal(boxes, np.concatenate([truth, proposals[[0, 2]]]))
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 0, 1]
    everything = np.concatenate([truth, proposals[[0, 2]]])
    for _ in range(5):  # three of the five, in their order
        boxes, found = training_rois(truth, labels, proposals, max_boxes=3, rng=rng)
        places = [int(np.flatnonzero((everything == box).all(axis=1))[0]) for box in boxes]
        assert len(places) == 3
        assert places == sorted(set(places))
        assert found.argmax(axis=1).tolist() == [(0, 1, 2, 0, 1)[place] for place in places]
