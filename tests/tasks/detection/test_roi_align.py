"""RoIAlign beside mmcv's numbers and a plain reading."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.tasks.detection.detector import roi_align

ALIGN = jax.jit(roi_align, static_argnames=("stride", "bins"))
BOXES = np.array(
    [(0, 0, 256, 256), (64, 32, 128, 224), (40, 40, 40, 90), (10.5, 200.25, 60.75, 255)],
    np.float32,
)


def test_the_kernel_of_mmcv_on_a_ramp() -> None:
    ramp = np.arange(16)[:, None] + 0.1 * np.arange(16)
    maps = np.float32(ramp)[None, :, :, None]
    found = np.asarray(ALIGN(maps, BOXES[None], stride=16))[0, ..., 0]
    np.testing.assert_allclose(found[:, 0, 0], [0.55, 2.625, 0, 12.264746], rtol=1e-6)
    np.testing.assert_allclose(found[:, 7, 7], [15.95, 13.475, 0, 15.310059], rtol=1e-6)
    np.testing.assert_allclose(found.sum((1, 2)), [528.0, 515.2, 0, 887.76093], rtol=1e-6)
    np.testing.assert_allclose(found[0, 0], 0.55 + 0.2 * np.arange(8), rtol=1e-6)
    np.testing.assert_allclose(np.diff(found[1, 0]), 0.05, atol=1e-6)


def plain(features: np.ndarray, box: np.ndarray, stride: int, bins: int) -> np.ndarray:
    """One box, sample by sample."""
    height, width, channels = features.shape
    x1, y1, x2, y2 = box / np.float32(stride) - np.float32(0.5)
    step_y, step_x = (y2 - y1) / np.float32(bins), (x2 - x1) / np.float32(bins)
    rows, columns = max(math.ceil(step_y), 0), max(math.ceil(step_x), 0)
    out = np.zeros((bins, bins, channels))
    for p, q in np.ndindex(bins, bins):
        for i, j in np.ndindex(rows, columns):
            y = y1 + p * step_y + (i + 0.5) * step_y / rows
            x = x1 + q * step_x + (j + 0.5) * step_x / columns
            if -1 <= y <= height and -1 <= x <= width:
                out[p, q] += bilinear(features, max(y, 0), max(x, 0))
    return out / max(rows * columns, 1)


def bilinear(features: np.ndarray, y: float, x: float) -> np.ndarray:
    height, width, _ = features.shape
    top, left = int(y), int(x)
    if top >= height - 1:
        top = y = height - 1
    if left >= width - 1:
        left = x = width - 1
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, r = y - top, x - left
    return (
        (1 - b) * (1 - r) * features[top, left] + (1 - b) * r * features[top, right]
        + b * (1 - r) * features[bottom, left] + b * r * features[bottom, right]
    )  # fmt: skip


@pytest.mark.parametrize("place", range(4))
def test_random_boxes_beside_a_plain_reading(place: int) -> None:
    """250 boxes each: within the frame, degenerate, sticking out of it, far outside."""
    rng = np.random.default_rng(place)
    features = rng.standard_normal((1, 16, 12, 3)).astype(np.float32)
    frame = np.array([192, 256, 192, 256], np.float32)
    corners = np.sort(rng.uniform(0, 1, (250, 2, 2)), axis=1).reshape(250, 4)
    if place == 1:
        corners[::2, 2] = corners[::2, 0]
        corners[1::2, 3] = corners[1::2, 1]
        corners[::5] = corners[::5, [2, 3, 0, 1]]
    elif place == 2:
        corners = 2 * corners - 0.5
    elif place == 3:
        corners = corners + rng.choice([-1.5, 1.5], (250, 1))
    boxes = np.float32(corners) * frame
    found = np.asarray(ALIGN(features, boxes[None], stride=16, bins=8))[0]
    expected = np.stack([plain(features[0], box, 16, 8) for box in boxes])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_clip_has_its_own_map_and_boxes() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 8, 8, 2)).astype(np.float32)
    boxes = np.float32(rng.uniform(0, 60, (2, 3, 4)).cumsum(-1) % 64)
    together = ALIGN(features, boxes, stride=8, bins=4)
    for n in range(2):
        alone = ALIGN(features[n : n + 1], boxes[n : n + 1], stride=8, bins=4)
        np.testing.assert_allclose(together[n], alone[0], atol=1e-6)


def test_the_gradient_is_that_of_finite_differences(float64: None) -> None:
    rng = np.random.default_rng(1)
    features = jnp.asarray(rng.standard_normal((1, 6, 5, 1)))
    boxes = jnp.asarray([[(3.0, 5.0, 60.0, 70.0), (0, 0, 16, 16), (-9, 20, 30, 200)]])
    weights = jnp.asarray(rng.standard_normal((1, 3, 4, 4, 1)))

    def value(features: jax.Array, boxes: jax.Array) -> jax.Array:
        return jnp.sum(weights * roi_align(features, boxes, stride=16, bins=4) ** 2)

    gradient, of_boxes = jax.grad(value, argnums=(0, 1))(features, boxes)
    value = jax.jit(value)
    for place in np.ndindex(features.shape):
        step = jnp.zeros_like(features).at[place].set(1e-5)
        slope = (value(features + step, boxes) - value(features - step, boxes)) / 2e-5
        assert gradient[place] == pytest.approx(float(slope), abs=1e-8)
    assert not np.asarray(of_boxes).any()
