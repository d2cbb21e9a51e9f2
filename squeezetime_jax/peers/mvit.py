"""MViTv2: Improved Multiscale Vision Transformers (Li et al., arXiv 2112.01526).

From stage to stage there are fewer and wider tokens: queries, keys and values are pooled.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param
from squeezetime_jax.peers.entry import Entry, Input, Published, Released, Table, spelled
from squeezetime_jax.peers.layers import Conv, Head, Triple, check_clips, convolve, max_pool
from squeezetime_jax.peers.transformers import (
    MLP,
    ClassTokenNetwork,
    LayerNorm,
    attend,
    drop_paths,
)

EPSILON = 1e-6  # of every layer norm
PATCH_STRIDE = (2, 4, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MViTConfig(NetworkConfig):
    """MViTv2, by default Small. It takes clips of any size.

    Attributes:
      width: channels of the first stage's tokens; doubled by each further stage.
      num_blocks: blocks of all stages.
      stage_starts: index of the block that each further stage starts with.
      kv_stride: of keys and values in height and width in the first stage; halved by each further.
      trained_frames: frames of the clips that the tables of relative positions are made for.
      trained_side: height and width of these; for other sizes the tables are interpolated.
      drop_path: probability of dropping the last block's residuals, in training.
    """

    name: str = "mvitv2_small"
    num_frames: int = 4
    width: int = 96
    num_blocks: int = 16
    stage_starts: tuple[int, ...] = (1, 3, 14)
    kv_stride: int = 8
    trained_frames: int = 16
    trained_side: int = 224
    drop_path: float = 0.2


class MViT(ClassTokenNetwork):
    """MViTv2. Each stage has twice the heads of the one before; all heads are equally wide."""

    def __init__(self, config: MViTConfig, rngs: nnx.Rngs):
        self.config = config
        width, kv_stride = config.width, config.kv_stride
        self.patches = Conv(3, width, (3, 7, 7), config, stride=PATCH_STRIDE, bias=True)
        self.patches.kernel = normal_param(self.patches.kernel.shape, 0.02, config)
        self.patches.bias = nnx.Param(jnp.zeros(width, config.param_dtype))
        self.class_token = nnx.Param(jnp.zeros(width, config.param_dtype))
        grid = config.trained_frames // PATCH_STRIDE[0], config.trained_side // PATCH_STRIDE[1]
        blocks = []
        for index, drop in enumerate(drop_paths(config.drop_path, config.num_blocks)):
            is_start = index in config.stage_starts
            out_width, q_stride = (2 * width, 2) if is_start else (width, 1)
            kv_stride = max(kv_stride // q_stride, 1)
            blocks.append(MViTBlock(width, out_width, q_stride, kv_stride, grid, drop, config))
            width, grid = out_width, (grid[0], grid[1] // q_stride)
        self.blocks = nnx.List(blocks)
        self.stage_ends = (*(start - 1 for start in config.stage_starts), config.num_blocks - 1)
        self.norm = LayerNorm(width, config, epsilon=EPSILON)
        self.head = Head(width, config, std=0.02)
        for _, module in nnx.iter_modules(self):
            if isinstance(module, Linear | LayerNorm) and module.bias is not None:
                module.bias[...] = jnp.full_like(module.bias[...], 0.02)
        initialise(self, rngs)

    def embed(self, clips: Float[Array, "n t h w 3"]) -> tuple[Float[Array, "n tokens c"], Triple]:
        """As of every network with a class token."""
        x = self.patches(check_clips(clips, self.config))
        n, t, h, w, width = x.shape
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (n, 1, width))
        return _joined(token, x.reshape(n, -1, width)), (t, h, w)


class MViTBlock(nnx.Module):
    """Pooled attention and an MLP; a stage's first block widens tokens and pools them."""

    def __init__(
        self,
        width: int,
        out_width: int,
        q_stride: int,
        kv_stride: int,
        trained_grid: tuple[int, int],
        drop: nnx.Dropout,
        config: MViTConfig,
    ):
        self.norm1 = LayerNorm(width, config, epsilon=EPSILON)
        self.attention = PooledAttention(
            width, out_width, q_stride, kv_stride, trained_grid, config
        )
        self.norm2 = LayerNorm(out_width, config, epsilon=EPSILON)
        self.mlp = MLP(out_width, config)
        self.widen = nnx.data(None)
        if width != out_width:
            self.widen = Linear(width, out_width, config, std=0.02)
        self.q_stride = q_stride
        self.drop = drop

    def __call__(
        self, x: Float[Array, "n tokens c"], grid: Triple, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "n _ _"], Triple]:
        """The next states, and their grid."""
        y = self.norm1(x)
        shortcut = x if self.widen is None else self.widen(y)
        if self.q_stride > 1:
            patches = shortcut[:, 1:].reshape(len(x), *grid, -1)
            patches = max_pool(patches, (1, 3, 3), (1, self.q_stride, self.q_stride), (0, 1, 1))
            shortcut = _joined(shortcut[:, :1], patches.reshape(len(x), -1, shortcut.shape[-1]))
        y, grid = self.attention(y, grid)
        x = shortcut + self.drop(y, rngs=rngs)
        return x + self.drop(self.mlp(self.norm2(x)), rngs=rngs), grid


