"""Residual networks over frames: one skeleton, and a place in each block for a temporal operation.

    clip -> stem -> max-pool -> four stages of basic or bottleneck blocks -> mean -> classifier

The networks differ in three things, and the rows of `resnets` say which: which kernels extend in
time, where time and space are halved, and what else mixes frames.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import initialise
from squeezetime_jax.model.norm import EPSILON
from squeezetime_jax.peers.entry import Released
from squeezetime_jax.peers.layers import (
    Conv,
    ConvNorm,
    Head,
    Network,
    Triple,
    check_clips,
    max_pool,
)
from squeezetime_jax.peers.temporal import FactoredConv, Interlace, Shift, TemporalAdaptive

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
Pattern = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(NetworkConfig):
    """A residual network over frames. The fields that all networks have are in `NetworkConfig`.

    Attributes:
      depth: layers: 10, 18 or 34 (basic blocks), 50 (bottlenecks).
      width: channels of the stem and inside the blocks of the first stage.
      stem_kernel: in time, height and width.
      stem_stride: in time, height and width.
      pool_stride: of the max-pool after the stem (1x3x3); None for no pool.
      pool_padding: of its height and width.
      halve_after_stage1: whether a max-pool halves time between the first two stages.
      inflate: for each stage, which of its blocks have kernels of length 3 in time, repeated over
        the blocks: both kernels of a basic block, the first of a bottleneck.
      strides: of the first block of each stage, in height and width.
      temporal_strides: of the first block of each stage, in time.
      temporal: what else mixes frames: "shift" (TSM), "interlace" (TIN), "adaptive" (TANet),
        "factored" (R(2+1)D) or "none".
      epsilon: of the batch norms.
      per_frame: whether the head classifies frames one by one.
      head_std: standard deviation of the classifier's initial kernel.
      zero_residual: whether the last batch norm of a block starts at 0.
      is_2d: whether the released kernels have no axis of time.
    """

    depth: int = 18
    width: int = 64
    stem_kernel: Triple = (1, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    pool_stride: Triple | None = (1, 2, 2)
    pool_padding: int = 1
    halve_after_stage1: bool = False
    inflate: tuple[Pattern, Pattern, Pattern, Pattern] = ((0,), (0,), (0,), (0,))
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    temporal_strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    temporal: Literal["none", "shift", "interlace", "adaptive", "factored"] = "none"
    epsilon: float = EPSILON
    per_frame: bool = False
    head_std: float = 0.01
    zero_residual: bool = False
    is_2d: bool = False

    def _checks(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._checks(),
            ("depth", self.depth in BLOCKS, f"one of {', '.join(map(str, BLOCKS))}"),
            ("width", self.width >= 1, "at least 1"),
            (
                *("width", self.temporal != "interlace" or self.width % 16 == 0),
                'a multiple of 16 where temporal is "interlace"',
            ),
        ]

    @property
    def has_fixed_frames(self) -> bool:
        """Whether weights depend on `num_frames`, so that no other number can be scored."""
        return self.temporal in ("interlace", "adaptive")

    @property
    def expansion(self) -> int:
        """Channels that leave a block, over the channels inside it."""
        return 4 if self.depth >= 50 else 1

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the four stages' maps."""
        return tuple(self.width * 2**stage * self.expansion for stage in range(4))


