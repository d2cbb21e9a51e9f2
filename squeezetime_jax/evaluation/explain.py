"""What a prediction depends on: the importance of each frame, and the temporal focus weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.ctl import ChannelTimeLearning
from squeezetime_jax.model.squeezetime import BasicBlock, Block, Bottleneck, SqueezeTime, squeeze


def frame_importance(
    model: Any, clip: UInt8[Any, "t h w 3"], index: int
) -> Float[np.ndarray, " t"]:
    """How much each frame counts for a class (above 0) or against it (below): gradient x input.

    The gradient of the class's logit with respect to the normalised clip, times the clip, summed
    over each frame. To first order this is what the frame adds to the logit, compared with a frame
    of the data set's mean colour.

    Args:
      model: a network of the register, in evaluation mode.
      clip: RGB, 0..255.
      index: the class.
    """
    graph, state = nnx.split(model)
    return np.asarray(_frame_importance(graph, state, jnp.asarray(clip), index))


@functools.partial(jax.jit, static_argnums=0)
def _frame_importance(
    graph: Any, state: Any, clip: UInt8[Array, "t h w 3"], index: Int[Array, ""]
) -> Float[Array, " t"]:
    model = nnx.merge(graph, state)
    expected = input_of(model)
    pixels = normalise(clip, model.config.param_dtype, mean=expected.mean, std=expected.std)
    gradient = jax.grad(lambda pixels: model(pixels[None])[0, index])(pixels)
    return jnp.sum(gradient * pixels, axis=(1, 2, 3))


def focus_weights(
    model: SqueezeTime, clips: UInt8[Any, "n t h w 3"]
) -> list[Float[np.ndarray, "n c"]]:
    """The temporal focus weights (paper, Section 3.2) of each stage's last block.

    Args:
      model: the network, in evaluation mode, with the weights switched on in its configuration.
      clips: RGB, 0..255.

    Returns:
      For each stage, the weights in (0, 1) of the input channels of its last block's first
      channel-time learning module.

    Raises:
      UserError: the network has no such weights.
    """
    if not model.config.temporal_focus or model.config.branches == "conv3x3":
        raise UserError(
            "model: has no temporal focus weights; expected a SqueezeTime with temporal_focus"
        )
    graph, state = nnx.split(model)
    return [np.asarray(weights) for weights in _focus_weights(graph, state, jnp.asarray(clips))]


@functools.partial(jax.jit, static_argnums=0)
def _focus_weights(graph: Any, state: Any, clips: UInt8[Array, "n t h w 3"]) -> list[Array]:
    model = nnx.merge(graph, state)
    x = model.stem(squeeze(normalise(clips, model.config.compute_dtype)))
    weights = []
    for stage in model.stages:
        for block in stage:
            block_input, x = x, block(x)
        weights.append(_weights_in(block, block_input))
    return weights


def _weights_in(block: Block, x: Array) -> Array:
    """The weights that a block's first channel-time learning module computes from its input."""
    if block.halving is not None:
        x = block.halving(x)
    if isinstance(block, Bottleneck):  # its 1x1 convolution comes first
        x = jax.nn.relu(block.norm1(block.reduce(x)))
        module = block.ctl
    else:
        assert isinstance(block, BasicBlock)
        module = block.ctl1
    assert isinstance(module, ChannelTimeLearning)
    assert module.focus is not None
    return module.focus(x)