class PooledAttention(nnx.Module):
    """Multi-head attention over pooled tokens, with relative positions and the queries added.

    Args:
      width: channels read.
      out_width: channels written, and of all heads together.
      q_stride: of the queries' pooling, in height and width.
      kv_stride: of the keys' and values' pooling.
      trained_grid: frames and height (or width) of the grid of tokens read that the tables of
        relative positions are made for.
      config: gives the width of a head and the dtypes.
    """

    def __init__(
        self,
        width: int,
        out_width: int,
        q_stride: int,
        kv_stride: int,
        trained_grid: tuple[int, int],
        config: MViTConfig,
    ):
        head_width = config.width
        self.num_heads = out_width // head_width
        self.qkv = Linear(width, 3 * out_width, config, std=0.02)
        strides = (q_stride, kv_stride, kv_stride)
        self.pools = nnx.List([TokenPool(head_width, stride, config) for stride in strides])
        frames, side = trained_grid
        side = max(side // q_stride, side // kv_stride)
        self.tables = nnx.List(  # for time, height and width
            [
                normal_param((2 * size - 1, head_width), 0.02, config)
                for size in (frames, side, side)
            ]
        )
        self.project = Linear(out_width, out_width, config, std=0.02)

    def __call__(
        self, x: Float[Array, "n tokens c"], grid: Triple
    ) -> tuple[Float[Array, "n _ _"], Triple]:
        """Mix tokens; returns also the queries' grid."""
        heads = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        (query, q_grid), (key, k_grid), (value, _) = (
            pool(heads[:, :, i], grid) for i, pool in enumerate(self.pools)
        )
        y = attend(query, key, value, self._position_scores(query, q_grid, k_grid))
        y = _joined(y[:, :1], y[:, 1:] + query[:, 1:])
        return self.project(y.reshape(*y.shape[:2], -1)), q_grid

    def _position_scores(
        self, query: Float[Array, "n q heads d"], q_grid: Triple, k_grid: Triple
    ) -> Float[Array, "n heads q k"]:
        """What is added to the scores: for patches, each query's product with the three rows for a
        key's distance in time, height and width; 0 for the class token.
        """
        n, _, heads, _ = query.shape
        patches = query[:, 1:].reshape(n, *q_grid, heads, -1)
        rows = (
            relative_rows(table[...], q, k).astype(query.dtype)
            for table, q, k in zip(self.tables, q_grid, k_grid, strict=True)
        )
        time, height, width = (
            jnp.einsum(f"nthwad,{axis}kd->nathwk", patches, row).reshape(n, heads, -1, row.shape[1])
            for axis, row in zip("thw", rows, strict=True)
        )
        scores = time[..., :, None, None] + height[..., None, :, None] + width[..., None, None, :]
        scores = scores.reshape(n, heads, math.prod(q_grid), math.prod(k_grid))
        return jnp.pad(scores, ((0, 0), (0, 0), (1, 0), (1, 0)))


class TokenPool(nnx.Module):
    """A depthwise 3x3x3 convolution of the patches, the same for all heads, and a layer norm."""

    def __init__(self, head_width: int, stride: int, config: MViTConfig):
        self.kernel = normal_param((3, 3, 3, 1, head_width), 0.02, config)
        self.norm = LayerNorm(head_width, config, epsilon=EPSILON)
        self.stride = stride
        self.dtype = config.compute_dtype

    def __call__(
        self, x: Float[Array, "n tokens heads d"], grid: Triple
    ) -> tuple[Float[Array, "n _ heads d"], Triple]:
        """Pooled tokens, and the patches' grid; the class token is only normalised."""
        n, _, heads, _ = x.shape
        kernel = jnp.tile(self.kernel[...].astype(self.dtype), heads)
        patches = convolve(
            x[:, 1:].reshape(n, *grid, -1),
            kernel,
            stride=(1, self.stride, self.stride),
            padding=(1, 1, 1),
            groups=kernel.shape[-1],
        )
        pooled = _joined(x[:, :1], patches.reshape(n, -1, *x.shape[2:]))
        _, t, h, w, _ = patches.shape
        return self.norm(pooled), (t, h, w)


def relative_rows(
    table: Float[Array, "rows d"], q_size: int, k_size: int
) -> Float[Array, "{q_size} {k_size} d"]:
    """The table's row for the distance of each query from each key along one axis.

    A table for another size is interpolated linearly, without its corners aligned. The shorter of
    the two grids is stretched over the longer.
    """
    old, rows = len(table), 2 * max(q_size, k_size) - 1
    if old != rows:
        places = np.clip((np.arange(rows) + 0.5) * (old / rows) - 0.5, 0, old - 1)
        before = places.astype(int)
        share = (places - before)[:, None].astype(table.dtype)
        table = table[before] * (1 - share) + table[np.minimum(before + 1, old - 1)] * share
    q_step, k_step = max(k_size / q_size, 1), max(q_size / k_size, 1)
    distance = np.arange(q_size)[:, None] * q_step - np.arange(k_size) * k_step
    return table[np.floor(distance + (k_size - 1) * k_step).astype(int)]


def _joined(token: Array, patches: Array) -> Array:
    """The class token before the patches."""
    return jnp.concatenate([token, patches], axis=1)


# Our modules, and their names in mmaction2 (in whose order they are), SlowFast and torchvision.
_EMBEDDING: Table = (
    ("class_token", "token", "backbone.cls_token", "cls_token", None),
    ("class_token", "vector", None, None, "pos_encoding.class_token"),
    ("patches", "conv", "backbone.patch_embed.projection", "patch_embed.proj", "conv_proj"),
)
_POOLS: Table = tuple(
    row
    for i, x in enumerate("qkv")
    for row in (
        (f"attention.pools.{i}", "conv", *(f"attn.pool_{x}",) * 2, f"attn.pool_{x}.pool"),
        (
            *(f"attention.pools.{i}.norm", "layer_norm"),
            *(*(f"attn.norm_{x}",) * 2, f"attn.pool_{x}.norm_act.0"),
        ),
    )
)
_BLOCK: Table = (
    ("norm1", "layer_norm", *("norm1",) * 3),
    ("attention.tables.1", "table", *("attn.rel_pos_h",) * 3),
    ("attention.tables.2", "table", *("attn.rel_pos_w",) * 3),
    ("attention.tables.0", "table", *("attn.rel_pos_t",) * 3),
    ("attention.qkv", "linear", *("attn.qkv",) * 3),
    ("attention.project", "linear", "attn.proj", "attn.proj", "attn.project.0"),
    *_POOLS,
    ("norm2", "layer_norm", *("norm2",) * 3),
    ("mlp.widen", "linear", "mlp.fc1", "mlp.fc1", "mlp.0"),
    ("mlp.narrow", "linear", "mlp.fc2", "mlp.fc2", "mlp.3"),
    ("widen", "linear", "proj", "proj", "project"),
)
_END: Table = (
    ("norm", "layer_norm", "backbone.norm3", "norm", "norm"),
    ("head.classifier", "linear", "cls_head.fc_cls", "head.projection", "head.1"),
)


def _released(column: int, blocks: str, config: MViTConfig) -> Iterator[Released]:
    yield from spelled(_EMBEDDING, column)
    for index in range(config.num_blocks):
        yield from spelled(_BLOCK, column, f"blocks.{index}.", f"{blocks}.{index}.")
    yield from spelled(_END, column)


def _entry(config: MViTConfig, title: str, input: Input, published: Published) -> Entry:
    return Entry(
        name=config.name,
        title=title,
        year=2021,
        idea="from stage to stage fewer and wider tokens; attention over pooled keys and values",
        config=config,
        build=MViT,
        input=input,
        published=published,
        released=(
            partial(_released, 0, "backbone.blocks"),
            partial(_released, 1, "blocks"),
            partial(_released, 2, "blocks"),
        ),
    )


_MEAN, _STD = (114.75,) * 3, (57.375,) * 3
ENTRIES = (
    _entry(
        MViTConfig(),
        "MViTv2-S",
        Input(frame_interval=12, short_side=128, crop_side=128, mean=_MEAN, std=_STD),
        Published(
            parameters=34_537_744,
            multiply_adds=4_181_926_080,
            clip=(4, 128, 128),
            paper_row="MViTv2-Small",
            paper_cpu_ms=176,
        ),
    ),
)
