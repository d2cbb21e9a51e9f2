"""How far an exported file is from the network that it was made from."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax.compilation import inference_options
from squeezetime_jax.export.manifest import Clips
from squeezetime_jax.peers import registry

Score = Callable[[Clips], Float[np.ndarray, "n classes"]]


def reference(model: Any) -> Score:
    """The logits of a network in evaluation mode; clip by clip, by one program for any number."""
    graph, state = nnx.split(model)
    program = _program()
    return lambda clips: np.concatenate([program(graph, state, clip[None]) for clip in clips])


@functools.cache
def _program() -> Any:
    """The compiled network; networks of the same configuration share it."""
    return jax.jit(_logits, static_argnums=0, compiler_options=dict(inference_options()))


def _logits(graph: Any, state: Any, clips: UInt8[Array, "n t h w 3"]) -> Float[Array, "n classes"]:
    model = nnx.merge(graph, state)
    pixels = registry.entry_of(model).input
    scale = 1 / jnp.asarray(pixels.std, jnp.float32)
    normalised = (clips.astype(jnp.float32) - jnp.asarray(pixels.mean, jnp.float32)) * scale
    return model(normalised.astype(model.config.param_dtype))


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison of logits; the sum of two is that of all their clips.

    Attributes:
      num_clips: clips that were compared.
      num_agreeing: of them, those with the same best class.
      max_difference: largest difference between logits.
      max_logit: largest absolute value of the network's logits.
      num_right: clips whose best class by the file is right, where labels are known.
      num_right_network: clips whose best class by the network is right.
    """

    num_clips: int = 0
    num_agreeing: int = 0
    max_difference: float = 0.0
    max_logit: float = 0.0
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

    def __add__(self, other: "Check") -> "Check":
        return Check(
            self.num_clips + other.num_clips,
            self.num_agreeing + other.num_agreeing,
            float(np.maximum(self.max_difference, other.max_difference)),  # NaN stays NaN
            float(np.maximum(self.max_logit, other.max_logit)),
            self.num_right + other.num_right,
            self.num_right_network + other.num_right_network,
        )


def check(
    network: Score,
    file: Score,
    clips: Clips,
    labels: Int[np.ndarray, " n"] | None = None,
) -> Check:
    """Compare a file with the network.

    Args:
      network: the live network.
      file: the opened file.
      clips: RGB, 0..255.
      labels: the right classes, if known.
    """
    expected, found = network(clips), file(clips)
    best, best_found = expected.argmax(axis=1), found.argmax(axis=1)
    return Check(
        len(clips),
        int((best == best_found).sum()),
        float(np.abs(expected - found).max()),
        float(np.abs(expected).max()),
        0 if labels is None else int((best_found == labels).sum()),
        0 if labels is None else int((best == labels).sum()),
    )
