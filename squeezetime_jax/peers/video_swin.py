"""Video Swin Transformer (Liu et al., arXiv 2106.13230): attention within windows that shift."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param, uniform_param
from squeezetime_jax.peers.entry import Entry, Input, Published, Released, Table, spelled
from squeezetime_jax.peers.layers import Conv, Head, Network, Triple, check_clips
from squeezetime_jax.peers.transformers import (
    MLP,
    Attention,
    LayerNorm,
    Rngs,
    drop_paths,
    one_stream,
)

EPSILON = 1e-5  # of every layer norm
PATCH = (2, 4, 4)
MASKED = -100.0  # added to the scores of tokens that are not neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSwinConfig(NetworkConfig):
    """Video Swin, by default Tiny. It takes clips of any size.

    Attributes:
      width: channels of the first stage's tokens; doubled by each further stage.
      depths: blocks of each stage.
      num_heads: heads of each stage's attentions.
      window: tokens of a window, in time, height and width.
      drop_path: probability of dropping the last block's residuals, in training.
    """

    name: str = "videoswin_tiny"
    num_frames: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: Triple = (8, 7, 7)
    drop_path: float = 0.1


class VideoSwin(Network):
    """Video Swin: between stages, 2x2 tokens of a frame become one of twice the width."""

    def __init__(self, config: VideoSwinConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.patches = PatchEmbedding(width, config)
        drops = iter(drop_paths(config.drop_path, sum(config.depths), (1, 2, 3, 4)))
        stages: list[nnx.List] = []
        mergings = []
        for depth, heads in zip(config.depths, config.num_heads, strict=True):
            if stages:
                mergings.append(PatchMerging(width, config))
                width *= 2
            blocks = [
                SwinBlock(width, heads, i % 2 == 1, next(drops), config) for i in range(depth)
            ]
            stages.append(nnx.List(blocks))
        self.stages, self.mergings = nnx.List(stages), nnx.List(mergings)
        self.norm = LayerNorm(width, config, epsilon=EPSILON)
        self.head = Head(width, config)
        initialise(self, rngs)

    def __call__(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> Float[Array, "n classes"]:
        """As of every network."""
        rngs = one_stream(rngs)
        return self.head(self.features(clips, rngs), rngs)

    def features(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> Float[Array, "n ft fh fw c"]:
        """The last stage's tokens, normalised.

        Args and Raises: as for calling the network.
        """
        return self.norm(self.stage_maps(clips, rngs)[-1])

    def stage_maps(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> list[Float[Array, "n ft _ _ _"]]:
        """The tokens that the stages end with.

        Args and Raises: as for calling the network.
        """
        rngs = one_stream(rngs)
        x = self.patches(check_clips(clips, self.config))
        maps = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.mergings[index - 1](x)
            for block in stage:
                x = block(x, rngs)
            maps.append(x)
        return maps


class PatchEmbedding(nnx.Module):
    """A linear map of patches of 2x4x4 pixels, and a layer norm."""

    def __init__(self, width: int, config: VideoSwinConfig):
        self.conv = Conv(3, width, PATCH, config, stride=PATCH, padding=(0, 0, 0), bias=True)
        bound = (3 * math.prod(PATCH)) ** -0.5
        self.conv.kernel = uniform_param(self.conv.kernel.shape, bound, config)
        self.norm = LayerNorm(width, config, epsilon=EPSILON)

    def __call__(self, x: Float[Array, "n t h w 3"]) -> Float[Array, "n ft fh fw c"]:
        """The first tokens; clips are filled up with zeros to whole patches."""
        return self.norm(self.conv(padded(x, PATCH)))


class PatchMerging(nnx.Module):
    """2x2 tokens of a frame, joined, become one of twice the width."""

    def __init__(self, width: int, config: VideoSwinConfig):
        self.norm = LayerNorm(4 * width, config, epsilon=EPSILON)
        self.reduce = Linear(4 * width, 2 * width, config, std=0.02, bias=False)

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t fh fw 2*c"]:
        """Half the height and width, rounded up."""
        x = padded(x, (1, 2, 2))
        corners = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(jnp.concatenate(corners, axis=-1)))


class SwinBlock(nnx.Module):
    """Attention within windows and an MLP; every second block's windows are shifted by a half."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        is_shifted: bool,
        drop: nnx.Dropout,
        config: VideoSwinConfig,
    ):
        self.norm1 = LayerNorm(width, config, epsilon=EPSILON)
        self.attention = Attention(width, num_heads, config)
        rows = math.prod(2 * side - 1 for side in config.window)
        self.positions = normal_param((rows, num_heads), 0.02, config)
        self.norm2 = LayerNorm(width, config, epsilon=EPSILON)
        self.mlp = MLP(width, config)
        self.window = config.window
        self.is_shifted = is_shifted
        self.drop = drop

    def __call__(
        self, x: Float[Array, "n t h w c"], rngs: nnx.Rngs | None
    ) -> Float[Array, "n t h w c"]:
        """The tokens' next states."""
        x = x + self.drop(self._attend(self.norm1(x)), rngs=rngs)
        return x + self.drop(self.mlp(self.norm2(x)), rngs=rngs)

    def _attend(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        _, t, h, w, _ = x.shape
        sides = t, h, w
        window = smaller(self.window, sides)
        # No shift along an axis that is one window.
        shift = [
            own // 2 if self.is_shifted and side > own else 0
            for own, side in zip(self.window, sides, strict=True)
        ]
        x = jnp.roll(padded(x, window), [-s for s in shift], axis=(1, 2, 3))
        _, *grid, _ = x.shape
        # (heads, tokens, tokens); with smaller windows the published networks take this corner.
        tokens = math.prod(window)
        index = relative_index(self.window)[:tokens, :tokens]
        bias = jnp.moveaxis(self.positions[...][index], -1, 0).astype(x.dtype)
        if any(shift):
            bias = bias + MASKED * separated(grid, window, shift)[:, None]
        x = merge_windows(self.attention(windows(x, window), bias), window, grid)
        return jnp.roll(x, shift, axis=(1, 2, 3))[:, : sides[0], : sides[1], : sides[2]]


def smaller(window: Triple, sides: Triple) -> Triple:
    """A window no larger than the map."""
    t, h, w = map(min, window, sides)
    return t, h, w


def padded(x: Float[Array, "n t h w c"], multiple: Triple) -> Float[Array, "n _ _ _ c"]:
    """Zeros at the ends, to sides that are multiples."""
    ends = [(0, -side % m) for side, m in zip(x.shape[1:4], multiple, strict=True)]
    return jnp.pad(x, ((0, 0), *ends, (0, 0))) if any(end for _, end in ends) else x


def windows(x: Float[Array, "n t h w c"], window: Triple) -> Float[Array, "n windows tokens c"]:
    """Cut into windows."""
    n, t, h, w, c = x.shape
    kt, kh, kw = window
    # Six axes, since XLA's compiler for CPUs may fail on more.
    x = x.reshape(n * t // kt, kt, h // kh, kh, w // kw, kw * c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(n, -1, kt * kh * kw, c)


def merge_windows(
    x: Float[Array, "n windows tokens c"], window: Triple, grid: Sequence[int]
) -> Float[Array, "n t h w c"]:
    """Put the windows of a map of size `grid` together."""
    n, c = x.shape[0], x.shape[-1]
    (kt, kh, kw), (t, h, w) = window, grid
    x = x.reshape(n * t // kt, h // kh, w // kw, kt, kh, kw * c).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(n, t, h, w, c)


def relative_index(window: Triple) -> Int[np.ndarray, "tokens tokens"]:
    """For each pair of a window's tokens, the row of the table of relative positions."""
    places = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, 3)
    distances = places[:, None] - places + np.array(window) - 1
    return np.ravel_multi_index(np.moveaxis(distances, -1, 0), [2 * side - 1 for side in window])


def separated(
    grid: Sequence[int], window: Triple, shift: Sequence[int]
) -> Bool[Array, "windows tokens tokens"]:
    """Which tokens of a shifted window were not neighbours before the shift wrapped them around."""
    axes = []
    for side, own, s in zip(grid, window, shift, strict=True):
        starts = np.arange(side)
        axes.append((starts >= side - own).astype(int) + (starts >= side - s) if s else 0 * starts)
    regions = 9 * axes[0][:, None, None] + 3 * axes[1][:, None] + axes[2]
    cut = windows(jnp.asarray(regions, jnp.float32)[None, ..., None], window)[0, ..., 0]
    return cut[:, :, None] != cut[:, None, :]


# Our modules, and their names in mmaction2, in whose order they are, and in torchvision.
_EMBEDDING: Table = (
    ("patches.conv", "conv", "backbone.patch_embed.proj", "patch_embed.proj"),
    ("patches.norm", "layer_norm", "backbone.patch_embed.norm", "patch_embed.norm"),
)
_BLOCK: Table = (
    ("norm1", "layer_norm", "norm1", "norm1"),
    ("positions", "window", "attn", "attn"),
    ("attention.qkv", "linear", "attn.qkv", "attn.qkv"),
    ("attention.project", "linear", "attn.proj", "attn.proj"),
    ("norm2", "layer_norm", "norm2", "norm2"),
    ("mlp.widen", "linear", "mlp.fc1", "mlp.0"),
    ("mlp.narrow", "linear", "mlp.fc2", "mlp.3"),
)
_MERGING: Table = (
    ("reduce", "linear", "reduction", "reduction"),
    ("norm", "layer_norm", "norm", "norm"),
)
_END: Table = (
    ("norm", "layer_norm", "backbone.norm3", "norm"),
    ("head.classifier", "linear", "cls_head.fc_cls", "head"),
)


def _released(column: int, block: str, merging: str, config: VideoSwinConfig) -> Iterator[Released]:
    index = relative_index(config.window)
    yield from spelled(_EMBEDDING, column)
    for stage, depth in enumerate(config.depths):
        places = {"stage": stage, "even": 2 * stage, "odd": 2 * stage + 1}
        for i in range(depth):
            name, path = block.format(i=i, **places), f"stages.{stage}.{i}."
            for module in spelled(_BLOCK, column, path, name):
                yield module._replace(constant=index) if module.kind == "window" else module
        yield from spelled(_MERGING, column, f"mergings.{stage}.", merging.format(**places))
    yield from spelled(_END, column)


MMACTION = partial(
    _released, 0, "backbone.layers.{stage}.blocks.{i}.", "backbone.layers.{stage}.downsample."
)
TORCHVISION = partial(_released, 1, "features.{even}.{i}.", "features.{odd}.")


def _entry(config: VideoSwinConfig, title: str, input: Input, published: Published) -> Entry:
    return Entry(
        name=config.name,
        title=title,
        year=2021,
        idea="attention within windows of space and time, which shift from block to block",
        config=config,
        build=VideoSwin,
        input=input,
        published=published,
        released=(MMACTION, TORCHVISION),
    )


ENTRIES = (
    _entry(
        VideoSwinConfig(),
        "VideoSwin-T",
        Input(frame_interval=12, short_side=160, crop_side=160),
        Published(
            parameters=28_158_070,
            multiply_adds=5_565_170_688,
            clip=(4, 160, 160),
            paper_row="VideoSwin-Tiny",
            paper_cpu_ms=162,
        ),
    ),
)
