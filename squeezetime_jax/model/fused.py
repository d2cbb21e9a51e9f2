"""The network for inference: a tree of folded weights and pure functions of it.

Nothing moves in a trained network, so much of it can be computed beforehand: each batch norm is a
factor and an offset per channel, and goes into the convolution that it follows; convolutions that
read the same map become one. What is left is equal to the network up to rounding.

    fused = fuse(model, place=jax.device_put)
    scores = jax.jit(logits)(fused, clips)

How the same numbers are best computed depends on the platform and on who reads the graph; `Form`
holds these choices.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.ctl import (
    ChannelTimeLearning,
    InterTemporalObjectInteraction,
    WeightComputation,
)
from squeezetime_jax.model.layers import (
    Conv,
    DepthwiseHalving,
    Linear,
    PositionEncoding,
    halve,
    resize_grid,
)
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.model.squeezetime import (
    BasicBlock,
    Block,
    Bottleneck,
    SqueezeTime,
    check_clips,
    squeeze,
)
from squeezetime_jax.model.tfc import convolve, pool_space, temporal_focus_weights

Tree = dict[str, Any]

# Above so many channels, writing the merged kernel anew for each clip costs what merging saves.
_MERGED_CHANNELS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the fused network is computed; every form gives the same numbers.

    Attributes:
      halving: the depthwise 2x2 convolution of stride 2 as "slices", four strided multiply-adds,
        or as a "grouped" convolution, one operation that runtimes for phones know.
      max_pool: the stem's pool as maxima of strided "slices", or as the "window" operation.
      pointwise: 1x1 convolutions as a matrix "product" or as a "convolution".
      merge: whether convolutions that read the same map are one, cut apart afterwards.
      weigh: whether the temporal focus weights multiply the "input" of their convolutions, or what
        is "cheapest": for a single clip, the kernel where that is smaller than the map.
    """

    halving: Literal["slices", "grouped"] = "slices"
    max_pool: Literal["slices", "window"] = "window"
    pointwise: Literal["product", "convolution"] = "product"
    merge: bool = True
    weigh: Literal["cheapest", "input"] = "cheapest"

    @classmethod
    def of(cls, backend: str) -> "Form":
        """What is fast on "cpu", "gpu" or "tpu"."""
        return CPU if backend == "cpu" else ACCELERATOR


