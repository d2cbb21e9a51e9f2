"""What the compared transformers share, and TimeSformer, which is built of nothing else.

All are pre-norm: `x + attention(norm(x))`, then `x + mlp(norm(x))`. Tokens are (n, tokens, c).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param, uniform_param
from squeezetime_jax.peers.entry import HALF, Entry, Input, Published, Released, Table, spelled
from squeezetime_jax.peers.layers import Conv, Head, Network, Triple, check_clips

Rngs = nnx.Rngs | Array | None


class LayerNorm(nnx.Module):
    """Normalises the last axis, in at least float32."""

    def __init__(self, num_features: int, config: NetworkConfig, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(num_features, config.param_dtype))
        self.bias = nnx.Param(jnp.zeros(num_features, config.param_dtype))
        self.epsilon = epsilon
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalise."""
        x = x.astype(self.scale.dtype)
        x = x - jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(jnp.square(x), -1, keepdims=True)
        normed = x * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]
        return normed.astype(self.dtype)


class MLP(nnx.Module):
    """Linear, GELU (the exact one, by the error function), linear; four times as wide inside."""

    def __init__(self, width: int, config: NetworkConfig, *, std: float = 0.02):
        self.widen = Linear(width, 4 * width, config, std=std)
        self.narrow = Linear(4 * width, width, config, std=std)

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Each token by itself."""
        return self.narrow(jax.nn.gelu(self.widen(x), approximate=False))


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int, config: NetworkConfig, *, std: float = 0.02):
        self.qkv = Linear(width, 3 * width, config, std=std)
        self.project = Linear(width, width, config, std=std)
        self.num_heads = num_heads

    def __call__(
        self, x: Float[Array, "*n tokens c"], bias: Float[Array, "..."] | None = None
    ) -> Float[Array, "*n tokens c"]:
        """Mix tokens; `bias` is added to the scores and has axes that broadcast with theirs,
        (*n, heads, tokens, tokens).
        """
        heads = self.qkv(x).reshape(*x.shape[:-1], 3, self.num_heads, -1)
        query, key, value = (heads[..., i, :, :] for i in range(3))
        return self.project(attend(query, key, value, bias).reshape(x.shape))


def attend(
    query: Float[Array, "*n q heads d"],
    key: Float[Array, "*n k heads d"],
    value: Float[Array, "*n k heads d"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*n q heads d"]:
    """Scaled dot-product attention; `bias` as for `Attention`."""
    scores = jnp.einsum("...qhd,...khd->...hqk", query * query.shape[-1] ** -0.5, key)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


def drop_paths(highest: float, count: int, axes: Sequence[int] = (1, 2)) -> list[nnx.Dropout]:
    """For each block what drops its residuals, each sample's whole: with probabilities that rise
    evenly from 0 to `highest`. `axes` are all but the first.
    """
    return [nnx.Dropout(float(r), broadcast_dims=axes) for r in np.linspace(0, highest, count)]


def one_stream(rngs: Rngs) -> nnx.Rngs | None:
    """What many layers draw from in turn; from a key itself all would draw the same numbers."""
    return nnx.Rngs(dropout=rngs) if isinstance(rngs, jax.Array) else rngs


class ClassTokenNetwork(Network):
    """A transformer that scores the last state of an additional first token, the class token.

    A subclass sets the attributes and defines `embed`.
    """

    blocks: nnx.List  # each takes (tokens, grid, rngs) and returns tokens and grid
    stage_ends: tuple[int, ...]  # index of the last block of each stage
    norm: LayerNorm
    head: Head

    def embed(self, clips: Float[Array, "n t h w 3"]) -> tuple[Float[Array, "n tokens c"], Triple]:
        """Tokens, and the patches' grid in time, height and width."""
        raise NotImplementedError

    def __call__(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> Float[Array, "n classes"]:
        """As of every network."""
        rngs = one_stream(rngs)
        tokens, _ = self.states(clips, rngs)[-1]
        return self.head(self.norm(tokens[:, 0])[:, None, None, None], rngs)

    def features(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> Float[Array, "n ft fh fw c"]:
        """The patches' last states, normalised.

        Args and Raises: as for calling the network.
        """
        return self.norm(self.stage_maps(clips, rngs)[-1])

    def stage_maps(
        self, clips: Float[Array, "n t h w 3"], rngs: Rngs = None
    ) -> list[Float[Array, "n _ _ _ _"]]:
        """The patches' states that the stages end with.

        Args and Raises: as for calling the network.
        """
        states = self.states(clips, one_stream(rngs))
        ends = [states[end + 1] for end in self.stage_ends]
        return [tokens[:, 1:].reshape(len(clips), *grid, -1) for tokens, grid in ends]

    def states(
        self, clips: Float[Array, "n t h w 3"], rngs: nnx.Rngs | None = None
    ) -> list[tuple[Float[Array, "n _ _"], Triple]]:
        """All tokens and the patches' grid, once embedded and after each block."""
        states = [self.embed(clips)]
        for block in self.blocks:
            states.append(block(*states[-1], rngs))
        return states


# TimeSformer: Is Space-Time Attention All You Need for Video Understanding? (Bertasius et al.,
# arXiv 2102.05095).


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSformerConfig(NetworkConfig):
    """TimeSformer.

    Attributes:
      attention: "joint", each token attends to all; or "divided", first to those of the same place
        in all frames, then to those of the same frame.
      side: height and width of the clips, in pixels.
      patch: side of a patch.
      width: channels of a token.
      num_blocks: blocks.
      num_heads: heads of an attention.
      drop_path: probability of dropping the last block's residuals, in training.
    """

    name: str = "timesformer_base"
    num_frames: int = 4
    dropout: float = 0.0
    attention: Literal["joint", "divided"] = "joint"
    side: int = 128
    patch: int = 16
    width: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    drop_path: float = 0.1


class TimeSformer(ClassTokenNetwork):
    """TimeSformer: patches of single frames, with learned positions in space and in time."""

    def __init__(self, config: TimeSformerConfig, rngs: nnx.Rngs):
        self.config = config
        width, grid = config.width, config.side // config.patch
        self.patches = Conv(
            3, width, config.patch, config, stride=config.patch, padding=(0, 0, 0), bias=True
        )
        fan_in = 3 * config.patch**2
        self.patches.kernel = normal_param(self.patches.kernel.shape, fan_in**-0.5, config)
        self.patches.bias = nnx.Param(jnp.zeros(width, config.param_dtype))
        self.class_token = normal_param((width,), 0.02, config)
        self.space = normal_param((1 + grid**2, width), 0.02, config)  # the class token's first
        self.time = nnx.Param(jnp.zeros((config.num_frames, width), config.param_dtype))
        block = JointBlock if config.attention == "joint" else DividedBlock
        drops = drop_paths(config.drop_path, config.num_blocks)
        self.blocks = nnx.List([block(config, drop) for drop in drops])
        self.stage_ends = tuple(config.num_blocks * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
        self.norm = LayerNorm(width, config, epsilon=1e-6)
        self.head = Head(width, config, std=0.02)
        initialise(self, rngs)

    def embed(self, clips: Float[Array, "n t h w 3"]) -> tuple[Float[Array, "n tokens c"], Triple]:
        """As of every network with a class token.

        Raises:
          ValueError: the clips have another number of frames or another side.
        """
        config = self.config
        assert isinstance(config, TimeSformerConfig)
        clips = check_clips(clips, config, config.num_frames)
        if clips.shape[2:4] != (config.side, config.side):
            raise ValueError(
                f"{config.name}: clips must be {config.side}x{config.side} pixels, as the learned "
                f"positions are; got {clips.shape[2]}x{clips.shape[3]}"
            )
        token, space, time = (
            leaf[...].astype(config.compute_dtype)
            for leaf in (self.class_token, self.space, self.time)
        )
        x = self.patches(clips)
        n, t, h, w, width = x.shape
        x = x.reshape(n, t, -1, width) + space[1:] + time[:, None]
        first = jnp.broadcast_to(token + space[0], (n, 1, width))
        return jnp.concatenate([first, x.reshape(n, -1, width)], axis=1), (t, h, w)


class JointBlock(nnx.Module):
    """Every token attends to all."""

    def __init__(self, config: TimeSformerConfig, drop: nnx.Dropout):
        self.norm1 = LayerNorm(config.width, config, epsilon=1e-6)
        self.attention = _attention(config)
        self.norm2 = LayerNorm(config.width, config, epsilon=1e-6)
        self.mlp = _mlp(config)
        self.drop = drop

    def __call__(
        self, x: Float[Array, "n tokens c"], grid: Triple, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "n tokens c"], Triple]:
        """The tokens' next states; the grid stays."""
        x = x + self.drop(self.attention(self.norm1(x)), rngs=rngs)
        return x + self.drop(self.mlp(self.norm2(x)), rngs=rngs), grid


class DividedBlock(JointBlock):
    """Patches attend over time, then the tokens of a frame to each other.

    The class token takes part in each frame and keeps the mean of what it gets there.
    """

    def __init__(self, config: TimeSformerConfig, drop: nnx.Dropout):
        super().__init__(config, drop)
        self.time_norm = LayerNorm(config.width, config, epsilon=1e-6)
        self.time_attention = _attention(config)
        self.time_linear = Linear(config.width, config.width, config, std=0.0)

    def __call__(
        self, x: Float[Array, "n tokens c"], grid: Triple, rngs: nnx.Rngs | None
    ) -> tuple[Float[Array, "n tokens c"], Triple]:
        """The tokens' next states; the grid stays."""
        (n, _, c), t = x.shape, grid[0]
        first, patches = x[:, None, :1], x[:, 1:].reshape(n, t, -1, c)

        y = self.time_norm(patches).swapaxes(1, 2)  # n p t c
        y = self.drop(self.time_attention(y.reshape(-1, t, c)), rngs=rngs)
        patches = patches + self.time_linear(y).reshape(n, -1, t, c).swapaxes(1, 2)

        y = jnp.concatenate([jnp.broadcast_to(first, (n, t, 1, c)), patches], axis=2)
        y = self.attention(self.norm1(y.reshape(n * t, -1, c)))
        y = self.drop(y, rngs=rngs).reshape(n, t, -1, c)
        first = first[:, 0] + jnp.mean(y[:, :, 0], axis=1, keepdims=True)
        patches = patches + y[:, :, 1:]

        x = jnp.concatenate([first, patches.reshape(n, -1, c)], axis=1)
        return x + self.drop(self.mlp(self.norm2(x)), rngs=rngs), grid


def _attention(config: TimeSformerConfig) -> Attention:
    """An attention that starts as PyTorch's own does."""
    attention = Attention(config.width, config.num_heads, config)
    for linear, bound in (
        (attention.qkv, math.sqrt(6 / (4 * config.width))),
        (attention.project, config.width**-0.5),
    ):
        linear.kernel = uniform_param(linear.kernel.shape, bound, config)
    return attention


def _mlp(config: TimeSformerConfig) -> MLP:
    """An MLP whose layers start as PyTorch's linear layers do."""
    mlp = MLP(config.width, config)
    for linear in (mlp.widen, mlp.narrow):
        bound = linear.kernel.shape[0] ** -0.5
        linear.kernel = uniform_param(linear.kernel.shape, bound, config)
        linear.bias = uniform_param(linear.kernel.shape[1:], bound, config)
    return mlp


# Our modules, and their names in mmaction2, in whose order they are, and in TimeSformer's own code.
_EMBEDDING: Table = (
    ("class_token", "token", "backbone.cls_token", "model.cls_token"),
    ("space", "tokens", "backbone.pos_embed", "model.pos_embed"),
    ("time", "tokens", "backbone.time_embed", "model.time_embed"),
    ("patches", "conv2d", "backbone.patch_embed.projection", "model.patch_embed.proj"),
    ("norm", "layer_norm", "backbone.norm", "model.norm"),
)
_MLP: Table = (
    ("mlp.widen", "linear", "ffns.0.layers.0.0", "mlp.fc1"),
    ("mlp.narrow", "linear", "ffns.0.layers.1", "mlp.fc2"),
)
_JOINT: Table = (
    ("attention.qkv", "in_proj", "attentions.0.attn.in_proj", None),
    ("attention.qkv", "linear", None, "attn.qkv"),
    ("attention.project", "linear", "attentions.0.attn.out_proj", "attn.proj"),
    *_MLP,
    ("norm1", "layer_norm", "norms.0", "norm1"),
    ("norm2", "layer_norm", "norms.1", "norm2"),
)
_DIVIDED: Table = (
    ("time_norm", "layer_norm", "attentions.0.norm", "temporal_norm1"),
    ("time_attention.qkv", "in_proj", "attentions.0.attn.in_proj", None),
    ("time_attention.qkv", "linear", None, "temporal_attn.qkv"),
    ("time_attention.project", "linear", "attentions.0.attn.out_proj", "temporal_attn.proj"),
    ("time_linear", "linear", "attentions.0.temporal_fc", "temporal_fc"),
    ("norm1", "layer_norm", "attentions.1.norm", "norm1"),
    ("attention.qkv", "in_proj", "attentions.1.attn.in_proj", None),
    ("attention.qkv", "linear", None, "attn.qkv"),
    ("attention.project", "linear", "attentions.1.attn.out_proj", "attn.proj"),
    *_MLP,
    ("norm2", "layer_norm", "ffns.0.norm", "norm2"),
)
_HEAD: Table = (("head.classifier", "linear", "cls_head.fc_cls", "model.head"),)


def _released(column: int, block: str, config: TimeSformerConfig) -> Iterator[Released]:
    yield from spelled(_EMBEDDING, column)
    for index in range(config.num_blocks):
        table = _JOINT if config.attention == "joint" else _DIVIDED
        yield from spelled(table, column, f"blocks.{index}.", f"{block}.{index}.")
    yield from spelled(_HEAD, column)


def _entry(config: TimeSformerConfig, title: str, input: Input, published: Published) -> Entry:
    return Entry(
        name=config.name,
        title=title,
        year=2021,
        idea="a vision transformer whose patches attend over space and time",
        config=config,
        build=TimeSformer,
        input=input,
        published=published,
        released=(
            partial(_released, 0, "backbone.transformer_layers.layers"),
            partial(_released, 1, "model.blocks"),
        ),
    )


ENTRIES = (
    _entry(
        TimeSformerConfig(),
        "TimeSformer-B",
        Input(frame_interval=12, short_side=128, crop_side=128, mean=HALF[0], std=HALF[1]),
        Published(
            parameters=86_007_952,
            multiply_adds=23_196_923_904,
            clip=(4, 128, 128),
            paper_row="TimeSformer-Base",
            paper_cpu_ms=196,
        ),
    ),
)
