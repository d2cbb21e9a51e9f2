"""Boxes under resizing, cropping and flipping of their frames, and the matching of proposals.

The arithmetic and its order are the reference's (mmaction2, mmdet), in float32: cropping clips to
one pixel less than the window, flipping does not.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Shaped


def to_pixels(
    boxes: Float64[np.ndarray, "k 4"], width: int, height: int
) -> Float32[np.ndarray, "k 4"]:
    """Boxes in shares of a frame, in its pixels."""
    return (boxes * np.array([width, height, width, height])).astype(np.float32)


def resize_boxes(
    boxes: Float32[np.ndarray, "k 4"], old: tuple[int, int], new: tuple[int, int]
) -> Float32[np.ndarray, "k 4"]:
    """Boxes after the frame went from `old` to `new` (width, height)."""
    scale = np.array([new[0] / old[0], new[1] / old[1]], np.float32)
    return boxes * np.tile(scale, 2)


def crop_boxes(
    boxes: Float32[np.ndarray, "k 4"], left: int, top: int, width: int, height: int
) -> Float32[np.ndarray, "k 4"]:
    """Boxes within a window; a box that is outside shrinks to the border, none is dropped."""
    shifted = boxes - np.array([left, top, left, top], np.float32)
    limit = np.array([width - 1, height - 1] * 2, np.float32)
    return np.minimum(np.maximum(shifted, np.float32(0)), limit)


def flip_boxes(boxes: Any, width: int) -> Any:
    """Boxes (..., 4), NumPy's or JAX's, after the frame of that width is mirrored."""
    mirrored = [width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]]
    stack = np.stack if isinstance(boxes, np.ndarray) else jnp.stack
    return stack(mirrored, axis=-1)


def pairwise_iou(
    a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]
) -> Float32[np.ndarray, "n m"]:
    """Overlap over union of every pair, in float32, the union at least 1e-6 (mmdet)."""
    a, b = a.astype(np.float32)[:, None], b.astype(np.float32)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    sides = np.maximum(sides, np.float32(0))
    shared = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    union = np.maximum(areas[0] + areas[1] - shared, np.float32(1e-6))
    return shared / union


def assign(
    truth: Float32[np.ndarray, "g 4"], proposals: Float32[np.ndarray, "p 4"], iou: float = 0.9
) -> tuple[Int64[np.ndarray, " p"], Float32[np.ndarray, " p"]]:
    """Give each proposal the ground-truth box that it overlaps by at least `iou`.

    Args:
      truth: annotated boxes.
      proposals: candidates.
      iou: least overlap.

    Returns:
      For each proposal: 1 + the index of its box, or 0 where it has none; and its highest overlap.
      The proposals with the highest overlap of a box are assigned to it, even if they overlap
      another box more; a later box wins (mmaction2's assigner).
    """
    if not len(truth) or not len(proposals):
        return np.zeros(len(proposals), np.int64), np.zeros(len(proposals), np.float32)
    overlaps = pairwise_iou(truth, proposals)
    highest = overlaps.max(axis=0)
    threshold = np.float32(iou)
    assigned = np.where(highest >= threshold, overlaps.argmax(axis=0) + 1, 0)
    for number, row in enumerate(overlaps):
        if row.max() >= threshold:
            assigned[row == row.max()] = number + 1
    return assigned.astype(np.int64), highest


def training_rois(
    truth: Float32[np.ndarray, "g 4"],
    labels: Shaped[np.ndarray, "g classes"],
    proposals: Float32[np.ndarray, "p 4"],
    *,
    max_boxes: int,
    rng: np.random.Generator,
    iou: float = 0.9,
) -> tuple[Float32[np.ndarray, "r 4"], Shaped[np.ndarray, "r classes"]]:
    """The boxes to train on: the annotated ones, then the proposals that match one.

    The reference also pools boxes that match none; its loss leaves them out, and so does this.

    Args:
      truth: annotated boxes, kept even where cropping left them without area.
      labels: of each annotated box.
      proposals: candidates.
      max_boxes: of more boxes, a random choice is kept, in their order.
      rng: draws the choice.
      iou: least overlap of a proposal with its box.

    Returns:
      The boxes and their labels.
    """
    assigned, _ = assign(truth, proposals, iou)
    matched = np.flatnonzero(assigned)
    boxes = np.concatenate([truth, proposals[matched]])
    owners = np.concatenate([np.arange(len(truth)), assigned[matched] - 1])
    if len(boxes) > max_boxes:
        chosen = np.sort(rng.choice(len(boxes), max_boxes, replace=False))
        boxes, owners = boxes[chosen], owners[chosen]
    return boxes, labels[owners]
