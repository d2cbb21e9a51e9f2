"""MViTv2: Improved Multiscale Vision Transformers (Li et al., arXiv 2112.01526).

From stage to stage there are fewer and wider tokens; keys and values are pooled further still.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param
from squeezetime_jax.peers.entry import Entry, Released, spelled, square, table
from squeezetime_jax.peers.layers import Conv, Head, Triple, check_clips, convolve, max_pool
from squeezetime_jax.peers.transformers import (
    MLP,
    ClassTokenTransformer,
    Clips,
    DropPath,
    LayerNorm,
    Rngs,
    Tokens,
    attend,
    drop_rates,
)

EPSILON = 1e-6  # of every layer norm
PATCH_STRIDE = (2, 4, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MViTConfig(NetworkConfig):
    """MViTv2, by default Small. It takes clips of any size.

    Attributes:
      width: channels of the first stage's tokens, and of a head; each further stage has tokens
        twice as wide.
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


class MViT(ClassTokenTransformer):
    """MViTv2."""

    def __init__(self, config: MViTConfig, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.patches = Conv(3, width, (3, 7, 7), config, stride=PATCH_STRIDE, bias=True)
        self.patches.kernel = normal_param(self.patches.kernel.shape, 0.02, config)
        self.patches.bias = nnx.Param(jnp.zeros(width, config.param_dtype))
        self.class_token = nnx.Param(jnp.zeros(width, config.param_dtype))
        rates = drop_rates(config.drop_path, config.num_blocks)
        sizes = _sizes(config)
        self.blocks = nnx.List(
            [MViTBlock(*pair, config) for pair in zip(sizes, rates, strict=True)]
        )
        self.stage_ends = (*(start - 1 for start in config.stage_starts), config.num_blocks - 1)
        self.norm = LayerNorm(sizes[-1].out_width, config, epsilon=EPSILON)
        self.head = Head(sizes[-1].out_width, config, std=0.02)
        for _, module in nnx.iter_modules(self):
            if isinstance(module, Linear | LayerNorm) and module.bias is not None:
                module.bias[...] = jnp.full_like(module.bias[...], 0.02)
        initialise(self, rngs)

    def states(self, clips: Clips, rngs: Rngs = None) -> list[tuple[Array, Triple]]:
        """As of every network with a class token."""
        x = self.patches(check_clips(clips, self.config))
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (len(x), 1, x.shape[-1]))
        states = [_joined(token, x)]
        for block in self.blocks:
            states.append(block(*states[-1], rngs))
        return states


class Size(NamedTuple):
    """Of a block: channels read and written, the strides in height and width of queries and of keys
    and values, and the grid (frames, side) that its tables of relative positions are made for.
    """

    width: int
    out_width: int
    q_stride: int
    kv_stride: int
    frames: int
    side: int


