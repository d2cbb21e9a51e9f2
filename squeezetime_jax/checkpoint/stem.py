"""Fits the stem, which sees all frames at once, to another number of frames."""

import numpy as np


def resample_stem(kernel: np.ndarray, num_frames: int) -> np.ndarray:
    """Fit the stem's kernel to another number of frames; a constant clip gives what it gave.

    To more frames, each frame's kernel is spread over the frames nearest to it in time (an image's
    kernel evenly over all: inflation); to fewer, kernels are gathered as if the clip
    were linearly interpolated to the old number of frames.

    Args:
      kernel: (o, 3 * frames, h, w), channel = colour * frames + frame.
      num_frames: the new number.

    Returns:
      (o, 3 * num_frames, h, w), of the kernel's type.
    """
    o, channels, h, w = kernel.shape
    old = channels // 3
    few, many = sorted((old, num_frames))
    centres = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(few)))  # (many, few)
    spread = weights if num_frames >= old else weights.T  # (new, old)
    spread = spread / spread.sum(0)
    split = kernel.astype(np.float64).reshape(o, 3, old, h, w)
    fitted = np.einsum("nf,ocfhw->ocnhw", spread, split)
    return fitted.reshape(o, 3 * num_frames, h, w).astype(kernel.dtype)


def is_stem(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a kernel of one shape is a stem that can be fitted to the other."""
    frames, rest = divmod(shape[1], 3) if len(shape) == 4 else (0, 0)
    return frames > 0 and rest == 0 and (shape[0], *shape[2:]) == (expected[0], *expected[2:])