class Block(nnx.Module):
    """What all kinds of block share: the shortcut, and the sum.

    Args:
      in_features: channels read.
      planes: channels inside.
      stride: in time, height and width.
      extent: length in time of the kernels that may extend.
      config: of the network.
    """

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        out_features = planes * config.expansion
        self.shortcut = nnx.data(None)
        if in_features != out_features or stride != (1, 1, 1):
            self.shortcut = conv_norm(in_features, out_features, 1, config, stride=stride)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """Add the residual branch to the shortcut."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(self.residual(x) + shortcut)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        raise NotImplementedError


class BasicBlock(Block):
    """A temporal operation and two 3x3 convolutions."""

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, planes, stride, extent, config)
        kernel = (extent, 3, 3)
        self.temporal = nnx.data(temporal_operation(in_features, config))
        self.conv1 = conv_norm(in_features, planes, kernel, config, stride=stride, relu=True)
        self.conv2 = conv_norm(planes, planes, kernel, config, is_last=True)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        x = x if self.temporal is None else self.temporal(x)
        return self.conv2(self.conv1(x))


class Bottleneck(Block):
    """A temporal operation, and convolutions that narrow, look around and widen.

    TANet's operation stands behind the narrowing convolution.
    """

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, planes, stride, extent, config)
        self.is_inside = config.temporal == "adaptive"
        reads = planes if self.is_inside else in_features
        self.temporal = nnx.data(temporal_operation(reads, config))
        self.conv1 = conv_norm(in_features, planes, (extent, 1, 1), config, relu=True)
        self.conv2 = conv_norm(planes, planes, 3, config, stride=stride, relu=True)
        self.conv3 = conv_norm(planes, 4 * planes, 1, config, is_last=True)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        if self.temporal is None:
            x = self.conv1(x)
        else:
            x = self.temporal(self.conv1(x)) if self.is_inside else self.conv1(self.temporal(x))
        return self.conv3(self.conv2(x))


def conv_norm(
    in_features: int,
    out_features: int,
    kernel: int | Triple,
    config: ResNetConfig,
    *,
    stride: int | Triple = 1,
    relu: bool = False,
    is_last: bool = False,
) -> ConvNorm:
    """A convolution, factored if the network's are, its batch norm, and a ReLU if it has one.

    `is_last` is for the end of a block's residual branch; the others are as for `Conv`.
    """
    layer = ConvNorm(
        *(in_features, out_features, kernel, config),
        stride=stride,
        activation=jax.nn.relu if relu else None,
        epsilon=config.epsilon,
        conv=FactoredConv if config.temporal == "factored" else Conv,
    )
    if is_last and config.zero_residual:
        layer.norm.scale = nnx.Param(jnp.zeros(out_features, config.param_dtype))
    return layer


def temporal_operation(num_features: int, config: ResNetConfig) -> nnx.Module | None:
    """What a block of 2-D convolutions mixes frames with."""
    if config.temporal == "shift":
        return Shift()
    if config.temporal == "interlace":
        return Interlace(num_features, config)
    if config.temporal == "adaptive":
        return TemporalAdaptive(num_features, config)
    return None


class Backbone(nnx.Module):
    """Stem and four stages.

    Args:
      config: of the network.
      block: the class of its blocks.
      lateral: channels of another path that each stage reads besides (SlowFast).
    """

    def __init__(
        self,
        config: ResNetConfig,
        block: Callable[..., Block] | None = None,
        lateral: Sequence[int] = (0, 0, 0, 0),
    ):
        block = block or (Bottleneck if config.expansion == 4 else BasicBlock)
        self.config = config
        self.stem = conv_norm(
            *(3, config.width, config.stem_kernel, config), stride=config.stem_stride, relu=True
        )
        stages, in_features = [], config.width
        for stage in range(4):
            side, inflate = config.strides[stage], config.inflate[stage]
            stride = (config.temporal_strides[stage], side, side)
            in_features += lateral[stage]
            blocks = []
            for index in range(BLOCKS[config.depth][stage]):
                extent = 3 if inflate[index % len(inflate)] else 1
                planes = config.width * 2**stage
                blocks.append(block(in_features, planes, stride, extent, config))
                in_features, stride = config.feature_channels[stage], (1, 1, 1)
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(self, x: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the four stages end with."""
        x = self.enter(x)
        maps = []
        for stage in range(4):
            x = self.run_stage(stage, x)
            maps.append(x)
        return maps

    def enter(self, x: Float[Array, "n t h w 3"]) -> Float[Array, "n ft fh fw c"]:
        """Stem and max-pool."""
        x = self.stem(x)
        if self.config.pool_stride is None:
            return x
        padding = self.config.pool_padding
        return max_pool(x, (1, 3, 3), self.config.pool_stride, (0, padding, padding))

    def run_stage(self, stage: int, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """One stage, counted from 0."""
        if stage == 1 and self.config.halve_after_stage1:
            x = max_pool(x, (2, 1, 1), (2, 1, 1))
        return functools.reduce(lambda x, block: block(x), self.stages[stage], x)


class ResNet(Network):
    """A residual network over frames.

    Frames are clips' frames or segments' frames; any number of them, but for TIN and TANet, whose
    weights are of `config.num_frames`. `features` is (n, t', h/32, w/32, c).
    """

    config: ResNetConfig

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.config = config
        self.backbone = Backbone(config)
        self.head = Head(
            *(config.feature_channels[-1], config), per_frame=config.per_frame, std=config.head_std
        )
        initialise(self, rngs)

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the four stages end with."""
        num_frames = self.config.num_frames if self.config.has_fixed_frames else None
        return self.backbone(check_clips(clips, self.config, num_frames))


def released(config: ResNetConfig) -> Iterator[Released]:
    """The modules of a state dict of mmaction2."""
    yield from released_backbone(config, "backbone", "backbone")
    yield Released("cls_head.fc_cls", "head.classifier", "linear")


def released_backbone(config: ResNetConfig, name: str, path: str) -> Iterator[Released]:
    """The modules of a backbone."""
    yield from _released_conv(config, f"{name}.conv1", f"{path}.stem")
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        for index in range(blocks):
            yield from _released_block(
                config, f"{name}.layer{stage + 1}.{index}", f"{path}.stages.{stage}.{index}"
            )


def _released_block(config: ResNetConfig, name: str, path: str) -> Iterator[Released]:
    is_wrapped = config.temporal == "adaptive"
    inner = f"{name}.block" if is_wrapped else name
    for i in range(1, 4 if config.expansion == 4 else 3):
        conv = "conv"
        if i == 1 and config.temporal == "shift":
            conv = "conv.net"
        elif i == 1 and config.temporal == "interlace":
            yield from _released_interlace(f"{inner}.conv1.conv.net1", f"{path}.temporal")
            conv = "conv.net2"
        yield from _released_conv(config, f"{inner}.conv{i}", f"{path}.conv{i}", conv)
    yield from _released_conv(config, f"{inner}.downsample", f"{path}.shortcut")
    if is_wrapped:
        yield Released(f"{name}.tam.G.0", f"{path}.temporal.kernel_hidden", "linear")
        yield Released(f"{name}.tam.G.1", f"{path}.temporal.kernel_norm", "norm")
        yield Released(f"{name}.tam.G.3", f"{path}.temporal.kernel_out", "linear")
        yield Released(f"{name}.tam.L.0", f"{path}.temporal.gate_hidden.conv", "conv1d")
        yield Released(f"{name}.tam.L.1", f"{path}.temporal.gate_hidden.norm", "norm")
        yield Released(f"{name}.tam.L.3", f"{path}.temporal.gate_out", "conv1d")


def _released_interlace(name: str, path: str) -> Iterator[Released]:
    yield Released(f"{name}.offset_net.conv", f"{path}.offset_conv", "conv1d")
    yield Released(f"{name}.offset_net.fc1", f"{path}.offset_hidden", "linear")
    yield Released(f"{name}.offset_net.fc2", f"{path}.offset_out", "linear")
    yield Released(f"{name}.weight_net.conv", f"{path}.weight_conv", "conv1d")


def _released_conv(
    config: ResNetConfig, name: str, path: str, conv: str = "conv"
) -> Iterator[Released]:
    if config.temporal == "factored":
        yield Released(f"{name}.conv.conv_s", f"{path}.conv.space.conv", "conv")
        yield Released(f"{name}.conv.bn_s", f"{path}.conv.space.norm", "norm")
        yield Released(f"{name}.conv.conv_t", f"{path}.conv.time", "conv")
    else:
        kind = "conv2d" if config.is_2d else "conv"
        yield Released(f"{name}.{conv}", f"{path}.conv", kind)
    yield Released(f"{name}.bn", f"{path}.norm", "norm")