def _sizes(config: MViTConfig) -> list[Size]:
    width, kv_stride = config.width, config.kv_stride
    frames, side = config.trained_frames // PATCH_STRIDE[0], config.trained_side // PATCH_STRIDE[1]
    sizes = []
    for index in range(config.num_blocks):
        factor = 2 if index in config.stage_starts else 1
        kv_stride = max(kv_stride // factor, 1)
        sizes.append(Size(width, width * factor, factor, kv_stride, frames, side))
        width, side = width * factor, side // factor
    return sizes


class MViTBlock(nnx.Module):
    """Pooled attention and an MLP; a stage's first block widens tokens and pools them."""

    def __init__(self, size: Size, drop: float, config: MViTConfig):
        width, out_width = size.width, size.out_width
        self.norm1 = LayerNorm(width, config, epsilon=EPSILON)
        self.attention = PooledAttention(size, config)
        self.norm2 = LayerNorm(out_width, config, epsilon=EPSILON)
        self.mlp = MLP(out_width, config)
        is_wider = width != out_width
        self.widen = nnx.data(Linear(width, out_width, config, std=0.02) if is_wider else None)
        self.stride = (1, size.q_stride, size.q_stride)
        self.drop = DropPath(drop)

    def __call__(self, x: Tokens, grid: Triple, rngs: Rngs) -> tuple[Float[Array, "n _ _"], Triple]:
        """The tokens' next states, and their grid."""
        y = self.norm1(x)
        shortcut = x if self.widen is None else self.widen(y)
        if max(self.stride) > 1:
            token, patches = _split(shortcut, grid)
            shortcut, _ = _joined(token, max_pool(patches, (1, 3, 3), self.stride, (0, 1, 1)))
        y, grid = self.attention(y, grid)
        x = shortcut + self.drop(y, rngs)
        return x + self.drop(self.mlp(self.norm2(x)), rngs), grid


class PooledAttention(nnx.Module):
    """Multi-head attention over pooled tokens, with relative positions and the queries added."""

    def __init__(self, size: Size, config: MViTConfig):
        head_width = config.width
        self.num_heads = size.out_width // head_width
        self.qkv = Linear(size.width, 3 * size.out_width, config, std=0.02)
        strides = (size.q_stride, size.kv_stride, size.kv_stride)
        self.pools = nnx.List([TokenPool(head_width, stride, config) for stride in strides])
        side = size.side // min(strides)
        tables = [
            normal_param((2 * length - 1, head_width), 0.02, config)
            for length in (size.frames, side, side)
        ]
        self.tables = nnx.List(tables)  # for time, height and width
        self.project = Linear(size.out_width, size.out_width, config, std=0.02)

    def __call__(self, x: Tokens, grid: Triple) -> tuple[Float[Array, "n _ _"], Triple]:
        """Mix tokens; returns also the queries' grid."""
        heads = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1)
        (query, q_grid), (key, k_grid), (value, _) = (
            pool(heads[:, :, i], grid) for i, pool in enumerate(self.pools)
        )
        y = attend(query, key, value, self._position_scores(query, q_grid, k_grid))
        y = y + query.at[:, 0].set(0)  # the patches' queries only
        return self.project(y.reshape(*y.shape[:2], -1)), q_grid

    def _position_scores(
        self, query: Float[Array, "n q heads d"], q_grid: Triple, k_grid: Triple
    ) -> Float[Array, "n heads q k"]:
        """What is added to the scores: for patches, each query's product with the three rows for a
        key's distance in time, height and width; 0 for the class token.
        """
        n, _, heads, _ = query.shape
        patches = query[:, 1:].reshape(n, *q_grid, heads, -1)
        scores = []
        for axis, stored, q_size, k_size in zip("thw", self.tables, q_grid, k_grid, strict=True):
            rows = relative_rows(stored[...], q_size, k_size).astype(query.dtype)
            products = jnp.einsum(f"nthwad,{axis}kd->nathwk", patches, rows)
            scores.append(products.reshape(n, heads, -1, k_size))
        time, height, width = scores
        total = time[..., :, None, None] + height[..., None, :, None] + width[..., None, None, :]
        total = total.reshape(n, heads, math.prod(q_grid), math.prod(k_grid))
        return jnp.pad(total, ((0, 0), (0, 0), (1, 0), (1, 0)))


class TokenPool(nnx.Module):
    """A depthwise 3x3x3 convolution of the patches, the same for all heads, and a layer norm."""

    def __init__(self, head_width: int, stride: int, config: MViTConfig):
        self.kernel = normal_param((3, 3, 3, 1, head_width), 0.02, config)
        self.norm = LayerNorm(head_width, config, epsilon=EPSILON)
        self.stride = (1, stride, stride)
        self.dtype = config.compute_dtype

    def __call__(
        self, x: Float[Array, "n tokens heads d"], grid: Triple
    ) -> tuple[Float[Array, "n _ heads d"], Triple]:
        """Pooled tokens, and the patches' grid; the class token is only normalised."""
        token, patches = _split(x.reshape(*x.shape[:2], -1), grid)
        kernel = jnp.tile(self.kernel[...].astype(self.dtype), x.shape[2])
        groups = kernel.shape[-1]
        patches = convolve(patches, kernel, stride=self.stride, padding=(1, 1, 1), groups=groups)
        pooled, grid = _joined(token, patches)
        return self.norm(pooled.reshape(*pooled.shape[:2], *x.shape[2:])), grid


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