CPU = Form(max_pool="slices", pointwise="convolution")
ACCELERATOR = Form()
EXPORT = Form(halving="grouped", pointwise="convolution", merge=False, weigh="input")
"""One operation of the graph for each of the network's, for converters to other runtimes."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fused:
    """A network's folded weights. A tree of arrays, to be handed to compiled functions.

    Attributes:
      weights: arrays in the dtype that the network computes in, kernels as (height, width, in,
        out).
      config: of the network that was folded.
      form: how it is computed.
    """

    weights: Tree
    config: SqueezeTimeConfig = dataclasses.field(metadata={"static": True})
    form: Form = dataclasses.field(metadata={"static": True})


def fuse(
    model: SqueezeTime, form: Form | None = None, place: Callable[[Tree], Tree] | None = None
) -> Fused:
    """Fold a network's weights for inference.

    Args:
      model: the network; what it would compute in evaluation mode is folded.
      form: how it will be computed; by default what is fast on the default devices.
      place: where the weights go, such as `jax.device_put`; each block is placed as soon as it is
        folded, so that the host never holds a second copy of them all.

    Returns:
      Weights as `place` returns them; without it as NumPy arrays.
    """
    form = form or Form.of(jax.default_backend())
    dtype = model.config.compute_dtype

    def done(tree: Tree) -> Tree:
        tree = jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
        return place(tree) if place else tree

    head = {
        "kernel": _array(model.head.classifier.kernel),
        "bias": _bias(model.head.classifier),
    }
    weights = {
        "stem": done(_folded(model.stem.conv, model.stem.norm)),
        "stages": [[done(_fuse_block(block, form)) for block in stage] for stage in model.stages],
        "head": done(head),
    }
    return Fused(weights, model.config, form)


def _fuse_block(block: Block, form: Form) -> Tree:
    tree: Tree = {}
    if block.halving is not None:
        tree["halving"] = _folded(block.halving.conv, block.halving.norm)
    if block.shortcut is not None:
        tree["shortcut"] = _folded(block.shortcut.conv, block.shortcut.norm)
    if isinstance(block, Bottleneck):
        tree["reduce"] = _folded(block.reduce, block.norm1)
        tree["ctl"] = _fuse_middle(block.ctl, block.norm2)
        tree["expand"] = _folded(block.expand, block.norm3)
        if form.merge and block.shortcut is not None:
            tree["enter"] = _merged(tree.pop("reduce"), tree.pop("shortcut"))
    else:
        assert isinstance(block, BasicBlock)
        tree["ctl1"] = _fuse_middle(block.ctl1, block.norm1)
        tree["ctl2"] = _fuse_middle(block.ctl2, block.norm2)
    return tree


def _fuse_middle(module: nnx.Module, norm: BatchNorm) -> Tree:
    """A channel-time learning module, or the plain convolution in its place, and its batch norm."""
    if isinstance(module, Conv):
        return {"plain": _folded(module, norm)}
    assert isinstance(module, ChannelTimeLearning)
    scale, shift = _affine(norm)
    tree: Tree = {"shift": shift}
    if module.focus is not None:
        tree["focus"] = _fuse_focus(module.focus)
    if module.tfc is not None:
        tree["tfc"] = {"kernel": _array(module.tfc.kernel) * scale}
    if module.ioi is not None:
        tree["ioi"] = _fuse_interaction(module.ioi, scale)
    return tree


def _fuse_focus(focus: WeightComputation) -> Tree:
    scale, shift = _affine(focus.norm)
    reduce, expand = _array(focus.reduce), _array(focus.expand)
    return {"reduce": reduce * scale, "shift": shift, "expand": expand}


def _fuse_interaction(ioi: InterTemporalObjectInteraction, scale: np.ndarray) -> Tree:
    tree: Tree = {
        # What is multiplied by the gate takes the factor of the batch norm that follows.
        "short": {"kernel": _array(ioi.short.kernel) * scale, "bias": _bias(ioi.short) * scale},
        "narrow": _folded(ioi.narrow, ioi.norm1),
        "interact": _folded(ioi.interact, ioi.norm2),
        "widen": {"kernel": _array(ioi.widen.kernel), "bias": _bias(ioi.widen)},
    }
    if isinstance(ioi.position, PositionEncoding):
        tree["position"] = _array(ioi.position.grid)
    return tree


def _array(variable: nnx.Variable) -> np.ndarray:
    return np.asarray(variable[...])


def _bias(conv: Conv | DepthwiseHalving | Linear) -> np.ndarray:
    return np.zeros(conv.kernel.shape[-1]) if conv.bias is None else _array(conv.bias)


def _affine(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset of a batch norm in evaluation mode."""
    scale, shift, mean, var = map(_array, (norm.scale, norm.bias, norm.mean, norm.var))
    factor = scale / np.sqrt(var + norm.epsilon)
    return factor, shift - mean * factor


def _folded(conv: Conv | DepthwiseHalving, norm: BatchNorm) -> Tree:
    scale, shift = _affine(norm)
    return {"kernel": _array(conv.kernel) * scale, "bias": _bias(conv) * scale + shift}


def _merged(*convs: Tree) -> Tree:
    def join(name: str) -> Any:
        arrays = [conv[name] for conv in convs]
        return (np if isinstance(arrays[0], np.ndarray) else jnp).concatenate(arrays, axis=-1)

    return {name: join(name) for name in ("kernel", "bias")}


def logits(fused: Fused, clips: Float[Array, "n *_"]) -> Float[Array, "n classes"]:
    """Score clips, as calling the network does.

    Args:
      fused: the folded weights.
      clips: normalised RGB, (n, t, h, w, 3); or, as phones want it, squeezed to (n, h, w, 3*t) with
        channel = colour * t + frame.

    Returns:
      Logits, in float32 whatever the network computes in (float64 if it computes in that).
    """
    return classify(fused, features(fused, clips))


def classify(fused: Fused, feature_map: Float[Array, "n fh fw c"]) -> Float[Array, "n classes"]:
    """Logits of a feature map: average over space and the linear classifier."""
    head = jax.tree.map(jnp.asarray, fused.weights["head"])
    pooled = jnp.mean(feature_map, (1, 2))
    return (pooled @ head["kernel"] + head["bias"]).astype(fused.config.param_dtype)


def features(fused: Fused, clips: Float[Array, "n *_"]) -> Float[Array, "n fh fw c"]:
    """The last feature map, as the network's own `features`.

    Args: as for `logits`.
    """
    if clips.ndim == 5:
        check_clips(clips, fused.config.num_frames)
        clips = squeeze(clips.astype(fused.config.compute_dtype))
    weights = jax.tree.map(jnp.asarray, fused.weights)  # the functions below take JAX's arrays
    x = _stem(weights["stem"], clips.astype(fused.config.compute_dtype), fused.form)
    for block in itertools.chain.from_iterable(weights["stages"]):
        x = _block(fused, block, x)
    return x


