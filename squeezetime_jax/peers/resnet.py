"""Residual networks over frames: one skeleton, and a place in each block for a temporal operation.

    clip -> stem -> max-pool -> four stages of basic or bottleneck blocks -> mean -> classifier

The networks differ in three things, and a row of the table at the end says which: which kernels
extend in time (TSN and C2D none, SlowOnly the late ones, I3D all), where time is halved, and
what mixes frames besides (TSM shifts channels, TIN by learned distances, TANet convolves with
kernels of its own for each clip, R(2+1)D factors every convolution).
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import initialise
from squeezetime_jax.peers.entry import Entry, Input, Published, Released
from squeezetime_jax.peers.layers import (
    ConvNorm,
    Head,
    Network,
    Triple,
    check_clips,
    max_pool,
)
from squeezetime_jax.peers.temporal import Shift

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
FRAMES = ((0,), (0,), (0,), (0,))  # no kernel extends in time


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(NetworkConfig):
    """A residual network over frames. The fields that all networks have are in `NetworkConfig`.

    Attributes:
      depth: layers: 10, 18 or 34 (basic blocks), 50 (bottlenecks).
      width: channels of the stem and of the blocks of the first stage.
      stem_kernel: in time, height and width.
      stem_stride: in time, height and width.
      pool_stride: of the max-pool after the stem (1x3x3).
      pool_padding: of its height and width.
      halve_after_stage1: whether a max-pool halves time between the first two stages.
      inflate: for each stage, which of its blocks have kernels of length 3 in time, repeated over
        the blocks: both kernels of a basic block, the first of a bottleneck.
      temporal_strides: of the first block of each stage.
      temporal: what mixes the frames of a block's residual branch besides: "none" or "shift".
      per_frame: whether the head classifies frames one by one.
      is_2d: whether the released kernels have no axis of time.
    """

    depth: int = 18
    width: int = 64
    stem_kernel: Triple = (1, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    pool_stride: Triple = (1, 2, 2)
    pool_padding: int = 1
    halve_after_stage1: bool = False
    inflate: tuple[tuple[int, ...], ...] = FRAMES
    temporal_strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    temporal: Literal["none", "shift"] = "none"
    per_frame: bool = False
    is_2d: bool = False

    def _checks(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._checks(),
            ("depth", self.depth in BLOCKS, f"one of {', '.join(map(str, BLOCKS))}"),
            ("width", self.width >= 1, "at least 1"),
        ]

    @property
    def expansion(self) -> int:
        """Channels that leave a block, over the channels inside it."""
        return 4 if self.depth >= 50 else 1


class ResNet(Network):
    """A residual network over frames, of any row of the table below."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.config = config
        self.backbone = Backbone(config)
        features = 8 * config.width * config.expansion
        self.head = Head(features, config, per_frame=config.per_frame)
        initialise(self, rngs)

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the four stages end with."""
        return self.backbone(check_clips(clips, self.config))


class Backbone(nnx.Module):
    """Stem and four stages."""

    def __init__(self, config: ResNetConfig):
        self.config = config
        width = config.width
        self.stem = ConvNorm(
            *(3, width, config.stem_kernel, config),
            stride=config.stem_stride,
            activation=jax.nn.relu,
        )
        stages, features = [], width
        for stage in range(4):
            stages.append(nnx.List(make_stage(features, stage, config)))
            features = width * 2**stage * config.expansion
        self.stages = nnx.List(stages)

    def __call__(self, x: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the four stages end with."""
        x = self.pool(self.stem(x))
        maps = []
        for stage, blocks in enumerate(self.stages):
            if stage == 1 and self.config.halve_after_stage1:
                x = max_pool(x, (2, 1, 1), (2, 1, 1))
            for block in blocks:
                x = block(x)
            maps.append(x)
        return maps

    def pool(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw c"]:
        """The max-pool after the stem."""
        padding = self.config.pool_padding
        return max_pool(x, (1, 3, 3), self.config.pool_stride, (0, padding, padding))


def make_stage(in_features: int, stage: int, config: ResNetConfig) -> list["Block"]:
    """The blocks of a stage; the first one takes its strides."""
    block = Bottleneck if config.expansion == 4 else BasicBlock
    planes = config.width * 2**stage
    side = 1 if stage == 0 else 2
    stride = (config.temporal_strides[stage], side, side)
    inflate = config.inflate[stage]
    blocks: list[Block] = []
    for index in range(BLOCKS[config.depth][stage]):
        extent = 3 if inflate[index % len(inflate)] else 1
        blocks.append(block(in_features, planes, stride, extent, config))
        in_features, stride = planes * config.expansion, (1, 1, 1)
    return blocks


class Block(nnx.Module):
    """What both kinds of block share: the shortcut, the temporal operation and the sum."""

    def __init__(self, in_features: int, out_features: int, stride: Triple, config: ResNetConfig):
        self.temporal = nnx.data(Shift() if config.temporal == "shift" else None)
        self.shortcut = nnx.data(None)
        if in_features != out_features or stride != (1, 1, 1):
            self.shortcut = ConvNorm(in_features, out_features, 1, config, stride=stride)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """Add the residual branch to the shortcut."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        y = x if self.temporal is None else self.temporal(x)
        return jax.nn.relu(self.residual(y) + shortcut)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        raise NotImplementedError


class BasicBlock(Block):
    """Two 3x3 convolutions; `extent` is their length in time."""

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, planes, stride, config)
        kernel = (extent, 3, 3)
        self.conv1 = ConvNorm(
            *(in_features, planes, kernel, config), stride=stride, activation=jax.nn.relu
        )
        self.conv2 = ConvNorm(planes, planes, kernel, config)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        return self.conv2(self.conv1(x))


class Bottleneck(Block):
    """Narrow, convolve, widen; `extent` is the length in time of the narrowing kernel."""

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, 4 * planes, stride, config)
        self.conv1 = ConvNorm(
            *(in_features, planes, (extent, 1, 1), config), activation=jax.nn.relu
        )
        self.conv2 = ConvNorm(planes, planes, 3, config, stride=stride, activation=jax.nn.relu)
        self.conv3 = ConvNorm(planes, 4 * planes, 1, config)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n ft fh fw o"]:
        """The block's residual branch."""
        return self.conv3(self.conv2(self.conv1(x)))


def released(config: ResNetConfig) -> Iterator[Released]:
    """The modules of a state dict of mmaction2."""
    kind = "conv2d" if config.is_2d else "conv"
    yield from conv_norm("backbone.conv1", "backbone.stem", kind)
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        for index in range(blocks):
            block = f"backbone.layer{stage + 1}.{index}"
            path = f"backbone.stages.{stage}.{index}"
            for i in (1, 2, 3) if config.expansion == 4 else (1, 2):
                inner = "conv.net" if config.temporal == "shift" and i == 1 else "conv"
                yield from conv_norm(f"{block}.conv{i}", f"{path}.conv{i}", kind, inner)
            yield from conv_norm(f"{block}.downsample", f"{path}.shortcut", kind)
    yield Released("cls_head.fc_cls", "head.classifier", "linear")


def conv_norm(name: str, path: str, kind: str, conv: str = "conv") -> Iterator[Released]:
    """A convolution and its batch norm, as mmaction2 names them."""
    yield Released(f"{name}.{conv}", f"{path}.conv", kind)
    yield Released(f"{name}.bn", f"{path}.norm", "norm")


def _entry(
    title: str, year: int, idea: str, config: ResNetConfig, input: Input, published: Published
) -> Entry:
    return Entry(
        name=config.name,
        title=title,
        year=year,
        idea=idea,
        config=config,
        build=ResNet,
        input=input,
        published=published,
        released=(released,),
    )


TSM_IDEA = "a share of the channels moves one frame forwards or back"
TSM_INPUT = Input(sampling="segments", crop_side=224, num_crops=10, num_clips=1)

ENTRIES = (
    _entry(
        "TSM-R18",
        2019,
        TSM_IDEA,
        ResNetConfig(
            name="tsm_r18", num_frames=8, depth=18, temporal="shift", per_frame=True, is_2d=True
        ),
        TSM_INPUT,
        Published(
            parameters=11_381_712,
            multiply_adds=18_951_503_872,
            clip=(8, 256, 256),
            paper_row="TSM-R18",
            paper_cpu_ms=186,
        ),
    ),
    _entry(
        "I3D-R18",
        2017,
        "every kernel of an image network is inflated in time",
        ResNetConfig(
            name="i3d_r18",
            num_frames=32,
            depth=18,
            stem_kernel=(5, 7, 7),
            stem_stride=(2, 2, 2),
            pool_stride=(2, 2, 2),
            halve_after_stage1=True,
            inflate=((1,), (1,), (1,), (1,)),
        ),
        Input(frame_interval=2),
        Published(
            parameters=33_390_288,
            multiply_adds=45_952_999_424,
            clip=(32, 256, 256),
            paper_row="I3d-R18",
            paper_cpu_ms=450,
        ),
    ),
)
