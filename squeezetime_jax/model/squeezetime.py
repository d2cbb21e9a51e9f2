"""SqueezeTime, top to bottom as Figure 3 of the paper draws it (arXiv 2405.08344).

    clip (T frames) -> squeeze: (H, W, 3T) -> stem -> four stages of CTL blocks -> head

There is no time axis after the squeeze: everything is a 2-D convolution over feature maps whose
channels mix moments, and the channel-time learning modules win back what the fold hides.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.ctl import channel_time_layer
from squeezetime_jax.model.layers import Conv, DepthwiseHalving, Linear, initialise
from squeezetime_jax.model.norm import BatchNorm

MIN_SIDE = 32  # the network halves a side five times


class SqueezeTime(nnx.Module):
    """The recogniser.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
      >>> model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0))
      >>> model.eval()
      >>> model(jnp.zeros((2, 4, 64, 64, 3))).shape
      (2, 8)

    A new network is in training mode; `eval()` and `train()` switch.

    Args:
      config: which variant.
      rngs: where the initial parameters come from.
    """

    def __init__(self, config: SqueezeTimeConfig, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(3 * config.num_frames, config.planes[0], config)
        in_features = config.planes[0]
        stages = []
        for planes, blocks, stride, grid in zip(
            config.planes, config.blocks, config.strides, config.position_grids, strict=True
        ):
            stage = _stage(in_features, planes, blocks, stride, grid, config)
            stages.append(nnx.List(stage))
            in_features = planes * config.expansion
        self.stages = nnx.List(stages)
        self.head = Head(in_features, config)
        initialise(self, rngs)

    def __call__(
        self, clips: Float[Array, "n t h w 3"], rngs: nnx.Rngs | Array | None = None
    ) -> Float[Array, "n classes"]:
        """Score clips.

        Args:
          clips: normalised RGB; `t` as configured, `h` and `w` at least 32, square or not.
          rngs: what dropout draws from, a random key or `nnx.Rngs`; used in training only.

        Returns:
          Logits, in float32 whatever the network computes in (float64 if it computes in that).

        Raises:
          ValueError: the clips have another shape.
          TypeError: the clips are not floating-point numbers.
        """
        return self.head(self.features(clips), rngs)

    def features(self, clips: Float[Array, "n t h w 3"]) -> Float[Array, "n fh fw c"]:
        """The last feature map; `fh` and `fw` are 1/32 of the clip's height and width.

        Args and Raises: as for calling the network.
        """
        return self.stage_maps(clips)[-1]

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _"]]:
        """The feature maps that the four stages end with.

        Args and Raises: as for calling the network.
        """
        check_clips(clips, self.config.num_frames)
        x = self.stem(squeeze(clips.astype(self.config.compute_dtype)))
        maps = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps


def squeeze(clips: Float[Array, "n t h w c"]) -> Float[Array, "n h w c*t"]:
    """Fold time into channels (paper, Section 3.1): channel index = colour * T + frame."""
    n, t, h, w, c = clips.shape
    return clips.transpose(0, 2, 3, 4, 1).reshape(n, h, w, c * t)


class Stem(nnx.Module):
    """5x5 convolution of stride 2 over all frames at once, then a 3x3 max-pool of stride 2."""

    def __init__(self, in_features: int, out_features: int, config: SqueezeTimeConfig):
        self.conv = Conv(in_features, out_features, 5, config, stride=2)
        self.norm = BatchNorm(out_features, config)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n fh fw o"]:
        """A quarter of the height and width."""
        x = jax.nn.relu(self.norm(self.conv(x)))
        # After a ReLU, padding with zeros is padding with minus infinity, and every runtime that
        # the network may be exported to knows an unpadded pool.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


class ConvNorm(nnx.Module):
    """A convolution and its batch norm."""

    def __init__(self, conv: Conv | DepthwiseHalving, num_features: int, config: SqueezeTimeConfig):
        self.conv = conv
        self.norm = BatchNorm(num_features, config)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n fh fw o"]:
        """Convolve and normalise."""
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """What both kinds of CTL block share: the halving, the shortcut and the sum."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        is_first: bool,
        config: SqueezeTimeConfig,
    ):
        self.halving = self.shortcut = nnx.data(None)
        if stride == 2:
            self.halving = ConvNorm(DepthwiseHalving(in_features, config), in_features, config)
        if is_first and in_features != out_features:
            conv = Conv(in_features, out_features, 1, config)
            self.shortcut = ConvNorm(conv, out_features, config)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n fh fw o"]:
        """Add the residual to the shortcut."""
        if self.halving is not None:
            x = self.halving(x)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.residual(x) + shortcut)

    def residual(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """The block's main path."""
        raise NotImplementedError


class Bottleneck(Block):
    """The CTL block (Figure 3b, r = 0.25): narrow, learn channel and time, widen."""

    def __init__(
        self,
        in_features: int,
        planes: int,
        stride: int,
        position_grid: int,
        is_first: bool,
        config: SqueezeTimeConfig,
    ):
        out_features = planes * config.expansion
        super().__init__(in_features, out_features, stride, is_first, config)
        self.reduce = Conv(in_features, planes, 1, config)
        self.norm1 = BatchNorm(planes, config)
        self.ctl = channel_time_layer(planes, planes, position_grid, config)
        self.norm2 = BatchNorm(planes, config)
        self.expand = Conv(planes, out_features, 1, config)
        self.norm3 = BatchNorm(out_features, config)

    def residual(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """The block's main path."""
        x = jax.nn.relu(self.norm1(self.reduce(x)))
        x = jax.nn.relu(self.norm2(self.ctl(x)))
        return self.norm3(self.expand(x))


class BasicBlock(Block):
    """The block of the networks with fewer than 50 layers (released code): two CTL modules."""

    def __init__(
        self,
        in_features: int,
        planes: int,
        stride: int,
        position_grid: int,
        is_first: bool,
        config: SqueezeTimeConfig,
    ):
        super().__init__(in_features, planes, stride, is_first, config)
        # The released code leaves the first module's position grid at 7x7 in every stage.
        self.ctl1 = channel_time_layer(in_features, planes, 7, config)
        self.norm1 = BatchNorm(planes, config)
        self.ctl2 = channel_time_layer(planes, planes, position_grid, config)
        self.norm2 = BatchNorm(planes, config)

    def residual(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w o"]:
        """The block's main path."""
        x = jax.nn.relu(self.norm1(self.ctl1(x)))
        return self.norm2(self.ctl2(x))


class Head(nnx.Module):
    """Global average pool, dropout, linear classifier."""

    def __init__(self, in_features: int, config: SqueezeTimeConfig):
        self.dropout = nnx.Dropout(config.dropout)
        self.classifier = Linear(in_features, config.num_classes, config)
        self.dtype = config.param_dtype

    def __call__(
        self, x: Float[Array, "n h w c"], rngs: nnx.Rngs | Array | None = None
    ) -> Float[Array, "n classes"]:
        """Logits of the pooled features."""
        pooled = self.dropout(jnp.mean(x, (1, 2)), rngs=rngs)
        return self.classifier(pooled).astype(self.dtype)


def _stage(
    in_features: int,
    planes: int,
    blocks: int,
    stride: int,
    position_grid: int,
    config: SqueezeTimeConfig,
) -> list[Block]:
    block = Bottleneck if config.is_bottleneck else BasicBlock
    first = block(in_features, planes, stride, position_grid, True, config)
    features = planes * config.expansion
    rest = [block(features, planes, 1, position_grid, False, config) for _ in range(blocks - 1)]
    return [first, *rest]


def check_clips(clips: Array, num_frames: int) -> None:
    """Refuse what the network does not take.

    Raises:
      ValueError: the clips have another shape.
      TypeError: they are not floating-point numbers.
    """
    expected = f"(clips, {num_frames} frames, height, width, 3 colours)"
    if clips.ndim != 5 or clips.shape[1] != num_frames or clips.shape[4] != 3:
        raise ValueError(f"clips have shape {tuple(clips.shape)}; this network takes {expected}")
    if min(clips.shape[2:4]) < MIN_SIDE:
        raise ValueError(
            f"clips are {clips.shape[2]}x{clips.shape[3]} pixels; the network takes at least "
            f"{MIN_SIDE} a side"
        )
    if not jnp.issubdtype(clips.dtype, jnp.floating):
        raise TypeError(
            f"clips are {clips.dtype}; the network takes normalised floating-point numbers"
        )
