"""The temporal focus convolution (paper, Section 3.2), as pure functions of arrays.

Squeezing folds the frames of a clip into channels, and an ordinary convolution then treats all
frames alike. The temporal focus convolution multiplies each input channel m by a weight w_m that
is computed from the sample itself, so that the convolution can attend to some moments and pass
over others:

    y_o = sum_m  w_m * k_om (*) x_m                                               (Eq. 5)
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def temporal_focus_weights(
    pooled: Float[Array, "n c"],
    reduce: Float[Array, "c c"],
    normalise: Callable[[Array], Array],
    expand: Float[Array, "c c"],
) -> Float[Array, "n c"]:
    """One weight in (0, 1) for each sample and channel (paper, Section 3.2; weight computation).

    Args:
      pooled: what is left of the feature map after pooling over space.
      reduce: kernel of the first 1x1 convolution, without bias.
      normalise: batch norm between the two.
      expand: kernel of the second 1x1 convolution, without bias.
    """
    return jax.nn.sigmoid(jax.nn.relu(normalise(pooled @ reduce)) @ expand)


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c o"],
    bias: Float[Array, " o"] | None = None,
    stride: int = 1,
    pointwise: Literal["product", "convolution"] = "product",
) -> Float[Array, "n fh fw o"]:
    """An ordinary convolution with an odd kernel, padded so that stride 1 keeps the size.

    A 1x1 kernel is a matrix "product" by default, whose gradient takes XLA a fifth of the time on
    CPUs, or a "convolution".
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and pointwise == "product":
        y = x @ kernel[0, 0]
    else:
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=[(side // 2, side // 2) for side in kernel.shape[:2]],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return y if bias is None else y + bias


def temporal_focus_conv(
    x: Float[Array, "n h w c"],
    weights: Float[Array, "n c"],
    kernel: Float[Array, "kh kw c o"],
    bias: Float[Array, " o"] | None = None,
    *,
    weigh: Literal["input", "kernel"] = "input",
) -> Float[Array, "n h w o"]:
    """Temporal focus convolution (Eq. 5), in either of its two forms; they are the same function.

    `weigh="input"` multiplies the feature map: `h*w*c` products a sample, and one ordinary
    convolution for the batch. It is the cheaper form for a batch, in training, and wherever several
    convolutions read the same weighted map.

    `weigh="kernel"` multiplies the kernel: `kh*kw*c*o` products a sample, and a convolution with
    its own kernel for each sample. It is the cheaper form for a single sample whose kernel is
    smaller than its feature map (`kh*kw*o < h*w`), or where the unweighted map is read as well
    and a second copy of it would have to be written.
    """
    if weigh == "input":
        return convolve(x * weights[:, None, None, :], kernel, bias)
    kernels = kernel * weights[:, None, None, :, None]
    return jax.vmap(lambda sample, own: convolve(sample[None], own, bias)[0])(x, kernels)


def pool_space(
    x: Float[Array, "n h w c"], how: Literal["average", "max"] = "average"
) -> Float[Array, "n c"]:
    """What the weight computation sees of space: its average (released code) or maximum (paper)."""
    return jnp.mean(x, (1, 2)) if how == "average" else jnp.max(x, (1, 2))
