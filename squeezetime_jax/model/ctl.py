"""The channel-time learning module (paper, Section 3.2 and Figure 3) and its two branches.

    CTL(x) = TFC(x) + IOI(x)                                                      (Eq. 3)

Both branches are steered by one set of temporal focus weights.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import LONG_CHANNELS, SqueezeTimeConfig
from squeezetime_jax.model.layers import Conv, PositionEncoding, normal_param
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.model.tfc import (
    convolve,
    pool_space,
    temporal_focus_conv,
    temporal_focus_weights,
)


class WeightComputation(nnx.Module):
    """The weight computation module (WCM): what to focus on, from the sample itself."""

    def __init__(self, num_features: int, config: SqueezeTimeConfig):
        shape, std = (num_features, num_features), math.sqrt(2 / num_features)
        self.reduce = normal_param(shape, std, config)
        self.norm = BatchNorm(num_features, config)
        self.expand = normal_param(shape, 0.0 if config.gate_init == "zero" else std, config)
        self.pooling = config.pooling
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        """One weight in (0, 1) for each sample and channel."""
        reduce, expand = (p[...].astype(self.dtype) for p in (self.reduce, self.expand))
        return temporal_focus_weights(pool_space(x, self.pooling), reduce, self.norm, expand)


class TemporalFocusConv(Conv):
    """A convolution whose input channels are weighted per sample (TFC, Eq. 5)."""

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "n h w c"], weights: Float[Array, "n c"] | None
    ) -> Float[Array, "n h w o"]:
        """Convolve; without weights (the paper's ablations) as an ordinary convolution."""
        if weights is None:
            return convolve(x, *self.arrays())
        return temporal_focus_conv(x, weights, *self.arrays())


class InterTemporalObjectInteraction(nnx.Module):
    """The inter-temporal object interaction branch (IOI, Eq. 6): short range times long range.

    The short branch looks at what is near in space; the long branch narrows the weighted map to
    16 channels, tells positions apart, and looks far (7x7) to follow what moved between frames. Its
    sigmoid gates the short branch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        position_grid: int,
        config: SqueezeTimeConfig,
    ):
        self.short = Conv(in_features, out_features, 3, config, bias=True)
        self.narrow = TemporalFocusConv(in_features, LONG_CHANNELS, 3, config, bias=True)
        self.norm1 = BatchNorm(LONG_CHANNELS, config)
        self.position = nnx.data(
            PositionEncoding(position_grid, LONG_CHANNELS, config)
            if config.position_encoding
            else None
        )
        self.interact = Conv(LONG_CHANNELS, LONG_CHANNELS, 7, config, bias=True)
        self.norm2 = BatchNorm(LONG_CHANNELS, config)
        self.widen = Conv(LONG_CHANNELS, out_features, 3, config, bias=True)

    def __call__(
        self, x: Float[Array, "n h w c"], weights: Float[Array, "n c"] | None
    ) -> Float[Array, "n h w o"]:
        """Gate the short branch by the long one."""
        long = jax.nn.relu(self.norm1(self.narrow(x, weights)))
        if self.position is not None:
            long = self.position(long)
        long = jax.nn.relu(self.norm2(self.interact(long)))
        return self.short(x) * jax.nn.sigmoid(self.widen(long))


class ChannelTimeLearning(nnx.Module):
    """The channel-time learning module (CTL, Eq. 3), or one branch of it (Tables 1 to 3)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        position_grid: int,
        config: SqueezeTimeConfig,
    ):
        self.focus = nnx.data(
            WeightComputation(in_features, config) if config.temporal_focus else None
        )
        self.tfc = nnx.data(
            None
            if config.branches == "ioi"
            else TemporalFocusConv(in_features, out_features, 1, config)
        )
        self.ioi = nnx.data(
            None
            if config.branches == "tfc"
            else InterTemporalObjectInteraction(in_features, out_features, position_grid, config)
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """Weigh the moments, then add what the two branches see."""
        weights = None if self.focus is None else self.focus(x)
        branches = [branch(x, weights) for branch in (self.tfc, self.ioi) if branch is not None]
        return sum(branches[1:], jnp.asarray(branches[0]))


def channel_time_layer(
    in_features: int,
    out_features: int,
    position_grid: int,
    config: SqueezeTimeConfig,
) -> nnx.Module:
    """What stands in a block's middle: CTL, or Table 1's base, one plain 3x3 convolution."""
    if config.branches == "conv3x3":
        return Conv(in_features, out_features, 3, config)
    return ChannelTimeLearning(in_features, out_features, position_grid, config)
