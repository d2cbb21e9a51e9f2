"""The plain layers that the network is built from, with the released initialisation."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import SqueezeTimeConfig

he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def uniform_bias(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for the bias of a convolution: uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple, dtype: jnp.dtype, *_: object) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nnx.Conv):
    """A square 2-D convolution, odd-sized, "same" padding, He-normal with fan-out.

    Args:
      bias: whether there is one; most convolutions stand before a batch norm and have none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        side: int,
        config: SqueezeTimeConfig,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        bias: bool = False,
    ):
        super().__init__(
            in_features,
            out_features,
            kernel_size=(side, side),
            strides=stride,
            padding=side // 2,
            use_bias=bias,
            kernel_init=he_normal,
            bias_init=uniform_bias(in_features * side * side),
            dtype=config.compute_dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )


class DepthwiseHalving(nnx.Module):
    """Halves a feature map with a depthwise 2x2 convolution, stride 2, no padding, with bias.

    Odd sizes floor: 7 becomes 3. The convolution is written as four weighted strided slices, the
    same arithmetic; XLA's grouped convolution is up to sixty times slower on CPUs.
    """

    def __init__(self, num_features: int, config: SqueezeTimeConfig, rngs: nnx.Rngs):
        dtype = config.param_dtype
        # PyTorch counts the fan-out of a depthwise convolution over all channels.
        kernel_init = nnx.initializers.normal(math.sqrt(2 / (4 * num_features)))
        self.kernel = nnx.Param(kernel_init(rngs.params(), (2, 2, num_features), dtype))
        self.bias = nnx.Param(uniform_bias(4)(rngs.params(), (num_features,), dtype))
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
        """Halve both sides of the feature map."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        corners = [x[:, i:height:2, j:width:2] * kernel[i, j] for i in (0, 1) for j in (0, 1)]
        return sum(corners[1:], corners[0]) + bias


class PositionEncoding(nnx.Module):
    """A learned map that tells positions apart, added to a feature map of any size."""

    def __init__(self, side: int, num_features: int, config: SqueezeTimeConfig, rngs: nnx.Rngs):
        init = nnx.initializers.normal(math.sqrt(2 / side**2))
        self.grid = nnx.Param(init(rngs.params(), (side, side, num_features), config.param_dtype))
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Add the map, resized bilinearly with corners aligned where the sizes differ."""
        grid = self.grid[...]
        rows, columns = (resize_matrix(grid.shape[0], size, grid.dtype) for size in x.shape[1:3])
        if x.shape[1:3] != grid.shape[:2]:
            grid = jnp.einsum("hp,wq,pqc->hwc", rows, columns, grid, precision="highest")
        return x + grid.astype(self.dtype)


def resize_matrix(old: int, new: int, dtype: jnp.dtype = jnp.float32) -> Float[Array, "new old"]:
    """Linear interpolation from `old` to `new` points, first and last points kept in place.

    This is `align_corners=True` of PyTorch's `interpolate`, which `jax.image.resize` has not.
    """
    step = (old - 1) / (new - 1) if new > 1 else 0.0
    positions = jnp.arange(new)[:, None] * jnp.asarray(step, dtype)
    return jnp.maximum(0, 1 - jnp.abs(positions - jnp.arange(old))).astype(dtype)
