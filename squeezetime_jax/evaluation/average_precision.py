"""Average precision of ranked detections, without a device or a network."""

import numpy as np
from jaxtyping import Bool, Float


def average_precision(
    is_hit: Bool[np.ndarray, "levels n"], num_ground_truth: int
) -> Float[np.ndarray, " levels"]:
    """The area under the precision-recall curve, precision made monotone (VOC 2010 and later).

    Args:
      is_hit: whether each detection is right, from the highest score down; one row per threshold.
      num_ground_truth: how many there are to be found, at least 1.
    """
    hits = np.cumsum(is_hit, axis=1)
    precision = hits / np.arange(1, hits.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.concatenate([np.zeros((len(hits), 1)), hits / num_ground_truth], axis=1)
    return np.sum(np.diff(recall, axis=1) * envelope, axis=1)
