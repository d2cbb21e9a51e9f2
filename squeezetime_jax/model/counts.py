"""Parameters and multiply-adds of a configuration, without computing anything."""

import dataclasses
import math

from flax import nnx

from squeezetime_jax.model.abstract import abstract_model, flat_leaves
from squeezetime_jax.model.config import SqueezeTimeConfig


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a configuration costs.

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
    """Count for clips of `height` x `width` pixels."""
    sizes = _feature_sizes(config, height, width)
    backbone = position = head = multiply_adds = 0
    for path, leaf in flat_leaves(abstract_model(config)).items():
        room, *keys = path.split(".")
        number = math.prod(leaf.shape)
        if not isinstance(leaf, nnx.Param):
            continue
        if room == "head":
            head += number
            continue
        backbone += number
        if "position" in keys:
            position += number
        elif keys[-1] == "kernel":
            multiply_adds += number * sizes[int(keys[0]) + 1 if room == "stages" else 0]
        elif "focus" in keys and keys[-1] in ("reduce", "expand"):  # on pooled features
            multiply_adds += number
    return Counts(backbone, position, head, multiply_adds)


def _feature_sizes(config: SqueezeTimeConfig, height: int, width: int) -> list[int]:
    """Pixels of the feature maps that the stem's and each stage's kernels write."""
    sides = [(side + 1) // 2 for side in (height, width)]
    sizes = [math.prod(sides)]
    sides = [(side + 1) // 2 for side in sides]  # the max-pool
    for stride in config.strides:
        sides = [side // stride for side in sides]
        sizes.append(math.prod(sides))
    return sizes
