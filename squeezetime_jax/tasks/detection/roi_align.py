"""RoIAlign (arXiv 1703.06870) as two batched matrix products.

A bin is the mean over a grid of bilinear samples, and both the grid and the interpolation are
products of one factor down and one across; so a box's bins are `rows @ map @ columns.T`. The
sampling is adaptive (as many samples along a bin as it is pixels long, rounded up) and aligned (a
pixel's middle is at a half), as the released detector has it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Boxes up to so many frames long are sampled as densely as is asked for; longer ones less so.
_MAX_FRAMES = 4


def roi_align(
    features: Float[Array, "n h w c"],
    boxes: Float[Array, "n k 4"],
    *,
    stride: int,
    bins: int = 8,
) -> Float[Array, "n k bins bins c"]:
    """Pool the features under boxes into bins.

    Args:
      features: maps.
      boxes: x1, y1, x2, y2 in pixels of what the maps are of; no gradient reaches them.
      stride: pixels from one cell of a map to the next.
      bins: along each side of a box.

    Returns:
      The mean feature of each bin; 0 for a box without width or height. Samples more than a cell
      outside of the map count as 0.
    """
    boxes = jax.lax.stop_gradient(boxes).astype(features.dtype)
    height, width = features.shape[1:3]
    rows = _weights(boxes[..., 1], boxes[..., 3], stride, bins, height)
    columns = _weights(boxes[..., 0], boxes[..., 2], stride, bins, width)
    across = jnp.einsum("nkqw,nhwc->nkhqc", columns, features, precision="highest")
    return jnp.einsum("nkph,nkhqc->nkpqc", rows, across, precision="highest")


def _weights(
    low: Float[Array, "n k"], high: Float[Array, "n k"], stride: int, bins: int, size: int
) -> Float[Array, "n k bins size"]:
    """What each cell of a row of the map is worth to each bin, along one axis."""
    most = _MAX_FRAMES * -(-size // bins)
    start, end = low / stride - 0.5, high / stride - 0.5
    step = (end - start) / bins
    count = jnp.clip(jnp.ceil(step), 0, most)
    sample = jnp.arange(most, dtype=low.dtype)
    within = (sample + 0.5) / jnp.maximum(count, 1)[..., None]  # of a bin
    bin_start = start[..., None] + jnp.arange(bins, dtype=low.dtype) * step[..., None]
    place = bin_start[..., None] + within[..., None, :] * step[..., None, None]
    counts = (sample < count[..., None])[..., None, :] & (place >= -1) & (place <= size)
    place = jnp.clip(place, 0, size - 1)
    near = jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(size, dtype=low.dtype)))
    total = jnp.sum(jnp.where(counts[..., None], near, 0), axis=-2)
    return total / jnp.maximum(count, 1)[..., None, None]
