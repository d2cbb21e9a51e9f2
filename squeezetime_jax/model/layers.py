"""The plain layers that the network is built from, with the released initialisation."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.tfc import convolve


def normal_param(shape: tuple[int, ...], std: float, config: NetworkConfig) -> nnx.Param:
    """A parameter that `initialise` will draw from a normal distribution."""
    return nnx.Param(np.zeros(shape, config.param_dtype), std=std)


def uniform_param(shape: tuple[int, ...], bound: float, config: NetworkConfig) -> nnx.Param:
    """A parameter that `initialise` will draw uniformly from +-`bound`."""
    return nnx.Param(np.zeros(shape, config.param_dtype), bound=bound)


def truncated_param(shape: tuple[int, ...], std: float, config: NetworkConfig) -> nnx.Param:
    """A parameter that `initialise` will draw from a normal distribution cut at two `std`."""
    return nnx.Param(np.zeros(shape, config.param_dtype), truncated_std=std)


def initialise(model: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draw every parameter that has a distribution, all of one distribution at once.

    XLA compiles each draw of `jax.random` anew for each shape, a second or so apiece; drawing once
    and cutting up takes a network of a hundred shapes from a minute to a second.
    """
    parameters = [variable for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    draws: dict[str, Callable[..., Array]] = {
        "std": jax.random.normal,
        "bound": partial(jax.random.uniform, minval=-1, maxval=1),
        "truncated_std": lambda key, shape, dtype: jax.random.truncated_normal(
            key, -2, 2, shape, dtype
        ),
    }
    for scale, draw in draws.items():
        chosen = [p for p in parameters if scale in p.get_metadata()]
        ends = list(itertools.accumulate(math.prod(p.shape) for p in chosen))
        if not chosen:
            continue
        drawn = draw(rngs.params(), (ends[-1],), chosen[0].dtype)
        is_traced = isinstance(drawn, jax.core.Tracer)
        numbers = drawn if is_traced else np.asarray(drawn)  # NumPy cuts without compiling
        for p, end in zip(chosen, ends, strict=True):
            values = numbers[end - math.prod(p.shape) : end].reshape(p.shape)
            p.set_value(jnp.asarray(values * np.asarray(p.get_metadata()[scale], p.dtype)))


class Conv(nnx.Module):
    """A square 2-D convolution, odd-sized, padded so that stride 1 keeps the size.

    The kernel starts He-normal with fan-out, the bias as PyTorch's default: uniform in
    +-1/sqrt(fan-in).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        side: int,
        config: NetworkConfig,
        *,
        stride: int = 1,
        bias: bool = False,
    ):
        shape = (side, side, in_features, out_features)
        self.kernel = normal_param(shape, math.sqrt(2 / (out_features * side**2)), config)
        self.bias = nnx.data(
            uniform_param((out_features,), 1 / math.sqrt(in_features * side**2), config)
            if bias
            else None
        )
        self.stride = stride
        self.dtype = config.compute_dtype

    def arrays(self) -> tuple[Float[Array, "side side i o"], Float[Array, " o"] | None]:
        """Kernel and bias, in the dtype that the network computes in."""
        bias = None if self.bias is None else self.bias[...].astype(self.dtype)
        return self.kernel[...].astype(self.dtype), bias

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n fh fw o"]:
        """Convolve."""
        return convolve(x, *self.arrays(), stride=self.stride)


class Linear(nnx.Module):
    """A matrix product and a bias.

    The kernel starts normal with standard deviation `std`, the bias at 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        config: NetworkConfig,
        *,
        std: float = 0.01,
        bias: bool = True,
    ):
        self.kernel = normal_param((in_features, out_features), std, config)
        zeros = jnp.zeros(out_features, config.param_dtype)
        self.bias = nnx.Param(zeros) if bias else nnx.data(None)
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Multiply and add."""
        y = x @ self.kernel[...].astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class DepthwiseHalving(nnx.Module):
    """Halves a feature map with a depthwise 2x2 convolution, stride 2, no padding, with bias.

    Odd sizes floor: 7 becomes 3. The convolution is written as four weighted strided slices, the
    same arithmetic; XLA's grouped convolution is up to sixty times slower on CPUs.
    """

    def __init__(self, num_features: int, config: NetworkConfig):
        # PyTorch counts the fan-out of a depthwise convolution over all channels.
        fan_in, fan_out = 4, 4 * num_features
        self.kernel = normal_param((2, 2, num_features), math.sqrt(2 / fan_out), config)
        self.bias = uniform_param((num_features,), 1 / math.sqrt(fan_in), config)
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
        """Halve both sides of the feature map."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return halve(x, kernel, bias)


@jax.jit
def halve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "2 2 c"], bias: Float[Array, " c"]
) -> Float[Array, "n h//2 w//2 c"]:
    """The depthwise 2x2 convolution of stride 2, as four weighted strided slices."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, i:height:2, j:width:2] * kernel[i, j] for i in (0, 1) for j in (0, 1)]
    return sum(corners[1:], corners[0]) + bias


class PositionEncoding(nnx.Module):
    """A learned map that tells positions apart, added to a feature map of any size."""

    def __init__(self, side: int, num_features: int, config: NetworkConfig):
        self.grid = normal_param((side, side, num_features), math.sqrt(2 / side**2), config)
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Add the map, resized bilinearly with corners aligned where the sizes differ."""
        return x + resize_grid(jnp.asarray(self.grid[...]), x.shape[1:3]).astype(self.dtype)


def resize_grid(grid: Float[Array, "p p c"], size: Sequence[int]) -> Float[Array, "h w c"]:
    """A map of another size, bilinearly with corners aligned; as it is where the sizes agree."""
    if tuple(size) == grid.shape[:2]:
        return grid
    rows, columns = (resize_matrix(grid.shape[0], side, grid.dtype) for side in size)
    return jnp.einsum("hp,wq,pqc->hwc", rows, columns, grid, precision="highest")


def resize_matrix(old: int, new: int, dtype: jnp.dtype = jnp.float32) -> Float[Array, "new old"]:
    """Linear interpolation from `old` to `new` points, first and last points kept in place.

    This is `align_corners=True` of PyTorch's `interpolate`, which `jax.image.resize` has not.
    """
    step = (old - 1) / (new - 1) if new > 1 else 0.0
    positions = jnp.arange(new)[:, None] * jnp.asarray(step, dtype)
    return jnp.maximum(0, 1 - jnp.abs(positions - jnp.arange(old))).astype(dtype)
