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
from squeezetime_jax.peers.entry import Entry, Released, spelled, square, table
from squeezetime_jax.peers.layers import Conv, Head, Triple, check_clips
from squeezetime_jax.peers.transformers import (
    Attention,
    Block,
    Clips,
    LayerNorm,
    Map,
    Rngs,
    Transformer,
    drop_rates,
    stream,
)

EPSILON = 1e-5  # of every layer norm
PATCH = (2, 4, 4)
MASKED = -100.0  # added to the scores of tokens that are not neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSwinConfig(NetworkConfig):
    """Video Swin, by default Tiny. It takes clips of any size.

    Attributes:
      width: channels of the first stage's tokens; each further stage has tokens twice as wide.
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


class VideoSwin(Transformer):
    """Video Swin: between stages, 2x2 tokens of a frame become one of twice the width."""

    def __init__(self, config: VideoSwinConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.patches = Conv(3, width, PATCH, config, stride=PATCH, padding=(0, 0, 0), bias=True)
        bound = (3 * math.prod(PATCH)) ** -0.5
        self.patches.kernel = uniform_param(self.patches.kernel.shape, bound, config)
        self.patch_norm = LayerNorm(width, config, epsilon=EPSILON)
        rates = iter(drop_rates(config.drop_path, sum(config.depths)))
        stages: list[nnx.List] = []
        mergings = []
        for depth, heads in zip(config.depths, config.num_heads, strict=True):
            if stages:
                mergings.append(PatchMerging(width, config))
                width *= 2
            blocks = []
            for index in range(depth):
                attention = WindowAttention(width, heads, index % 2 == 1, config)
                blocks.append(Block(width, attention, next(rates), config, epsilon=EPSILON))
            stages.append(nnx.List(blocks))
        self.stages, self.mergings = nnx.List(stages), nnx.List(mergings)
        self.norm = LayerNorm(width, config, epsilon=EPSILON)
        self.head = Head(width, config)
        initialise(self, rngs)

    def embed(self, clips: Clips) -> Map:
        """The first tokens; clips are filled up with zeros to whole patches."""
        return self.patch_norm(self.patches(padded(check_clips(clips, self.config), PATCH)))

    def stage_maps(self, clips: Clips, rngs: Rngs = None) -> list[Float[Array, "n ft _ _ _"]]:
        """The maps of tokens that the stages end with, not normalised."""
        x, rngs = self.embed(clips), stream(rngs)
        maps = []
        for index, stage in enumerate(self.stages):
            if index:
                x = self.mergings[index - 1](x)
            for block in stage:
                x = block(x, rngs)
            maps.append(x)
        return maps


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


class WindowAttention(Attention):
    """Attention within windows, which may be shifted by half of their size."""

    def __init__(self, width: int, num_heads: int, is_shifted: bool, config: VideoSwinConfig):
        super().__init__(width, num_heads, config)
        rows = math.prod(2 * side - 1 for side in config.window)
        self.positions = normal_param((rows, num_heads), 0.02, config)
        self.window, self.is_shifted = config.window, is_shifted

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:  # type: ignore[override]
        """Mix the tokens of each window."""
        sides = x.shape[1:4]
        # Along an axis with a single window, the window is the axis and does not shift.
        window = tuple(map(min, self.window, sides))
        shift = [
            full // 2 if self.is_shifted and side > full else 0
            for full, side in zip(self.window, sides, strict=True)
        ]
        x = jnp.roll(padded(x, window), [-s for s in shift], axis=(1, 2, 3))
        grid = x.shape[1:4]
        # A smaller window takes this corner of the index, as in the published code.
        tokens = math.prod(window)
        index = relative_index(self.window)[:tokens, :tokens]
        bias = jnp.moveaxis(self.positions[...][index], -1, 0).astype(x.dtype)
        if any(shift):
            bias = bias + MASKED * separated(grid, window, shift)[:, None]
        x = merge_windows(super().__call__(windows(x, window), bias), window, grid)
        return jnp.roll(x, shift, axis=(1, 2, 3))[:, : sides[0], : sides[1], : sides[2]]


def padded(x: Float[Array, "n t h w c"], multiple: Sequence[int]) -> Float[Array, "n _ _ _ c"]:
    """Zeros at the ends, to sides that are multiples."""
    ends = [(0, -side % m) for side, m in zip(x.shape[1:4], multiple, strict=True)]
    return jnp.pad(x, ((0, 0), *ends, (0, 0)))


def windows(
    x: Float[Array, "n t h w c"], window: Sequence[int]
) -> Float[Array, "n windows tokens c"]:
    """Cut a map into windows."""
    n, t, h, w, c = x.shape
    kt, kh, kw = window
    # Six axes, since XLA's compiler for CPUs may fail on more.
    x = x.reshape(n * t // kt, kt, h // kh, kh, w // kw, kw * c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(n, -1, kt * kh * kw, c)


def merge_windows(
    x: Float[Array, "n windows tokens c"], window: Sequence[int], grid: Sequence[int]
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
    grid: Sequence[int], window: Sequence[int], shift: Sequence[int]
) -> Bool[Array, "windows tokens tokens"]:
    """Which tokens of a shifted window were not neighbours before the shift wrapped them around."""
    regions = np.zeros((1, *grid, 1))
    for axis, (side, own, s) in enumerate(zip(grid, window, shift, strict=True)):
        places = np.arange(side).reshape([side if i == axis else 1 for i in range(4)])
        regions = 3 * regions + ((places >= side - own) * 1 + (places >= side - s) if s else 0)
    cut = windows(jnp.asarray(regions, jnp.float32), window)[0, ..., 0]
    return cut[:, :, None] != cut[:, None, :]


# Names in mmaction2, whose order it is, and in torchvision.
_EMBEDDING = table("""
    -                  -           backbone.patch_embed.           patch_embed.
    patches            conv        proj                            proj
    patch_norm         layer_norm  norm                            norm