def _stem(stem: Tree, x: Array, form: Form) -> Array:
    x = jax.nn.relu(convolve(x, **stem, stride=2))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros, as in the network: see its stem
    if form.max_pool == "window":
        return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
    height, width = (side - 2 for side in x.shape[1:3])
    x = functools.reduce(jnp.maximum, [x[:, k : k + height : 2] for k in range(3)])
    return functools.reduce(jnp.maximum, [x[:, :, k : k + width : 2] for k in range(3)])


def _block(fused: Fused, block: Tree, x: Array) -> Array:
    form = fused.form
    if "halving" in block:
        x = _halve(block["halving"], x, form)
    if "ctl1" in block:
        y = jax.nn.relu(_middle(fused, block["ctl1"], x))
        y = _middle(fused, block["ctl2"], y)
        return jax.nn.relu(y + (_conv(block["shortcut"], x, form) if "shortcut" in block else x))
    if "enter" in block:
        both = _conv(block["enter"], x, form)
        planes = block["expand"]["kernel"].shape[2]
        y, shortcut = both[..., :planes], both[..., planes:]
    else:
        y = _conv(block["reduce"], x, form)
        shortcut = _conv(block["shortcut"], x, form) if "shortcut" in block else x
    y = jax.nn.relu(_middle(fused, block["ctl"], jax.nn.relu(y)))
    return jax.nn.relu(_conv(block["expand"], y, form) + shortcut)


def _halve(halving: Tree, x: Array, form: Form) -> Array:
    kernel, bias = halving["kernel"], halving["bias"]
    if form.halving == "slices":
        return halve(x, kernel, bias)
    y = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        window_strides=(2, 2),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    return y + bias


def _middle(fused: Fused, tree: Tree, x: Array) -> Array:
    """The channel-time learning module (Eq. 3), or what stands in its place, and its batch norm."""
    if "plain" in tree:
        return _conv(tree["plain"], x, fused.form)
    focus = None
    if "focus" in tree:
        pooled = pool_space(x, fused.config.pooling)
        reduce, shift, expand = (tree["focus"][name] for name in ("reduce", "shift", "expand"))
        focus = temporal_focus_weights(pooled, reduce, lambda y: y + shift, expand)
    y = jnp.asarray(tree["shift"])
    if "tfc" in tree:
        y = y + _focused_conv(tree["tfc"], x, focus, fused.form)
    if "ioi" in tree:
        y = y + _interaction(tree["ioi"], x, focus, fused.form)
    return y


def _interaction(tree: Tree, x: Array, focus: Array | None, form: Form) -> Array:
    """The inter-temporal object interaction branch (Eq. 6)."""
    short, narrow = tree["short"], tree["narrow"]
    if form.merge and _weighs_kernel(narrow, x, focus, form) and x.shape[-1] <= _MERGED_CHANNELS:
        assert focus is not None
        both = _conv(_merged(short, _weighted(narrow, focus)), x, form)
        near, long = both[..., : -narrow["bias"].size], both[..., -narrow["bias"].size :]
    else:
        near, long = _conv(short, x, form), _focused_conv(narrow, x, focus, form)
    long = jax.nn.relu(long)
    if "position" in tree:
        long = long + resize_grid(tree["position"], x.shape[1:3])
    long = jax.nn.relu(_conv(tree["interact"], long, form))
    return near * jax.nn.sigmoid(_conv(tree["widen"], long, form))


def _focused_conv(conv: Tree, x: Array, focus: Array | None, form: Form) -> Array:
    """The temporal focus convolution (Eq. 5), in one of its two forms."""
    if focus is None:
        return _conv(conv, x, form)
    if _weighs_kernel(conv, x, focus, form):
        return _conv(_weighted(conv, focus), x, form)
    return _conv(conv, x * focus[:, None, None, :], form)


def _weighs_kernel(conv: Tree, x: Array, focus: Array | None, form: Form) -> bool:
    """Whether the temporal focus weights go into the kernel: one clip, and the kernel smaller."""
    height, width, _, out = conv["kernel"].shape
    return (
        focus is not None
        and form.weigh == "cheapest"
        and x.shape[0] == 1
        and height * width * out < x.shape[1] * x.shape[2]
    )


def _weighted(conv: Tree, focus: Array) -> Tree:
    return {**conv, "kernel": conv["kernel"] * focus[0][:, None]}


def _conv(conv: Tree, x: Array, form: Form) -> Array:
    return convolve(x, conv["kernel"], conv.get("bias"), pointwise=form.pointwise)
