"""Networks for phones that keep the time axis: what X3D, MoViNet and E3D share, and MoViNet.

All are built from the inverted bottleneck in three dimensions: a 1x1x1 convolution widens, a
depthwise convolution mixes time and space, a squeeze-and-excitation weighs channels where there is
one, and a 1x1x1 convolution narrows.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise
from squeezetime_jax.model.norm import EPSILON
from squeezetime_jax.peers.entry import Entry, Released, spelled, square, table
from squeezetime_jax.peers.layers import (
    Activation,
    ConvNorm,
    Head,
    Network,
    Padding,
    Triple,
    check_clips,
)

relu, swish = jax.nn.relu, jax.nn.silu


class Size(NamedTuple):
    """Channels that a block reads, has inside and writes, its place in its stage, and its depthwise
    convolution's kernel, and stride in height and width.
    """

    in_features: int
    inner: int
    out_features: int
    place: int
    kernel: Triple
    stride: int


# Of each block its inner and output channels, its depthwise kernel and its stride.
Stage = tuple[tuple[int, int, Triple, int], ...]


def alike(blocks: int, inner: int, out_features: int, kernel: Triple, stride: int) -> Stage:
    """A stage of blocks that are alike, but that only the first has a stride."""
    first, others = ((inner, out_features, kernel, s) for s in (stride, 1))
    return first, *(others,) * (blocks - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileConfig(NetworkConfig):
    """MoViNet's and E3D's.

    Attributes:
      stem: channels of the stem.
      stages: for each block of each stage its inner and output channels, its depthwise
        convolution's kernel, and its stride in height and width.
      last: channels of the last convolution.
    """

    stem: int
    stages: tuple[Stage, ...]
    last: int


class InvertedBottleneck(nnx.Module):
    """Widen, convolve each channel, weigh channels, narrow.

    Args:
      size: of the block.
      config: gives the dtypes.
      activations: after the widening, after the depthwise convolution's batch norm, and after the
        squeeze-and-excitation; None for none. None is after the narrowing.
      squeeze: channels between the two layers of the squeeze-and-excitation; None for none.
      padding: of the depthwise convolution.
      epsilon: of the batch norms.
    """

    def __init__(
        self,
        size: Size,
        config: NetworkConfig,
        *,
        activations: tuple[Activation, Activation | None, Activation | None],
        squeeze: int | None = None,
        padding: Padding | None = None,
        epsilon: float = EPSILON,
    ):
        inner = size.inner
        first, second, self.last_activation = activations
        self.widen = ConvNorm(size.in_features, inner, 1, config, activation=first, epsilon=epsilon)
        self.depthwise = ConvNorm(
            *(inner, inner, size.kernel, config),
            stride=size.stride,
            padding=padding,
            groups=inner,
            activation=second,
            epsilon=epsilon,
        )
        self.excitation = nnx.data(None)
        if squeeze is not None:
            self.excitation = SqueezeExcitation(inner, squeeze, config, activation=first)
        self.narrow = ConvNorm(inner, size.out_features, 1, config, epsilon=epsilon)

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """The block without its shortcut."""
        x = self.depthwise(self.widen(x))
        if self.excitation is not None:
            x = self.excitation(x)
        return self.narrow(x if self.last_activation is None else self.last_activation(x))


class SqueezeExcitation(nnx.Module):
    """Multiplies each channel by a weight in (0, 1) that is computed from all channels' means."""

    def __init__(
        self, num_features: int, inner: int, config: NetworkConfig, *, activation: Activation
    ):
        self.reduce = he_linear(num_features, inner, config)
        self.expand = he_linear(inner, num_features, config)
        self.activation = activation

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Weigh the channels."""
        weights = self.expand(self.activation(self.reduce(jnp.mean(x, (1, 2, 3)))))
        return x * jax.nn.sigmoid(weights)[:, None, None, None]


class MobileNetwork(Network):
    """A stem, stages of blocks, and a last 1x1x1 convolution before the head.

    A subclass sets the attributes.
    """

    stem: Callable[[Array], Array]
    stages: nnx.List
    last: ConvNorm

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n t _ _ _"]]:
        """The feature maps of the stem, of each stage, and of the last convolution.

        Args and Raises: as for calling the network.
        """
        maps = [self.stem(check_clips(clips, self.config))]
        for stage in self.stages:
            x = maps[-1]
            for block in stage:
                x = block(x)
            maps.append(x)
        return [*maps, self.last(maps[-1])]


def make_stages(
    block: Callable[[Size, Any], nnx.Module],
    in_features: int,
    stages: Iterable[Stage],
    config: NetworkConfig,
) -> Any:
    """The stages' blocks; each reads what the one before it writes."""
    made = []
    for stage in stages:
        blocks = []
        for place, (inner, out_features, kernel, stride) in enumerate(stage):
            size = Size(in_features, inner, out_features, place, kernel, stride)
            blocks.append(block(size, config))
            in_features = out_features
        made.append(nnx.List(blocks))
    return nnx.List(made)


