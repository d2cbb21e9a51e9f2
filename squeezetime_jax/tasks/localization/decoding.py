"""From the outputs of a video's windows to its detections (released AFSD)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE
from squeezetime_jax.tasks.localization.config import Inference

_SHORTEST = 1e-5  # seconds that the stronger segment counts for at least


class Detection(NamedTuple):
    """A segment, in seconds; `label` counts from 0, without the background."""

    label: int
    score: float
    start: float
    end: float


def segments_and_scores(
    outputs: dict[str, Array], priors: Float[Array, " priors"], num_frames: int
) -> tuple[Float[Array, "n priors 2"], Float[Array, "n priors classes"]]:
    """Segments in frames of their window, cut at its ends, and the scores of the classes.

    Args:
      outputs: of the localiser.
      priors: in frames.
      num_frames: of the window.
    """
    ends = priors[:, None] + outputs["distances"] * jnp.array([-1, 1], priors.dtype)
    scores = jax.nn.softmax(outputs["logits"])[..., 1:]
    if "quality" in outputs:
        scores = scores * jax.nn.sigmoid(outputs["quality"])[..., None]
    return jnp.clip(ends, 0, num_frames), scores


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What a window offers.

    Attributes:
      labels: classes, from 0.
      segments: in seconds of the video.
      scores: above the least score.
    """

    labels: Int[np.ndarray, " n"]
    segments: Float[np.ndarray, "n 2"]
    scores: Float[np.ndarray, " n"]

    @classmethod
    def of_window(
        cls,
        segments: Float[np.ndarray, "priors 2"],
        scores: Float[np.ndarray, "priors classes"],
        offset: int,
        min_score: float,
    ) -> "Candidates":
        """The pairs of prior and class above the least score, prior by prior."""
        prior, label = np.nonzero(scores > min_score)
        seconds = (segments[prior] + np.float32(offset)) / np.float32(SAMPLE_RATE)
        return cls(label, seconds, scores[prior, label])


def merge(windows: list[Candidates], inference: Inference) -> list[Detection]:
    """The detections of a video: per class, all windows' candidates through soft-NMS."""
    if not windows:
        return []
    labels, segments, scores = (
        np.concatenate([getattr(window, name) for window in windows])
        for name in ("labels", "segments", "scores")
    )
    found = []
    for label in np.unique(labels):
        own = labels == label
        kept, decayed = soft_nms(segments[own], scores[own], inference)
        found += [
            Detection(int(label), float(score), float(start), float(end))
            for (start, end), score in zip(segments[own][kept], decayed[kept], strict=True)
        ]
    return found


def soft_nms(
    segments: Float[np.ndarray, "n 2"], scores: Float[np.ndarray, " n"], inference: Inference
) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Gaussian soft-NMS of one class (arXiv 1704.04503) in the reference's form.

    The strongest segment in turn lowers the scores of those that overlap it.

    Args:
      segments: start and end, in any unit.
      scores: not negative.
      inference: its constants, and whether the last segment that remains is left out.

    Returns:
      Which segments remain, and the lowered scores.
    """
    scores = scores.copy()
    done = np.zeros(len(scores), bool)
    active = np.flatnonzero(scores >= inference.drop_below)
    for _ in range(inference.top_k):
        if len(active) <= (1 if inference.drops_last else 0):
            break
        place = int(np.argmax(scores[active]))
        best = active[place]
        done[best] = True
        active = np.delete(active, place)
        overlap = _overlap(segments[best], segments[active])
        scores[active] *= np.exp(-np.square(overlap) / segments.dtype.type(inference.sigma))
        active = active[scores[active] >= inference.drop_below]
    return done, scores


def _overlap(
    one: Float[np.ndarray, "2"], others: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    shared = np.maximum(shared, 0)
    length = max(one[1] - one[0], one.dtype.type(_SHORTEST))
    return shared / (length + (others[:, 1] - others[:, 0]) - shared)
