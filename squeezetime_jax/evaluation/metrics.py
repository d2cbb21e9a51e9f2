"""Accuracy as sums that merge, so that each video counts once however the videos were batched."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Counts of videos scored so far.

    Attributes:
      count: videos of each class.
      top1: those of them whose label scores highest.
      top5: those of them whose label is among the five highest.
    """

    count: Int[Any, " classes"]
    top1: Int[Any, " classes"]
    top5: Int[Any, " classes"]

    @classmethod
    def empty(cls, num_classes: int) -> "Accuracy":
        """No video yet."""
        zero = jnp.zeros(num_classes, jnp.int32)
        return cls(zero, zero, zero)

    @classmethod
    def of(
        cls,
        scores: Float[Array, "n classes"],
        labels: Int[Array, " n"],
        mask: Bool[Array, " n"],
    ) -> "Accuracy":
        """Count one batch.

        Args:
          scores: the higher, the likelier. Of equal scores the lower class comes first.
          labels: the right classes.
          mask: which rows are videos; the others pad the batch.
        """
        own = jnp.take_along_axis(scores, labels[:, None], axis=1)
        classes = jnp.arange(scores.shape[1])
        ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
        rank = jnp.sum(ahead, axis=1)
        # What is no number is right about nothing.
        valid = jnp.all(jnp.isfinite(scores), axis=1)

        def per_class(counts: Bool[Array, " n"]) -> Int[Array, " classes"]:
            return jnp.zeros(scores.shape[1], jnp.int32).at[labels].add((counts & mask).astype(int))

        return cls(per_class(mask), per_class((rank < 1) & valid), per_class((rank < 5) & valid))

    def merge(self, other: "Accuracy") -> "Accuracy":
        """The counts of both."""
        return jax.tree.map(lambda a, b: a + b, self, other)

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], and the number of videos they are of.

        Returns:
          `top1` and `top5` over all videos; `mean_class`, the mean over the classes that occur
          among the labels of their own top-1 accuracy; `videos`.
        """
        counts = jax.device_get(self)
        videos = int(counts.count.sum())
        seen = counts.count > 0
        recall = counts.top1[seen] / counts.count[seen]
        return {
            "top1": float(counts.top1.sum() / max(videos, 1)),
            "top5": float(counts.top5.sum() / max(videos, 1)),
            "mean_class": float(recall.mean()) if videos else 0.0,
            "videos": float(videos),
        }
