"""Accuracy as sums over videos, and how far probabilities are to be believed."""

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


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Videos by the probability of their best class, in bins of equal width from 0 to 1.

    Attributes:
      count: videos of each bin.
      confidence: their mean probability; nan in an empty bin.
      accuracy: share of them whose best class is right; nan in an empty bin.
    """

    count: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], bins: int = 15
    ) -> "Calibration":
        """Sort videos into bins.

        Args:
          scores: probabilities. Videos with a score that is not finite are left out.
          labels: the right classes.
          bins: how many.
        """
        finite = np.isfinite(scores).all(axis=1)
        best, right = scores[finite].max(axis=1), scores[finite].argmax(axis=1) == labels[finite]
        place = np.clip(np.ceil(best * bins).astype(int) - 1, 0, bins - 1)
        count = np.bincount(place, minlength=bins)
        sums = (np.bincount(place, weights=x, minlength=bins) for x in (best, right))
        with np.errstate(invalid="ignore"):
            confidence, accuracy = (total / count for total in sums)
        return cls(count, confidence, accuracy)

    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence over videos.

        Source: Guo et al., arXiv 1706.04599, equation 3.
        """
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((gaps * self.count).sum() / max(self.count.sum(), 1))
