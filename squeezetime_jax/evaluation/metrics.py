"""Accuracy as sums over videos."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Numbers of videos.

    Attributes:
      count: videos of each class.
      top1: those of them whose label has the highest score.
      top5: those of them whose label has one of the five highest scores.
    """

    count: Int[np.ndarray, " classes"]
    top1: Int[np.ndarray, " classes"]
    top5: Int[np.ndarray, " classes"]

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
    ) -> "Accuracy":
        """Count videos.

        Args:
          scores: of equal scores the lower class is ahead. A video with a score that is not finite
            counts as wrong.
          labels: the right classes.
        """
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        classes = np.arange(scores.shape[1])
        ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
        rank = np.where(np.isfinite(scores).all(axis=1), ahead.sum(axis=1), 5)

        def per_class(mask: np.ndarray) -> np.ndarray:
            return np.bincount(labels[mask], minlength=scores.shape[1])

        return cls(per_class(rank >= 0), per_class(rank < 1), per_class(rank < 5))

    def merge(self, other: "Accuracy") -> "Accuracy":
        """The sums of both."""
        return Accuracy(self.count + other.count, self.top1 + other.top1, self.top5 + other.top5)

    def compute(self) -> dict[str, float]:
        """Shares in [0, 1], and the number of videos.

        Returns:
          `top1` and `top5` over all videos; `mean_class`, the mean top-1 accuracy of the classes
          that have videos; `videos`.
        """
        videos = int(self.count.sum())
        found = self.count > 0
        recall = self.top1[found] / self.count[found]
        return {
            "top1": float(self.top1.sum() / max(videos, 1)),
            "top5": float(self.top5.sum() / max(videos, 1)),
            "mean_class": float(recall.mean()) if videos else 0.0,
            "videos": float(videos),
        }

    def per_class(self) -> list[tuple[int, int, float]]:
        """(class, its videos, its top-1 accuracy) of the classes that have videos, worst first."""
        rows = [
            (int(k), int(self.count[k]), float(self.top1[k] / self.count[k]))
            for k in np.flatnonzero(self.count)
        ]
        return sorted(rows, key=lambda row: (row[2], row[0]))
