"""Evaluation: every video of a source scored once, on any number of devices and hosts."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from squeezetime_jax.data.batches import (
    all_unreadable,
    local_rows,
    to_devices,
    unreadable_error,
)
from squeezetime_jax.data.pipeline import eval_batches
from squeezetime_jax.data.sources import FileSource, Source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.metrics import Accuracy
from squeezetime_jax.evaluation.views import Scorer, reorder
from squeezetime_jax.files import whole
from squeezetime_jax.model.squeezetime import SqueezeTime


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of a source's videos, each counted once.

    Attributes:
      accuracy: sums over the videos.
      scores: the softmax averaged over each video's views.
      labels: the right classes.
      video_ids: the videos' numbers in the source, ascending.
      num_videos: videos of the source; those beyond the scored ones could not be read.
      unreadable: name -> reason, of the videos that could not be read.
    """

    accuracy: Accuracy
    scores: Float[np.ndarray, "videos classes"]
    labels: Int[np.ndarray, " videos"]
    video_ids: Int[np.ndarray, " videos"]
    num_videos: int
    unreadable: Mapping[str, str]

    @property
    def num_skipped(self) -> int:
        """Videos, on all hosts, that could not be read."""
        return self.num_videos - len(self.labels)

    def compute(self) -> dict[str, float]:
        """What `Accuracy.compute` gives."""
        return self.accuracy.compute()

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Videos of each class (rows) that were taken for each class (columns)."""
        classes = self.scores.shape[1]
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (self.labels, self.scores.argmax(axis=1)), 1)
        return confusion


def evaluate(
    model: SqueezeTime,
    source: Source,
    protocol: ViewProtocol,
    *,
    mesh: Mesh,
    batch_size: int = 16,
    workers: int = 0,
    skip_unreadable: bool = False,
    frame_orders: Int[np.ndarray, "orders t"] | None = None,
    progress: Callable[[int], None] = lambda videos: None,
) -> Evaluation:
    """Score all videos of a source, each once on any number of devices and hosts.

    Args:
      model: the network, in evaluation mode.
      source: labelled videos.
      protocol: the views of a video.
      mesh: the devices, a row named after its one axis; the same on all hosts.
      batch_size: videos scored at once, on all devices together; rounded up to what they can share.
      workers: decoding processes on each host.
      skip_unreadable: leave out videos that cannot be read.
      frame_orders: which frame of the clip each of the network's frames sees instead, for measuring
        how much it makes of the order; the videos take the rows in turn.
      progress: told how many videos more are done.

    Returns:
      The same on all hosts.

    Raises:
      UserError: videos cannot be read, and the error lists them; or a label is beyond the classes.
    """
    _check_labels(source, model)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    scorer = Scorer(model, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    orders = None if frame_orders is None else jax.device_put(frame_orders, everywhere)
    count = jax.jit(_count, out_shardings=everywhere)
    total = jax.device_put(Accuracy.empty(model.config.num_classes), everywhere)
    batches = eval_batches(
        source,
        protocol,
        batch_size=batch_size,
        workers=workers,
        rows=local_rows(split, batch_size),
    )
    rows: list[dict[str, np.ndarray]] = []
    with contextlib.closing(batches), to_devices(batches, split) as ahead:
        pending: dict[str, jax.Array] | None = None
        for batch in ahead:
            views = batch.pop("clips")
            if orders is not None:
                views = reorder(views, batch["video_ids"], orders)
            scores = scorer.scores(views)
            total, results = count(total, {**batch, "scores": scores})
            rows += _fetch(pending, progress)  # the batch before, while the devices work on this
            pending = results
        rows += _fetch(pending, progress)
    unreadable = all_unreadable(batches.unreadable)
    if unreadable and not skip_unreadable:
        raise unreadable_error(unreadable)
    return _evaluation(total, rows, len(source), unreadable)


def _count(total: Accuracy, batch: dict[str, jax.Array]) -> tuple[Accuracy, dict[str, jax.Array]]:
    counts = Accuracy.of(batch["scores"], batch["labels"], batch["mask"])
    return total.merge(counts), batch


def _fetch(
    results: dict[str, jax.Array] | None, progress: Callable[[int], None]
) -> list[dict[str, np.ndarray]]:
    if results is None:
        return []
    batch = {name: np.asarray(values) for name, values in results.items()}
    mask = batch.pop("mask")
    progress(int(mask.sum()))
    return [{name: values[mask] for name, values in batch.items()}]


def _evaluation(
    total: Accuracy, rows: list[dict[str, np.ndarray]], num_videos: int, unreadable: dict[str, str]
) -> Evaluation:
    whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    order = np.argsort(whole["video_ids"])
    return Evaluation(
        accuracy=jax.device_get(total),
        scores=whole["scores"][order],
        labels=whole["labels"][order],
        video_ids=whole["video_ids"][order],
        num_videos=num_videos,
        unreadable=dict(unreadable),
    )


def _check_labels(source: Source, model: SqueezeTime) -> None:
    classes = model.config.num_classes
    if source.num_classes > classes:
        raise UserError(
            f"the videos are of {source.num_classes} classes, but the network knows {classes}; give"
            " the list and the checkpoint of the same data set"
        )


def save_scores(
    path: Path, evaluation: Evaluation, source: Source, names: Sequence[str] | None
) -> None:
    """Write every video's scores as npz, for late fusion and for metrics of one's own.

    The file holds `scores` (videos, classes), `labels`, `video_ids` (numbers in the source), and,
    where they are known, `paths` and `class_names`.

    Raises:
      UserError: the file cannot be written.
    """
    arrays: dict[str, Any] = {
        "scores": evaluation.scores.astype(np.float32),
        "labels": evaluation.labels,
        "video_ids": evaluation.video_ids,
    }
    if isinstance(source, FileSource):
        arrays["paths"] = np.array([source.videos[k][0] for k in evaluation.video_ids])
    if names is not None:
        arrays["class_names"] = np.array(names)
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def per_class(accuracy: Accuracy) -> list[tuple[int, int, float]]:
    """(class, its videos, its top-1 accuracy) of the classes that have videos, worst first."""
    counts = np.asarray(accuracy.count)
    rows = [
        (int(k), int(counts[k]), float(accuracy.top1[k] / counts[k]))
        for k in np.flatnonzero(counts)
    ]
    return sorted(rows, key=lambda row: (row[2], row[0]))
