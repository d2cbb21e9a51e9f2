"""X3D: Expanding Architectures for Efficient Video Recognition (Feichtenhofer, arXiv 2004.04730).

The sizes XS, S and M are one network for clips of different lengths and sides.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise
from squeezetime_jax.peers.entry import Entry, Input, Published, Released, Table, spelled
from squeezetime_jax.peers.layers import Conv, ConvNorm, Triple
from squeezetime_jax.peers.mobile import (
    HiddenHead,
    InvertedBottleneck,
    MobileNetwork,
    Size,
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
        rows = (
            [(_inner(width), width, (3, 3, 3), 2 if index == 0 else 1) for index in range(blocks)]
            for blocks, width in zip(config.blocks, config.widths, strict=True)
        )
        self.stages = make_stages(X3DBlock, first, rows, config)
        self.last = ConvNorm(last, _inner(last), 1, config, activation=relu)
        hidden = Linear(_inner(last), config.hidden, config, bias=False)
        self.head = HiddenHead(hidden, config, activation=relu, std=0.01, window=config.pool_window)
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
            squeeze=divisible(size.inner / 16) if size.index % 2 == 0 else None,
        )
        scale = self.residual.narrow.norm.scale
        scale[...] = jnp.zeros_like(scale[...])  # at the start the shortcut alone counts
        self.shortcut: Conv | ConvNorm | None = nnx.data(None)
        if size.index == 0:
            has_norm = config.norm_first_shortcut or size.in_features != size.out_features
            make: Callable[..., Conv | ConvNorm] = ConvNorm if has_norm else Conv
            self.shortcut = make(size.in_features, size.out_features, 1, config, stride=size.stride)

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """Add the residual to the shortcut."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return relu(self.residual(x) + shortcut)


def _inner(width: int) -> int:
    return int(2.25 * width)


_REDUCE, _EXPAND = "residual.excitation.reduce", "residual.excitation.expand"

# Our modules, and their names in mmaction2, SlowFast and pytorchvideo, which calls the stem's
# spatial convolution conv_t and the temporal one conv_xy.
_STEM: Table = (
    ("stem.space", "conv", "conv1_s.conv", "s1.pathway0_stem.conv_xy", "blocks.0.conv.conv_t"),
    ("stem.time.conv", "conv", "conv1_t.conv", "s1.pathway0_stem.conv", "blocks.0.conv.conv_xy"),
    ("stem.time.norm", "norm", "conv1_t.bn", "s1.pathway0_stem.bn", "blocks.0.norm"),
)
_BLOCK: Table = (
    ("shortcut.conv", "conv", "downsample.conv", "branch1", "branch1_conv"),
    ("shortcut.norm", "norm", "downsample.bn", "branch1_bn", "branch1_norm"),
    ("shortcut", "conv", None, None, "branch1_conv"),  # without a batch norm
    ("residual.widen.conv", "conv", "conv1.conv", "branch2.a", "branch2.conv_a"),
    ("residual.widen.norm", "norm", "conv1.bn", "branch2.a_bn", "branch2.norm_a"),
    ("residual.depthwise.conv", "conv", "conv2.conv", "branch2.b", "branch2.conv_b"),
    ("residual.depthwise.norm", "norm", "conv2.bn", "branch2.b_bn", "branch2.norm_b.0"),
    (_REDUCE, "pointwise", None, "branch2.se.fc1", "branch2.norm_b.1.block.0"),
    (_EXPAND, "pointwise", None, "branch2.se.fc2", "branch2.norm_b.1.block.2"),
    ("residual.narrow.conv", "conv", "conv3.conv", "branch2.c", "branch2.conv_c"),
    ("residual.narrow.norm", "norm", "conv3.bn", "branch2.c_bn", "branch2.norm_c"),
    (_REDUCE, "pointwise", "se_module.fc1", None, None),
    (_EXPAND, "pointwise", "se_module.fc2", None, None),
)
_END: Table = (
    ("last.conv", "conv", "conv5.conv", "head.conv_5", "blocks.5.pool.pre_conv"),
    ("last.norm", "norm", "conv5.bn", "head.conv_5_bn", "blocks.5.pool.pre_norm"),
)
_HEAD: Table = (
    ("head.hidden", "linear", "cls_head.fc1", None, None),
    ("head.hidden", "pointwise", None, "head.lin_5", "blocks.5.pool.post_conv"),
    ("head.classifier", "linear", "cls_head.fc2", "head.projection", "blocks.5.proj"),
)


def _released(column: int, backbone: str, block: str, config: X3DConfig) -> Iterator[Released]:
    yield from spelled(_STEM, column, name=backbone)
    for stage, blocks in enumerate(config.blocks, 1):
        for index in range(blocks):
            name = block.format(stage=stage, following=stage + 1, index=index)
            yield from spelled(_BLOCK, column, f"stages.{stage - 1}.{index}.", name)
    yield from spelled(_END, column, name=backbone)
    yield from spelled(_HEAD, column)


MMACTION = partial(_released, 0, "backbone.", "backbone.layer{stage}.{index}.")
SLOWFAST = partial(_released, 1, "", "s{following}.pathway0_res{index}.")
PYTORCHVIDEO = partial(_released, 2, "", "blocks.{stage}.res_blocks.{index}.")


def _entry(
    config: X3DConfig,
    title: str,
    frame_interval: int,
    side: int,
    released: tuple[Callable[[X3DConfig], Iterator[Released]], ...],
    parameters: int = 3_794_322,
    **published: Any,
) -> Entry:
    return Entry(
        name=config.name,
        title=title,
        year=2020,
        idea="a tiny image network, widened one dimension after another",
        config=config,
        build=X3D,
        input=Input(
            frame_interval=frame_interval,
            short_side=side,
            crop_side=side,
            mean=(114.75, 114.75, 114.75),
            std=(57.38, 57.38, 57.38),
        ),
        published=Published(
            parameters=parameters,
            clip=(config.num_frames, side, side),
            licence="Apache-2.0",
            **published,
        ),
        released=released,
    )


ENTRIES = (
    _entry(
        X3DConfig(name="x3d_xs", num_frames=4),
        *("X3D-XS", 12, 182, (MMACTION, SLOWFAST)),
        multiply_adds=838_807_664,
        paper_row="X3d-XS",
        paper_cpu_ms=219,
        weights=("x3d_xs.pyth",),
        top1=69.5,
    ),
    _entry(
        X3DConfig(name="x3d_s", num_frames=13),
        *("X3D-S", 6, 182, (MMACTION, SLOWFAST)),
        multiply_adds=2_721_933_356,
        weights=("x3d_s_13x6x1_facebook-kinetics400-rgb_20201027-623825a0.pth", "x3d_s.pyth"),
        top1=73.5,
    ),
    _entry(
        X3DConfig(name="x3d_m", num_frames=16),
        *("X3D-M", 5, 256, (MMACTION, SLOWFAST)),
        multiply_adds=6_180_613_376,
        weights=("x3d_m_16x5x1_facebook-kinetics400-rgb_20201027-3f42382a.pth", "x3d_m.pyth"),
        top1=76.2,
    ),
    _entry(
        X3DConfig(
            name="x3d_xs_hub", num_frames=4, pool_window=(4, 5, 5), norm_first_shortcut=False
        ),
        *("X3D-XS of pytorchvideo", 12, 182, (PYTORCHVIDEO,)),
        parameters=3_794_274,
        multiply_adds=843_919_472,
        weights=("X3D_XS.pyth",),
        top1=69.12,
    ),
)
