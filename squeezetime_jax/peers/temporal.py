"""Operations that mix the frames of a feature map inside a network of 2-D convolutions."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, uniform_param
from squeezetime_jax.model.norm import EPSILON, BatchNorm
from squeezetime_jax.peers.layers import Conv, ConvNorm, Padding, Triple


class Shift(nnx.Module):
    """TSM: an eighth of the channels comes from the next frame, an eighth from the one before.

    Lin et al. 2019, arXiv 1811.08383. Beyond the ends of a clip there are zeros.
    """

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Shift."""
        fold = x.shape[-1] // 8
        nothing = jnp.zeros_like(x[:, :1, ..., :fold])
        following = jnp.concatenate([x[:, 1:, ..., :fold], nothing], axis=1)
        preceding = jnp.concatenate([nothing, x[:, :-1, ..., fold : 2 * fold]], axis=1)
        return jnp.concatenate([following, preceding, x[..., 2 * fold :]], axis=-1)


class Interlace(nnx.Module):
    """TIN: a quarter of the channels, in four groups, moves in time by learned distances.

    Shao et al. 2020, arXiv 2001.06499. Two distances in (-2, 2) frames are computed from the clip;
    the other two groups move the opposite way. A distance between two whole numbers mixes the two
    frames. What arrives at a frame is then multiplied by a learned weight in (0, 2). The clip has
    `config.num_frames` frames.
    """

    def __init__(self, num_features: int, config: NetworkConfig):
        self.num_moving = num_features // 4
        t = config.num_frames
        self.offset_conv = _frame_conv(self.num_moving, 1, config)
        self.offset_hidden = _linear(t, t, config)
        self.offset_out = _linear(t, 2, config)
        self.offset_out.bias = nnx.Param(jnp.full(2, 0.5108, config.param_dtype))  # about 1 frame
        self.weight_conv = _frame_conv(self.num_moving, 2, config)
        self.weight_conv.bias = nnx.Param(jnp.zeros(2, config.param_dtype))  # a weight of 1

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Interlace."""
        moving, rest = x[..., : self.num_moving], x[..., self.num_moving :]
        pooled = jnp.mean(moving, (2, 3), keepdims=True)
        hidden = self.offset_conv(pooled)[:, :, 0, 0, 0]
        distances = 4 * jax.nn.sigmoid(self.offset_out(jax.nn.relu(self.offset_hidden(hidden)))) - 2
        distances = jnp.concatenate([distances, -distances], axis=1)
        weights = 2 * jax.nn.sigmoid(self.weight_conv(pooled))
        moved = [
            _move(group, distances[:, i]) * weights[..., i % 2, None]
            for i, group in enumerate(jnp.split(moving, 4, axis=-1))
        ]
        return jnp.concatenate([*moved, rest], axis=-1)


def _move(x: Float[Array, "n t h w c"], distance: Float[Array, " n"]) -> Float[Array, "n t h w c"]:
    """What was at frame i is at frame i + distance; between frames, linearly interpolated.

    Args:
      x: beyond its ends there are zeros.
      distance: in (-2, 2) frames, for each clip.
    """
    whole = jnp.floor(distance)
    share = (distance - whole)[:, None, None, None, None]
    padded = jnp.pad(x, ((0, 0), (2, 3), (0, 0), (0, 0), (0, 0)))
    source = jnp.arange(x.shape[1]) + 2 - whole.astype(int)[:, None]
    near, far = (
        jnp.take_along_axis(padded, (source - i)[..., None, None, None], axis=1) for i in (0, 1)
    )
    return (1 - share) * near + share * far


class TemporalAdaptive(nnx.Module):
    """TANet's TAM: a gate for each frame, then a kernel over time of the clip's own.

    Liu et al. 2021, arXiv 2005.06803. Both are computed for each channel from the means over
    space. The clip has `config.num_frames` frames.
    """

    def __init__(self, num_features: int, config: NetworkConfig):
        t = config.num_frames
        self.kernel_hidden = Linear(t, 2 * t, config, std=0.001, bias=False)
        self.kernel_norm = BatchNorm(2 * t, config)
        self.kernel_out = Linear(2 * t, 3, config, std=0.001, bias=False)
        self.gate_hidden = ConvNorm(
            *(num_features, num_features // 4, (3, 1, 1), config), activation=jax.nn.relu
        )
        self.gate_out = Conv(num_features // 4, num_features, 1, config)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Gate and convolve."""
        pooled = jnp.mean(x, (2, 3), keepdims=True)
        gate = jax.nn.sigmoid(self.gate_out(self.gate_hidden(pooled)))
        by_channel = pooled[:, :, 0, 0].transpose(0, 2, 1)  # (n, c, t)
        hidden = jax.nn.relu(self.kernel_norm(self.kernel_hidden(by_channel)))
        taps = jax.nn.softmax(self.kernel_out(hidden)).transpose(0, 2, 1)  # (n, 3, c)
        return mix_frames(x * gate, taps)


@jax.jit  # `multiply_adds` counts it by its name
def mix_frames(
    x: Float[Array, "n t h w c"], taps: Float[Array, "n 3 c"]
) -> Float[Array, "n t h w c"]:
    """Convolve over time with a kernel for each clip and channel."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    shifted = [padded[:, k : k + x.shape[1]] * taps[:, k, None, None, None] for k in range(3)]
    return sum(shifted[1:], shifted[0])


class FactoredConv(nnx.Module):
    """R(2+1)D: a convolution over space, batch norm and ReLU, then one over time.

    Tran et al. 2018, arXiv 1711.11248. The channels between the two give it as many parameters as
    a kernel of length 3 in time would have.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: Triple,
        config: NetworkConfig,
        *,
        stride: Triple,
        padding: Padding | None = None,
        groups: int = 1,
    ):
        assert padding is None
        assert groups == 1
        kt, kh, kw = kernel
        area = in_features * kh * kw
        between = int(3 * area * out_features / (area + 3 * out_features))
        self.space = ConvNorm(
            *(in_features, between, (1, kh, kw), config),
            stride=(1, *stride[1:]),
            activation=jax.nn.relu,
            epsilon=EPSILON,
        )
        self.time = Conv(between, out_features, (kt, 1, 1), config, stride=(stride[0], 1, 1))

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n ft fh fw o"]:
        """Convolve over space, then over time."""
        return self.time(self.space(x))


def _frame_conv(in_features: int, out_features: int, config: NetworkConfig) -> Conv:
    """A convolution over time with PyTorch's default initialisation."""
    conv = Conv(in_features, out_features, (3, 1, 1), config, bias=True)
    bound = 1 / math.sqrt(3 * in_features)
    conv.kernel = uniform_param(conv.kernel.shape, bound, config)
    return conv


def _linear(in_features: int, out_features: int, config: NetworkConfig) -> Linear:
    """A linear layer with PyTorch's default initialisation."""
    linear = Linear(in_features, out_features, config)
    bound = 1 / math.sqrt(in_features)
    linear.kernel = uniform_param(linear.kernel.shape, bound, config)
    linear.bias = uniform_param((out_features,), bound, config)
    return linear
