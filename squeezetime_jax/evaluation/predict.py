"""Scores of videos that have no label: from a Python call, and for the command line."""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.views import PAPER, RuntimeScorer, Sampling, Scorer
from squeezetime_jax.model.squeezetime import SqueezeTime

PathLike = str | os.PathLike[str]


def predict(
    model: SqueezeTime,
    video: PathLike | bytes,
    *,
    views: str = PAPER,
    sampling: Sampling | None = None,
) -> Float[np.ndarray, " classes"]:
    """Score a video: the softmax averaged over its views.

    Example:
      >>> import squeezetime_jax as st
      >>> from flax import nnx
      >>> from squeezetime_jax.data.embedded.scenes import encode
      >>> import numpy as np
      >>> encode("noise.mp4", np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8))
      >>> model = st.SqueezeTime(st.SqueezeTimeConfig.tiny(), nnx.Rngs(0))
      >>> model.eval()
      >>> scores = st.predict(model, "noise.mp4", views="1x1")
      >>> scores.shape, bool(abs(scores.sum() - 1) < 1e-5)
      ((8,), True)

    Args:
      model: the network, in evaluation mode.
      video: a path, or the bytes of a video file.
      views: clips and crops, "CLIPSxCROPS" with 1 or 3 crops. "10x3" is the paper's protocol, "1x1"
        the fast one. Programs are compiled once for each number of views.
      sampling: sizes of the views and the frame interval; by default those of Kinetics.

    Returns:
      One probability per class.

    Raises:
      VideoError: the video cannot be read.
      UserError: `views` is not understood.
    """
    protocol = (sampling or Sampling()).protocol(views, model.config.num_frames)
    return np.asarray(Scorer(model).scores(read_views(video, protocol)[None])[0])


def read_views(
    video: PathLike | bytes, protocol: ViewProtocol
) -> UInt8[np.ndarray, "views t size size 3"]:
    """The views of a video file; it is held in memory no longer than that.

    Raises:
      VideoError: it cannot be read.
    """
    with Video(video, threads=os.cpu_count() or 1) as opened:
        return transforms.views(opened, protocol)


@dataclasses.dataclass(frozen=True)
class Reading:
    """A video's views, or why there are none.

    Attributes:
      path: as the user gave it.
      views: (views, t, size, size, 3), 0..255; None if it cannot be read.
      error: what is wrong then, in one line.
    """

    path: str
    views: UInt8[np.ndarray, "views t h w 3"] | None
    error: str = ""


def read_ahead(paths: Iterable[str], protocol: ViewProtocol) -> Iterator[Reading]:
    """Read videos in order, each while the one before is scored."""
    readings = (_read(path, protocol) for path in paths)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, readings, None)
        while (reading := coming.result()) is not None:
            coming = pool.submit(next, readings, None)
            yield reading


def _read(path: str, protocol: ViewProtocol) -> Reading:
    try:
        return Reading(path, read_views(path, protocol))
    except UserError as error:
        return Reading(path, None, str(error))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found out about a video.

    Attributes:
      path: as the user gave it.
      scores: (classes,), summing to 1; None if the video cannot be read.
      error: what is wrong then, in one line.
      num_views: views that the scores are the mean of.
      seconds: from asking for the video to its scores.
    """

    path: str
    scores: Float[np.ndarray, " classes"] | None
    error: str = ""
    num_views: int = 0
    seconds: float = 0.0


def predict_all(
    scorer: Scorer | RuntimeScorer, readings: Iterable[Reading]
) -> Iterator[tuple[Prediction, Reading]]:
    """Score videos as they come; what cannot be read is reported in its turn."""
    begin = time.monotonic()
    for reading in readings:
        if reading.views is None:
            yield Prediction(reading.path, None, reading.error), reading
        else:
            scores = np.asarray(scorer.scores(reading.views[None])[0])
            seconds = time.monotonic() - begin
            yield Prediction(reading.path, scores, "", len(reading.views), seconds), reading
        begin = time.monotonic()


def top(
    scores: Float[np.ndarray, " classes"], names: list[str] | None, count: int
) -> list[dict[str, Any]]:
    """The likeliest classes, in falling order, as `{"index", "label", "score"}`.

    Where nothing names the classes, the label is None.
    """
    best = np.argsort(-scores, kind="stable")[:count]
    return [
        {"index": int(k), "label": names[k] if names else None, "score": float(scores[k])}
        for k in best
    ]
