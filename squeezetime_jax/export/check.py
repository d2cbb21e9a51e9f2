"""How far an exported file is from the network that it was made of."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from squeezetime_jax.compilation import inference_options
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.model.squeezetime import SqueezeTime

Score = Callable[[UInt8[np.ndarray, "n t h w 3"]], Float[np.ndarray, "n classes"]]


class Reference:
    """The live network, for raw clips.

    Args:
      model: the network, in evaluation mode.
    """

    def __init__(self, model: SqueezeTime) -> None:
        self._graph, self._state = nnx.split(model)

    def __call__(self, clips: UInt8[np.ndarray, "n t h w 3"]) -> Float[np.ndarray, "n classes"]:
        """Logits, computed clip by clip: one program, whatever the number."""
        program = _program()
        return np.concatenate([program(self._graph, self._state, clip[None]) for clip in clips])


@functools.cache
def _program() -> Any:
    """The compiled network; references of the same sizes share it."""
    return jax.jit(_logits, static_argnums=0, compiler_options=dict(inference_options()))


def _logits(graph: Any, state: Any, clips: UInt8[Array, "n t h w 3"]) -> Float[Array, "n classes"]:
    model = nnx.merge(graph, state)
    return model(normalise(clips, model.config.param_dtype))


@dataclasses.dataclass(frozen=True)
class Check:
    """A comparison of logits; of several batches, the `+` of theirs.

    Attributes:
      num_clips: clips that were compared.
      num_agreeing: on which both name the same class first.
      max_difference: the largest difference between logits.
      max_logit: the network's largest logit, in absolute value.
      num_right: clips that the file names rightly, where labels are known.
      num_right_network: clips that the network names rightly.
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
        """Share of the clips on which both name the same class first."""
        return self.num_agreeing / self.num_clips

    def __add__(self, other: "Check") -> "Check":
        return Check(
            self.num_clips + other.num_clips,
            self.num_agreeing + other.num_agreeing,
            float(np.maximum(self.max_difference, other.max_difference)),  # keeps what is no number
            float(np.maximum(self.max_logit, other.max_logit)),
            self.num_right + other.num_right,
            self.num_right_network + other.num_right_network,
        )


def check(
    network: Score,
    file: Score,
    clips: UInt8[np.ndarray, "n t h w 3"],
    labels: np.ndarray | None = None,
) -> Check:
    """Compare a file with the network on clips.

    Args:
      network: the live network.
      file: the opened file.
      clips: RGB, 0..255.
      labels: (n,) the right classes, if known.
    """
    wanted, found = network(clips), file(clips)
    best, first = wanted.argmax(axis=1), found.argmax(axis=1)
    return Check(
        len(clips),
        int((best == first).sum()),
        float(np.abs(wanted - found).max()),
        float(np.abs(wanted).max()),
        0 if labels is None else int((first == labels).sum()),
        0 if labels is None else int((best == labels).sum()),
    )
