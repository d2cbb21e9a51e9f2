"""What the compared transformers share, and TimeSformer, which is built of nothing else."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param, uniform_param
from squeezetime_jax.peers.entry import HALF, Entry, Released, spelled, square, table
from squeezetime_jax.peers.layers import Conv, Head, Network, Triple, check_clips

Clips = Float[Array, "n t h w 3"]
Logits = Float[Array, "n classes"]
Map = Float[Array, "n ft fh fw c"]
Tokens = Float[Array, "n tokens c"]
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

    def __init__(self, width: int, config: NetworkConfig):
        self.widen = Linear(width, 4 * width, config, std=0.02)
        self.narrow = Linear(4 * width, width, config, std=0.02)

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Each token by itself."""
        return self.narrow(jax.nn.gelu(self.widen(x), approximate=False))


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int, config: NetworkConfig):
        self.qkv = Linear(width, 3 * width, config, std=0.02)
        self.project = Linear(width, width, config, std=0.02)
        self.num_heads = num_heads

    def __call__(
        self, x: Float[Array, "*n tokens c"], bias: Float[Array, "..."] | None = None
    ) -> Float[Array, "*n tokens c"]:
        """Mix tokens; `bias`, which broadcasts to (*n, heads, tokens, tokens), adds to scores."""
        heads = self.qkv(x).reshape(*x.shape[:-1], 3, self.num_heads, -1)
        query, key, value = (heads[..., i, :, :] for i in range(3))
        return self.project(attend(query, key, value, bias).reshape(x.shape))


