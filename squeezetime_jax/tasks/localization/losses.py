"""Targets of the priors, and the losses (released AFSD, without boundary refinement).

A prior is a point in time. Its target is the shortest instance around it, on any level.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from squeezetime_jax.tasks.localization.config import Loss

_TINY = 1.1920929e-07  # float32's epsilon
_FOCUS = 2  # gamma
_BACKGROUND, _FOREGROUND = 0.25, 0.75  # weight of the classes
_OFFSET = 1e-6  # added to the probability, before both of its uses


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """The target of each prior.

    Attributes:
      labels: class id; 0 is the background.
      distances: frames from the prior to the instance's start and end; 0 for the background.
    """

    labels: Int[Array, "n priors"]
    distances: Float[Array, "n priors 2"]

    @property
    def is_positive(self) -> Bool[Array, "n priors"]:
        """Whether there is an instance around the prior."""
        return self.labels > 0


def priors(lengths: tuple[int, ...], num_frames: int) -> Float[np.ndarray, " priors"]:
    """The middle of every cell of every level, in frames of the window."""
    return np.concatenate([(np.arange(n) + 0.5) * (num_frames / n) for n in lengths])


def assign(
    points: Float[Array, " priors"],
    segments: Float[Array, "n gt 2"],
    classes: Int[Array, "n gt"],
    num_frames: int,
) -> Targets:
    """Give each prior the shortest instance around it; of equally short ones the first.

    Args:
      points: the priors, in frames.
      segments: start and end of each instance, in frames; both ends belong to it.
      classes: ids from 1; 0 where there is no instance.
      num_frames: of the window.
    """
    times = points[None, :, None]
    left, right = times - segments[:, None, :, 0], segments[:, None, :, 1] - times
    around = (left >= 0) & (right >= 0) & (classes > 0)[:, None]
    lengths = jnp.where(around, left + right, 2.0 * num_frames)
    nearest = jnp.argmin(lengths, axis=2)[..., None]
    is_positive = jnp.take_along_axis(around, nearest, axis=2)[..., 0]
    labels = jnp.take_along_axis(jnp.broadcast_to(classes[:, None], around.shape), nearest, axis=2)[
        ..., 0
    ]
    distances = jnp.concatenate(
        [jnp.take_along_axis(side, nearest, axis=2) for side in (left, right)], axis=2
    )
    return Targets(
        jnp.where(is_positive, labels, 0), jnp.where(is_positive[..., None], distances, 0.0)
    )


def overlaps(found: Float[Array, "*n 2"], target: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    """Intersection over union of segments around the same point, from distances to their ends.

    The reference's generalised overlap is this: two segments that share a point leave no gap.
    """
    shared = jnp.minimum(found, target).sum(-1)
    union = found.sum(-1) + target.sum(-1) - shared
    return shared / jnp.maximum(union, _TINY)


def location_loss(
    distances: Float[Array, "n priors 2"], targets: Targets
) -> Float[Array, "n priors"]:
    """One minus the overlap at each positive prior, 0 elsewhere."""
    mask = targets.is_positive[..., None]
    # Replaced before use: a mask on the loss alone would keep the gradient of the others.
    found, target = (jnp.where(mask, x, 1.0) for x in (distances, targets.distances))
    return jnp.where(targets.is_positive, 1 - overlaps(found, target), 0.0)


def focal_loss(logits: Float[Array, "*n classes"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Softmax focal loss of each prior (arXiv 1708.02002), the background weighted less."""
    chosen = jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    probability = chosen + _OFFSET
    weight = jnp.where(labels == 0, _BACKGROUND, _FOREGROUND)
    return -weight * (1 - probability) ** _FOCUS * jnp.log(probability)


def quality_loss(
    logits: Float[Array, "n priors"], distances: Float[Array, "n priors 2"], targets: Targets
) -> Float[Array, "n priors"]:
    """Cross-entropy of the rated overlap with the true one at each positive prior."""
    mask = targets.is_positive[..., None]
    found, target = (jnp.where(mask, x, 1.0) for x in (distances, targets.distances))
    overlap = jax.lax.stop_gradient(overlaps(found, target))
    entropy = jax.nn.softplus(logits) - overlap * logits
    return jnp.where(targets.is_positive, entropy, 0.0)


def localization_loss(
    outputs: dict[str, Array],
    segments: Float[Array, "n gt 2"],
    classes: Int[Array, "n gt"],
    priors: Any,
    weights: Loss,
    num_frames: int,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum of the losses, and each of them.

    Args:
      outputs: of the localiser.
      segments: true ones, in frames of the window.
      classes: their ids, 0 where there is none.
      priors: in frames.
      weights: of the parts.
      num_frames: of the window.
    """
    points = jnp.asarray(priors, outputs["distances"].dtype)
    targets = assign(points, segments, classes, num_frames)
    count = jnp.maximum(targets.is_positive.sum(), 1)
    parts = {
        "location": location_loss(outputs["distances"], targets).sum() / count,
        "classification": focal_loss(outputs["logits"], targets.labels).sum() / count,
    }
    if "quality" in outputs:
        rated = quality_loss(outputs["quality"], outputs["distances"], targets)
        parts["quality"] = rated.sum() / count
    total = jnp.asarray(sum(getattr(weights, name) * part for name, part in parts.items()))
    return total, parts
