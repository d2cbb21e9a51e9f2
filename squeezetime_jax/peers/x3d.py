"""X3D: Expanding Architectures for Efficient Video Recognition (Feichtenhofer, arXiv 2004.04730).

The sizes XS, S and M are one network for clips of different lengths and sides.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise
from squeezetime_jax.peers.entry import Entry, Released, spelled, square, table
from squeezetime_jax.peers.layers import Conv, ConvNorm, Head, Triple
from squeezetime_jax.peers.mobile import (
    InvertedBottleneck,
    MobileNetwork,
    Size,
    alike,
    divisible,
    make_stages,
    relu,
    swish,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class X3DConfig(NetworkConfig):
    """X3D.

    Attributes:
      blocks: blocks of each stage.
      widths: channels of each stage; the stem has the first stage's.
      hidden: outputs of the head's first linear layer.
      pool_window: average pool of the head, in frames and pixels of the last map; each of its
        positions is classified. None: all of the map.
      norm_first_shortcut: whether the shortcut of the first block, which changes no width, has a
        batch norm.
    """

    name: str = "x3d_xs"
    num_frames: int = 4
    blocks: tuple[int, ...] = (3, 5, 11, 7)
    widths: tuple[int, ...] = (24, 48, 96, 192)
    hidden: int = 2048
    pool_window: Triple | None = None
    norm_first_shortcut: bool = True


class X3D(MobileNetwork):
    """X3D: space is halved by the stem and by each stage, time by none."""

    def __init__(self, config: X3DConfig, rngs: nnx.Rngs):
        self.config = config
        first, *_, last = config.widths
        self.stem = X3DStem(first, config)
        sizes = zip(config.blocks, config.widths, strict=True)
        stages = [alike(blocks, _inner(width), width, (3, 3, 3), 2) for blocks, width in sizes]
        self.stages = make_stages(X3DBlock, first, stages, config)
        self.last = ConvNorm(last, _inner(last), 1, config, activation=relu)
        hidden = Linear(_inner(last), config.hidden, config, bias=False)
        self.head = Head(_inner(last), config, window=config.pool_window, hidden=hidden)
        initialise(self, rngs)


class X3DStem(nnx.Module):
    """A 1x3x3 convolution of stride 2, then a depthwise one over five frames."""

    def __init__(self, width: int, config: NetworkConfig):
        self.space = Conv(3, width, 3, config, stride=2)
        self.time = ConvNorm(width, width, (5, 1, 1), config, groups=width, activation=relu)

    def __call__(self, x: Float[Array, "n t h w 3"]) -> Float[Array, "n t fh fw c"]:
        """Half the height and width."""
        return self.time(self.space(x))


class X3DBlock(nnx.Module):
    """Every second block weighs channels; the first of a stage halves height and width."""

    def __init__(self, size: Size, config: X3DConfig):
        self.residual = InvertedBottleneck(
            size,
            config,
            activations=(relu, None, swish),
            squeeze=divisible(size.inner / 16) if size.place % 2 == 0 else None,
        )
        scale = self.residual.narrow.norm.scale
        scale[...] = jnp.zeros_like(scale[...])  # at the start the shortcut alone counts
        self.shortcut: Conv | ConvNorm | None = nnx.data(None)
        if size.place == 0:
            has_norm = config.norm_first_shortcut or size.in_features != size.out_features
            make: Callable[..., Conv | ConvNorm] = ConvNorm if has_norm else Conv
            self.shortcut = make(size.in_features, size.out_features, 1, config, stride=size.stride)

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """Add the residual to the shortcut."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return relu(self.residual(x) + shortcut)


def _inner(width: int) -> int:
    return int(2.25 * width)


# Names in mmaction2, whose order it is, SlowFast and pytorchvideo, which calls the stem's spatial
# convolution conv_t and the temporal one conv_xy.
_STEM = table("""
    stem.                      -          backbone.      s1.pathway0_stem.  blocks.0.
    space                      conv       conv1_s.conv   conv_xy            conv.conv_t
    time.conv                  conv       conv1_t.conv   conv               conv.conv_xy
    time.norm                  norm       conv1_t.bn     bn                 norm
""")
_BLOCK = table("""
    stages.{i}.{b}. - backbone.layer{j}.{b}. s{k}.pathway0_res{b}. blocks.{j}.res_blocks.{b}.
    shortcut.conv              conv       downsample.conv  branch1         branch1_conv
    shortcut.norm              norm       downsample.bn    branch1_bn      branch1_norm
    shortcut                   conv       -                -               branch1_conv
    residual.widen.conv        conv       conv1.conv       branch2.a       branch2.conv_a
    residual.widen.norm        norm       conv1.bn         branch2.a_bn    branch2.norm_a
    residual.depthwise.conv    conv       conv2.conv       branch2.b       branch2.conv_b
    residual.depthwise.norm    norm       conv2.bn         branch2.b_bn    branch2.norm_b.0
    residual.excitation.reduce pointwise  -                branch2.se.fc1  branch2.norm_b.1.block.0
    residual.excitation.expand pointwise  -                branch2.se.fc2  branch2.norm_b.1.block.2
    residual.narrow.conv       conv       conv3.conv       branch2.c       branch2.conv_c
    residual.narrow.norm       norm       conv3.bn         branch2.c_bn    branch2.norm_c
    residual.excitation.reduce pointwise  se_module.fc1    -               -
    residual.excitation.expand pointwise  se_module.fc2    -               -
""")
_END = table("""
    -                -          -                     -                blocks.5.
    last.conv        conv       backbone.conv5.conv   head.conv_5      pool.pre_conv
    last.norm        norm       backbone.conv5.bn     head.conv_5_bn   pool.pre_norm
    head.hidden      linear     cls_head.fc1          -                -
    head.hidden      pointwise  -                     head.lin_5       pool.post_conv
    head.classifier  linear     cls_head.fc2          head.projection  proj
""")


def _released(column: int, config: X3DConfig) -> Iterator[Released]:
    yield from spelled(_STEM, column)
    for i, blocks in enumerate(config.blocks):
        for block in range(blocks):
            yield from spelled(_BLOCK, column, i=i, j=i + 1, k=i + 2, b=block)
    yield from spelled(_END, column)


_x3d = partial(
    Entry,
    year=2020,
    idea="a tiny image network, widened one dimension after another",
    build=X3D,
    released=(partial(_released, 0), partial(_released, 1)),
)
_PIXELS = (114.75,) * 3, (57.38,) * 3

ENTRIES = (
    _x3d(
        title="X3D-XS",
        config=X3DConfig(),
        input=square(182, 12, _PIXELS),
    ),
    _x3d(
        title="X3D-S",
        config=X3DConfig(name="x3d_s", num_frames=13),
        input=square(182, 6, _PIXELS, train_side=160),
    ),
    _x3d(
        title="X3D-M",
        config=X3DConfig(name="x3d_m", num_frames=16),
        input=square(256, 5, _PIXELS, train_side=224),
    ),
    _x3d(
        title="X3D-XS of pytorchvideo",
        config=X3DConfig(name="x3d_xs_hub", pool_window=(4, 5, 5), norm_first_shortcut=False),
        input=square(182, 12, _PIXELS, train_side=160),
        released=(partial(_released, 2),),
    ),
)