""")
_BLOCK = table("""
    stages.{stage}.{block}.  -  backbone.layers.{stage}.blocks.{block}.  features.{even}.{block}.
    norm1              layer_norm  norm1                           norm1
    attention.positions  window    attn                            attn
    attention.qkv      linear      attn.qkv                        attn.qkv
    attention.project  linear      attn.proj                       attn.proj
    norm2              layer_norm  norm2                           norm2
    mlp.widen          linear      mlp.fc1                         mlp.0
    mlp.narrow         linear      mlp.fc2                         mlp.3
""")
_MERGING = table("""
    mergings.{stage}.  -           backbone.layers.{stage}.downsample.  features.{odd}.
    reduce             linear      reduction                       reduction
    norm               layer_norm  norm                            norm
""")
_END = table("""
    -                  -           -                               -
    norm               layer_norm  backbone.norm3                  norm
    head.classifier    linear      cls_head.fc_cls                 head
""")


def _released(column: int, config: VideoSwinConfig) -> Iterator[Released]:
    index = relative_index(config.window)
    yield from spelled(_EMBEDDING, column)
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            for module in spelled(_BLOCK, column, stage=stage, even=2 * stage, block=block):
                yield module._replace(constant=index if module.kind == "window" else None)
        yield from spelled(_MERGING, column, stage=stage, odd=2 * stage + 1)
    yield from spelled(_END, column)


_swin = partial(
    Entry,
    year=2021,
    idea="attention within windows of space and time, which shift from block to block",
    build=VideoSwin,
    released=(partial(_released, 0), partial(_released, 1)),
)

ENTRIES = (
    _swin(
        title="VideoSwin-T",
        config=VideoSwinConfig(),
        input=square(160, 12),
    ),
    _swin(
        title="VideoSwin-T 32x2",
        config=VideoSwinConfig(name="videoswin_tiny_32x2", num_frames=32),
        input=square(224, 2, num_clips=4),
    ),
)
