"""Parameters and multiply-adds of a network, without computing anything."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from squeezetime_jax.model.abstract import abstract_model, flat_leaves
from squeezetime_jax.model.config import SqueezeTimeConfig

# Jitted functions that are convolutions, however they are computed, and the axes of their kernel
# over which an output sums.
_CONVOLUTIONS = {
    "convolve": slice(-5, -1),  # (time, height, width, in, out)
    "depthwise": slice(-4, -1),  # (time, height, width, channels)
    "halve": slice(-3, -1),  # (height, width, channels)
    "mix_frames": slice(-2, -1),  # (clips, time, channels)
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network costs.

    Attributes:
      backbone: parameters without the head.
      position: how many of them are position encodings, which the paper's counts leave out.
      head: parameters of the classifier.
      multiply_adds: multiply-adds of the backbone's convolutions and matrix products for one clip;
        one multiply-add counts as one.
    """

    backbone: int
    position: int
    head: int
    multiply_adds: int


def count(config: SqueezeTimeConfig, height: int = 224, width: int = 224) -> Counts:
    """Count SqueezeTime for clips of `height` x `width` pixels."""
    return count_network(abstract_model(config), (config.num_frames, height, width))


def count_network(network: Any, clip: tuple[int, int, int]) -> Counts:
    """Count any network.

    Args:
      network: the network, of arrays or of shapes.
      clip: frames, height and width of one clip.
    """
    backbone = position = head = 0
    for path, leaf in flat_leaves(network).items():
        room, *keys = path.split(".")
        if not isinstance(leaf, nnx.Param):
            continue
        if room == "head":
            head += math.prod(leaf.shape)
        else:
            backbone += math.prod(leaf.shape)
            position += math.prod(leaf.shape) if "position" in keys else 0
    return Counts(backbone, position, head, multiply_adds(network, clip, "features"))


def multiply_adds(network: Any, clip: tuple[int, int, int], method: str = "__call__") -> int:
    """Multiply-adds of a network's convolutions and matrix products for one clip.

    Args:
      network: the network, of arrays or of shapes.
      clip: frames, height and width of the clip.
      method: what is called with it: "__call__", or "features" for the backbone alone.
    """
    mode = {"deterministic": True, "use_running_average": True}
    graph, state = nnx.split(nnx.view(network, raise_if_not_found=False, **mode))

    def run(state: Any, clips: jax.Array) -> jax.Array:
        return getattr(nnx.merge(graph, state), method)(clips)

    clips = jax.ShapeDtypeStruct((1, *clip, 3), jnp.float32)
    program = jax.make_jaxpr(run)(state, clips).jaxpr
    *weights, _ = program.invars
    return _in_program(program, [False] * len(weights) + [True])[0]


def _in_program(program: Any, is_of_clip: Sequence[bool]) -> tuple[int, list[bool]]:
    """Multiply-adds of a program; what depends on weights alone is not counted.

    Args:
      program: the jaxpr.
      is_of_clip: which of its inputs depend on the clip.

    Returns:
      The number, and which of its outputs depend on the clip.
    """
    total = 0
    of_clip = {x for x, depends in zip(program.invars, is_of_clip, strict=True) if depends}
    for step in program.eqns:
        depends = [not hasattr(x, "val") and x in of_clip for x in step.invars]
        out = [any(depends)] * len(step.outvars)
        called = step.params.get("jaxpr", step.params.get("call_jaxpr"))
        if any(depends) and step.params.get("name") in _CONVOLUTIONS:
            kernel = step.invars[1].aval.shape[_CONVOLUTIONS[step.params["name"]]]
            total += step.outvars[0].aval.size * math.prod(kernel)
        elif called is not None:
            inside, out = _in_program(getattr(called, "jaxpr", called), depends)
            total += inside
        elif any(depends) and step.primitive.name in _TAPS:
            total += step.outvars[0].aval.size * _TAPS[step.primitive.name](step)
        of_clip |= {x for x, depend in zip(step.outvars, out, strict=True) if depend}
    return total, [not hasattr(x, "val") and x in of_clip for x in program.outvars]


def _kernel_taps(step: Any) -> int:
    _, *summed = step.params["dimension_numbers"].rhs_spec
    return math.prod(step.invars[1].aval.shape[axis] for axis in summed)


def _product_taps(step: Any) -> int:
    (summed, _), _ = step.params["dimension_numbers"]
    return math.prod(step.invars[0].aval.shape[axis] for axis in summed)


# Numbers that each output of an operation sums.
_TAPS = {"conv_general_dilated": _kernel_taps, "dot_general": _product_taps}