def _split(tokens: Tokens, grid: Triple) -> tuple[Float[Array, "n 1 c"], Array]:
    """The class token, and the patches (n, t, h, w, c)."""
    return tokens[:, :1], tokens[:, 1:].reshape(len(tokens), *grid, -1)


def _joined(token: Float[Array, "n 1 c"], patches: Array) -> tuple[Tokens, Triple]:
    """The class token before the patches, and the patches' grid."""
    n, t, h, w, c = patches.shape
    return jnp.concatenate([token, patches.reshape(n, -1, c)], axis=1), (t, h, w)


# Names in mmaction2, whose order it is, SlowFast and torchvision.
_EMBEDDING = table("""
    -                       -           backbone.               -                 -
    class_token             token       cls_token               cls_token         -
    class_token             vector      -                       -   pos_encoding.class_token
    patches                 conv        patch_embed.projection  patch_embed.proj  conv_proj
""")
_BLOCK = table("""
    blocks.{block}.         -  backbone.blocks.{block}.  blocks.{block}.  blocks.{block}.
    norm1                   layer_norm  norm1           norm1           norm1
    attention.tables.1      table       attn.rel_pos_h  attn.rel_pos_h  attn.rel_pos_h
    attention.tables.2      table       attn.rel_pos_w  attn.rel_pos_w  attn.rel_pos_w
    attention.tables.0      table       attn.rel_pos_t  attn.rel_pos_t  attn.rel_pos_t
    attention.qkv           linear      attn.qkv        attn.qkv        attn.qkv
    attention.project       linear      attn.proj       attn.proj       attn.project.0
    attention.pools.0       conv        attn.pool_q     attn.pool_q     attn.pool_q.pool
    attention.pools.0.norm  layer_norm  attn.norm_q     attn.norm_q     attn.pool_q.norm_act.0
    attention.pools.1       conv        attn.pool_k     attn.pool_k     attn.pool_k.pool
    attention.pools.1.norm  layer_norm  attn.norm_k     attn.norm_k     attn.pool_k.norm_act.0
    attention.pools.2       conv        attn.pool_v     attn.pool_v     attn.pool_v.pool
    attention.pools.2.norm  layer_norm  attn.norm_v     attn.norm_v     attn.pool_v.norm_act.0
    norm2                   layer_norm  norm2           norm2           norm2
    mlp.widen               linear      mlp.fc1         mlp.fc1         mlp.0
    mlp.narrow              linear      mlp.fc2         mlp.fc2         mlp.3
    widen                   linear      proj            proj            project
""")
_END = table("""
    -                       -           -                -                -
    norm                    layer_norm  backbone.norm3   norm             norm
    head.classifier         linear      cls_head.fc_cls  head.projection  head.1
""")


def _released(column: int, config: MViTConfig) -> Iterator[Released]:
    yield from spelled(_EMBEDDING, column)
    for block in range(config.num_blocks):
        yield from spelled(_BLOCK, column, block=block)
    yield from spelled(_END, column)


_mvit = partial(
    Entry,
    year=2021,
    idea="from stage to stage fewer and wider tokens; attention over pooled keys and values",
    build=MViT,
    released=tuple(partial(_released, column) for column in range(3)),
)
_PIXELS = (114.75,) * 3, (57.375,) * 3

ENTRIES = (
    _mvit(
        title="MViTv2-S",
        config=MViTConfig(),
        input=square(128, 12, _PIXELS),
    ),
    _mvit(
        title="MViTv2-S 16x4",
        config=MViTConfig(name="mvitv2_small_16x4", num_frames=16),
        input=square(224, 4, _PIXELS, num_clips=5, num_crops=1),
    ),
)