def halved(
    x: Float[Array, "n t h w c"], side: int, pads: Sequence[tuple[int, int]]
) -> Float[Array, "n t fh fw c"]:
    """Averages over squares of `side` pixels, two pixels apart; padding does not count."""
    pads = [(0, 0), (0, 0), *pads, (0, 0)]
    ends = [2 * ((n + sum(pad) - side) // 2) + 1 for n, pad in zip(x.shape, pads, strict=True)]

    def sums(x: Any) -> Any:
        steps = itertools.product(range(side), repeat=2)
        return sum(x[:, :, i : i + ends[2] : 2, j : j + ends[3] : 2] for i, j in steps)

    counts = sums(np.pad(np.ones((1, 1, *x.shape[2:4], 1)), pads))
    return sums(jnp.pad(x, pads)) / counts.astype(x.dtype)


def he_linear(in_features: int, out_features: int, config: NetworkConfig) -> Linear:
    """A linear layer whose kernel starts He-normal with fan-out, as the convolutions' do."""
    return Linear(in_features, out_features, config, std=math.sqrt(2 / out_features))


def divisible(width: int | float, by: int = 8) -> int:
    """The multiple of `by` nearest to a width, at least `by` and at least nine tenths of it."""
    rounded = max(by, int(width + by / 2) // by * by)
    return rounded if rounded >= 0.9 * width else rounded + by


# MoViNets: Mobile Video Networks for Efficient Video Recognition (Kondratyuk et al.,
# arXiv 2103.11511). The base network, which sees whole clips, not the streaming one.

MOVINET_EPSILON = 1e-3  # of the batch norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoViNetConfig(MobileConfig):
    """MoViNet, by default A0. `hidden` is the outputs of the head's first linear layer."""

    name: str = "movinet_a0"
    num_frames: int = 50
    dropout: float = 0.2
    stem: int = 8
    stages: tuple[Stage, ...] = (
        alike(1, 24, 8, (1, 5, 5), 2),
        alike(3, 80, 32, (3, 3, 3), 2),
        ((184, 56, (5, 3, 3), 2), (112, 56, (3, 3, 3), 1), (184, 56, (3, 3, 3), 1)),
        ((184, 56, (5, 3, 3), 1), *alike(3, 184, 56, (3, 3, 3), 1)),
        ((384, 104, (5, 3, 3), 2), *alike(2, 280, 104, (1, 5, 5), 1), (344, 104, (1, 5, 5), 1)),
    )
    last: int = 480
    hidden: int = 2048


class MoViNet(MobileNetwork):
    """MoViNet: padded as in TensorFlow, channels weighed in every block, swish throughout."""

    def __init__(self, config: MoViNetConfig, rngs: nnx.Rngs):
        self.config = config
        conv_norm = partial(ConvNorm, activation=swish, epsilon=MOVINET_EPSILON)
        self.stem = conv_norm(3, config.stem, 3, config, stride=2, padding="SAME")
        self.stages = make_stages(MoViNetBlock, config.stem, config.stages, config)
        width = config.stages[-1][-1][1]
        self.last = conv_norm(width, config.last, 1, config)
        hidden = he_linear(config.last, config.hidden, config)
        std = math.sqrt(2 / config.num_classes)
        self.head = Head(config.last, config, std=std, hidden=hidden, activation=swish)
        initialise(self, rngs)


class MoViNetBlock(nnx.Module):
    """`shortcut + alpha * residual` with a learned number alpha, 0 at the start."""

    def __init__(self, size: Size, config: MoViNetConfig):
        self.residual = InvertedBottleneck(
            size,
            config,
            activations=(swish, swish, None),
            squeeze=divisible(size.inner // 4),
            padding="SAME",
            epsilon=MOVINET_EPSILON,
        )
        self.alpha = nnx.Param(jnp.zeros((), config.param_dtype))
        self.stride = size.stride
        self.shortcut = nnx.data(None)
        if size.stride != 1 or size.in_features != size.out_features:
            self.shortcut = ConvNorm(
                *(size.in_features, size.out_features, 1, config), epsilon=MOVINET_EPSILON
            )
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """Add the weighted residual to the shortcut."""
        residual = self.alpha[...].astype(self.dtype) * self.residual(x)
        if self.stride != 1:
            x = halved(x, 3, [(side % 2, 1) for side in x.shape[2:4]])
        return residual + (x if self.shortcut is None else self.shortcut(x))


# Names in MoViNet-pytorch. An average pool, where there is one, is the shortcut's module 0.
_MOVINET_STEM = table("""
    stem.                       -          conv1.conv_1.
    conv                        conv       conv3d
    norm                        norm       norm
""")
_MOVINET_BLOCK = table("""
    stages.{stage}.{block}.     -          blocks.b{stage}_l{block}.
    alpha                       scalar     alpha
    residual.widen.conv         conv       expand.conv_1.conv3d
    residual.widen.norm         norm       expand.conv_1.norm
    residual.depthwise.conv     conv       deep.conv_1.conv3d
    residual.depthwise.norm     norm       deep.conv_1.norm
    residual.excitation.reduce  pointwise  se.fc1.conv_1.conv3d
    residual.excitation.expand  pointwise  se.fc2.conv_1.conv3d
    residual.narrow.conv        conv       project.conv_1.conv3d
    residual.narrow.norm        norm       project.conv_1.norm
    shortcut.conv               conv       res.{pooled}.conv_1.conv3d
    shortcut.norm               norm       res.{pooled}.conv_1.norm
""")
_MOVINET_END = table("""
    -                           -          -
    last.conv                   conv       conv7.conv_1.conv3d
    last.norm                   norm       conv7.conv_1.norm
    head.hidden                 pointwise  classifier.0.conv_1.conv3d
    head.classifier             pointwise  classifier.3.conv_1.conv3d
""")


def _movinet_released(config: MoViNetConfig) -> Iterator[Released]:
    yield from spelled(_MOVINET_STEM, 0)
    for stage, blocks in enumerate(config.stages):
        for block, (*_, stride) in enumerate(blocks):
            pooled = int(stride != 1)
            yield from spelled(_MOVINET_BLOCK, 0, stage=stage, block=block, pooled=pooled)
    yield from spelled(_MOVINET_END, 0)


ENTRIES = (
    Entry(
        title="MoViNet-A0",
        year=2021,
        idea="inverted bottlenecks in time and space, found by architecture search",
        config=MoViNetConfig(),
        build=MoViNet,
        input=square(
            172, 6, ((0.0,) * 3, (255.0,) * 3), num_clips=1, num_crops=1
        ),  # 5 frames a second
        released=(_movinet_released,),
    ),
)