def attend(
    query: Float[Array, "*n q heads d"],
    key: Float[Array, "*n k heads d"],
    value: Float[Array, "*n k heads d"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "*n q heads d"]:
    """Scaled dot-product attention, its softmax in at least float32; `bias` as for `Attention`."""
    scores = jnp.einsum("...qhd,...khd->...hqk", query * query.shape[-1] ** -0.5, key)
    scores = (scores if bias is None else scores + bias).astype(jnp.promote_types(query.dtype, "f"))
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


class DropPath(nnx.Dropout):
    """Drops all of a sample, in training."""

    def __call__(self, x: Float[Array, "n *rest"], rngs: Rngs) -> Float[Array, "n *rest"]:  # type: ignore[override]
        """A sample is kept, and scaled to keep the mean, or zero."""
        ones = jnp.ones((len(x), *(1,) * (x.ndim - 1)), x.dtype)
        return x * super().__call__(ones, rngs=rngs)


def drop_rates(highest: float, count: int) -> list[float]:
    """Of each block's residuals, rising evenly from 0."""
    return np.linspace(0, highest, count).tolist()


class Block(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    `drop` is the probability of dropping a residual in training.
    """

    def __init__(
        self,
        width: int,
        attention: Callable[[Array], Array],
        drop: float,
        config: Any,
        *,
        epsilon: float,
    ):
        self.norm1 = LayerNorm(width, config, epsilon=epsilon)
        self.attention = attention
        self.norm2 = LayerNorm(width, config, epsilon=epsilon)
        self.mlp = MLP(width, config)
        self.drop = DropPath(drop)

    def __call__(self, x: Float[Array, "n *t c"], rngs: Rngs) -> Float[Array, "n *t c"]:
        """The tokens' next states."""
        x = x + self.drop(self.attention(self.norm1(x)), rngs)
        return x + self.drop(self.mlp(self.norm2(x)), rngs)


class Transformer(Network):
    """What the transformers share; `rngs`, needed in training, is what residuals are dropped by."""

    norm: LayerNorm

    def __call__(self, clips: Clips, rngs: Rngs = None) -> Logits:
        """As of every network."""
        rngs = stream(rngs)
        return self.head(self.features(clips, rngs), rngs)

    def features(self, clips: Clips, rngs: Rngs = None) -> Map:
        """The last stage's map, normalised."""
        return self.norm(self.stage_maps(clips, rngs)[-1])

    def stage_maps(self, clips: Clips, rngs: Rngs = None) -> list[Float[Array, "n _ _ _ _"]]:
        """The maps of tokens that the stages end with, not normalised."""
        raise NotImplementedError


class ClassTokenTransformer(Transformer):
    """A transformer that scores the last state of an additional first token, the class token."""

    stage_ends: tuple[int, ...]  # index of the last block of each stage

    def states(self, clips: Clips, rngs: Rngs = None) -> list[tuple[Array, Triple]]:
        """All tokens (n, tokens, c) and the patches' grid, embedded and after each block."""
        raise NotImplementedError

    def __call__(self, clips: Clips, rngs: Rngs = None) -> Logits:
        """As of every network."""
        rngs = stream(rngs)
        tokens, _ = self.states(clips, rngs)[-1]
        return self.head(self.norm(tokens[:, 0])[:, None, None, None], rngs)

    def stage_maps(self, clips: Clips, rngs: Rngs = None) -> list[Float[Array, "n _ _ _ _"]]:
        """The maps of patches that the stages end with, not normalised."""
        states = self.states(clips, stream(rngs))
        ends = [states[end + 1] for end in self.stage_ends]
        return [tokens[:, 1:].reshape(len(clips), *grid, -1) for tokens, grid in ends]


def stream(rngs: Rngs) -> nnx.Rngs | None:
    """What many layers draw from in turn; from a key itself all would draw the same numbers."""
    return nnx.Rngs(dropout=rngs) if isinstance(rngs, jax.Array) else rngs


# TimeSformer: Is Space-Time Attention All You Need for Video Understanding? (Bertasius et al.,
# arXiv 2102.05095).

EPSILON = 1e-6  # of its layer norms


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


class TimeSformer(ClassTokenTransformer):
    """TimeSformer: patches of single frames, with learned positions in space and in time.

    It takes clips of `config.num_frames` frames of `config.side` pixels a side. Its stages are the
    quarters of its blocks.
    """

    config: TimeSformerConfig

    def __init__(self, config: TimeSformerConfig, rngs: nnx.Rngs):
        self.config = config
        width, patch = config.width, config.patch
        self.patches = Conv(3, width, patch, config, stride=patch, padding=(0, 0, 0), bias=True)
        std = (3 * patch**2) ** -0.5
        self.patches.kernel = normal_param(self.patches.kernel.shape, std, config)
        self.patches.bias = nnx.Param(jnp.zeros(width, config.param_dtype))
        self.class_token = normal_param((width,), 0.02, config)
        places = 1 + (config.side // patch) ** 2  # the class token's first
        self.space = normal_param((places, width), 0.02, config)
        self.time = nnx.Param(jnp.zeros((config.num_frames, width), config.param_dtype))
        joint = config.attention == "joint"
        make = partial(Block, epsilon=EPSILON) if joint else DividedBlock
        rates = drop_rates(config.drop_path, config.num_blocks)
        blocks = [make(width, _attention(config), rate, config) for rate in rates]
        self.blocks = nnx.List(blocks)
        self.stage_ends = tuple(config.num_blocks * i // 4 - 1 for i in (1, 2, 3, 4))
        self.norm = LayerNorm(width, config, epsilon=EPSILON)
        self.head = Head(width, config, std=0.02)
        for block in self.blocks:
            for linear in (block.mlp.widen, block.mlp.narrow):
                bound = linear.kernel.shape[0] ** -0.5  # PyTorch's own
                linear.kernel = uniform_param(linear.kernel.shape, bound, config)
                linear.bias = uniform_param(linear.kernel.shape[1:], bound, config)
        initialise(self, rngs)

    def states(self, clips: Clips, rngs: Rngs = None) -> list[tuple[Array, Triple]]:
        """As of every network with a class token.

        Raises:
          ValueError: the clips have another number of frames or another side.
        """
        config = self.config
        clips = check_clips(clips, config, config.num_frames)
        if clips.shape[2:4] != (config.side, config.side):
            raise ValueError(
                f"{config.name}: clips must be {config.side}x{config.side} pixels, as the learned "
                f"positions are, got {clips.shape[2]}x{clips.shape[3]}"
            )
        leaves = self.class_token, self.space, self.time
        token, space, time = (leaf[...].astype(config.compute_dtype) for leaf in leaves)
        x = self.patches(clips)
        n, t, h, w, width = x.shape
        x = x.reshape(n, t, -1, width) + space[1:] + time[:, None]
        first = jnp.broadcast_to(token + space[0], (n, 1, width))
        states = [jnp.concatenate([first, x.reshape(n, -1, width)], axis=1)]
        for block in self.blocks:
            states.append(block(states[-1], rngs))
        return [(tokens, (t, h, w)) for tokens in states]


class DividedBlock(Block):
    """Patches attend over time, then the tokens of a frame to each other.

    The class token takes part in each frame and keeps the mean of what it gets there.
    """

    def __init__(self, width: int, attention: Attention, drop: float, config: TimeSformerConfig):
        super().__init__(width, attention, drop, config, epsilon=EPSILON)
        self.time_norm = LayerNorm(width, config, epsilon=EPSILON)
        self.time_attention = _attention(config)
        self.time_linear = Linear(width, width, config, std=0.0)
        self.num_frames = config.num_frames

    def __call__(self, x: Tokens, rngs: Rngs) -> Tokens:
        """The tokens' next states."""
        (n, _, c), t = x.shape, self.num_frames
        first, patches = x[:, None, :1], x[:, 1:].reshape(n, t, -1, c)

        y = self.time_norm(patches).swapaxes(1, 2)  # n p t c
        y = self.drop(self.time_attention(y.reshape(-1, t, c)), rngs)
        patches = patches + self.time_linear(y).reshape(n, -1, t, c).swapaxes(1, 2)

        y = jnp.concatenate([jnp.broadcast_to(first, (n, t, 1, c)), patches], axis=2)
        y = self.drop(self.attention(self.norm1(y.reshape(n * t, -1, c))), rngs)
        y = y.reshape(n, t, -1, c)
        first = first[:, 0] + jnp.mean(y[:, :, 0], axis=1, keepdims=True)
        patches = patches + y[:, :, 1:]

        x = jnp.concatenate([first, patches.reshape(n, -1, c)], axis=1)
        return x + self.drop(self.mlp(self.norm2(x)), rngs)


def _attention(config: TimeSformerConfig) -> Attention:
    """An attention that starts uniform, as PyTorch's own does."""
    attention = Attention(config.width, config.num_heads, config)
    qkv, project = attention.qkv, attention.project
    qkv.kernel = uniform_param(qkv.kernel.shape, (1.5 / config.width) ** 0.5, config)
    project.kernel = uniform_param(project.kernel.shape, config.width**-0.5, config)
    return attention


# Names in mmaction2, whose order it is, and in TimeSformer's own code.
_EMBEDDING = table("""
    -                       -           backbone.               model.
    class_token             token       cls_token               cls_token
    space                   tokens      pos_embed               pos_embed
    time                    tokens      time_embed              time_embed
    patches                 conv2d      patch_embed.projection  patch_embed.proj
    norm                    layer_norm  norm                    norm
""")
_JOINT = table("""
    blocks.{block}.         -  backbone.transformer_layers.layers.{block}.  model.blocks.{block}.
    attention.qkv           in_proj     attentions.0.attn.in_proj           -
    attention.qkv           linear      -                                   attn.qkv
    attention.project       linear      attentions.0.attn.out_proj          attn.proj
    mlp.widen               linear      ffns.0.layers.0.0                   mlp.fc1
    mlp.narrow              linear      ffns.0.layers.1                     mlp.fc2
    norm1                   layer_norm  norms.0                             norm1
    norm2                   layer_norm  norms.1                             norm2
""")
_DIVIDED = table("""
    blocks.{block}.         -  backbone.transformer_layers.layers.{block}.  model.blocks.{block}.
    time_norm               layer_norm  attentions.0.norm                   temporal_norm1
    time_attention.qkv      in_proj     attentions.0.attn.in_proj           -
    time_attention.qkv      linear      -                                   temporal_attn.qkv
    time_attention.project  linear      attentions.0.attn.out_proj          temporal_attn.proj
    time_linear             linear      attentions.0.temporal_fc            temporal_fc
    norm1                   layer_norm  attentions.1.norm                   norm1
    attention.qkv           in_proj     attentions.1.attn.in_proj           -
    attention.qkv           linear      -                                   attn.qkv
    attention.project       linear      attentions.1.attn.out_proj          attn.proj
    mlp.widen               linear      ffns.0.layers.0.0                   mlp.fc1
    mlp.narrow              linear      ffns.0.layers.1                     mlp.fc2
    norm2                   layer_norm  ffns.0.norm                         norm2
""")


def _released(column: int, config: TimeSformerConfig) -> Iterator[Released]:
    yield from spelled(_EMBEDDING, column)
    for block in range(config.num_blocks):
        yield from spelled(_JOINT if config.attention == "joint" else _DIVIDED, column, block=block)
    yield Released(("cls_head.fc_cls", "model.head")[column], "head.classifier", "linear")


_timesformer = partial(
    Entry, year=2021, build=TimeSformer, released=(partial(_released, 0), partial(_released, 1))
)
_JOINT_IDEA = "a vision transformer whose patches attend to those of all frames"

ENTRIES = (
    _timesformer(
        title="TimeSformer-B",
        idea=_JOINT_IDEA,
        config=TimeSformerConfig(),
        input=square(128, 12, HALF),
    ),
    _timesformer(
        title="TimeSformer-B 8x32",
        idea=_JOINT_IDEA,
        config=TimeSformerConfig(name="timesformer_base_8x32", num_frames=8, side=224),
        input=square(224, 32, HALF, num_clips=1),
    ),
    _timesformer(
        title="TimeSformer-B divided 8x32",
        idea="a vision transformer whose patches attend over time, then within their frame",
        config=TimeSformerConfig(
            name="timesformer_divst", num_frames=8, side=224, attention="divided"
        ),
        input=square(224, 32, HALF, num_clips=1),
    ),
)
