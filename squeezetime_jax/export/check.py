"""How far an exported file is from the network that it was made from."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.compilation import inference_options
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.export.manifest import Clips

Score = Callable[[Clips], Float[np.ndarray, "n classes"]]


def reference(model: Any) -> Score:
    """The logits of a network in evaluation mode; clip by clip, by one program for any number."""
    graph, state = nnx.split(model)
    expected = input_of(model)
    program = functools.partial(_program(), graph, (expected.mean, expected.std), state)
    return lambda clips: np.concatenate([program(clip[None]) for clip in clips])


@functools.cache
def _program() -> Any:
    """The compiled network; networks of the same configuration share it."""
    return jax.jit(_logits, static_argnums=(0, 1), compiler_options=dict(inference_options()))


def _logits(
    graph: Any,
    pixels: tuple[Sequence[float], Sequence[float]],
    state: Any,
    clips: UInt8[Array, "n t h w 3"],
) -> Float[Array, "n classes"]:
    model = nnx.merge(graph, state)
    mean, std = pixels
    return model(normalise(clips, model.config.param_dtype, mean=mean, std=std))


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison of the logits of a file and of its network; labels may be known.

    Attributes:
      num_clips: clips that were compared.
      num_agreeing: of them, those with the same best class.
      max_difference: largest difference between logits.
      max_logit: largest absolute value of the network's logits.
      num_right: clips whose best class by the file is right, where labels are known.
      num_right_network: clips whose best class by the network is right.
    """

    num_clips: int
    num_agreeing: int
    max_difference: float
    max_logit: float
    num_right: int = 0
    num_right_network: int = 0

    @property
    def relative(self) -> float:
        """The largest difference over the largest logit."""
        return self.max_difference / self.max_logit if self.max_logit else self.max_difference

    @property
    def agreement(self) -> float:
        """Share of the clips with the same best class."""
        return self.num_agreeing / self.num_clips


def compare(
    expected: Float[np.ndarray, "n classes"],
    found: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"] | None = None,
) -> Check:
    """Compare logits.

    Args:
      expected: of the network.
      found: of the file.
      labels: the right classes, if known.
    """
    best, best_found = expected.argmax(axis=1), found.argmax(axis=1)
    return Check(
        num_clips=len(expected),
        num_agreeing=int((best == best_found).sum()),
        max_difference=float(np.abs(expected - found).max()),
        max_logit=float(np.abs(expected).max()),
        num_right=0 if labels is None else int((best_found == labels).sum()),
        num_right_network=0 if labels is None else int((best == labels).sum()),
    )
