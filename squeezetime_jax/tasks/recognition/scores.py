"""Recognition's test set: the views of labelled videos, and what their scores are worth."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from squeezetime_jax import hosts
from squeezetime_jax.data.batches import Sample
from squeezetime_jax.data.sources import FileSource, Source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.metrics import Accuracy
from squeezetime_jax.evaluation.scoring import Batch, Rows, Scores, TestSet
from squeezetime_jax.evaluation.views import Scorer, reorder
from squeezetime_jax.files import whole
from squeezetime_jax.tasks.recognition.videos import contents, read_views


@dataclasses.dataclass(frozen=True)
class VideoScores(Scores):
    """The scores of a source's videos.

    Attributes:
      scores: the softmax averaged over each video's views.
      labels: the right classes.
      video_ids: the videos' numbers in the source, ascending.
      source: the videos.
      protocol: their views.
      class_names: in the order of the labels, if known.
    """

    scores: Float[np.ndarray, "videos classes"]
    labels: Int[np.ndarray, " videos"]
    video_ids: Int[np.ndarray, " videos"]
    source: Source
    protocol: ViewProtocol
    class_names: Sequence[str] | None = None

    @property
    def accuracy(self) -> Accuracy:
        """Sums over the videos."""
        return Accuracy.of(self.scores, self.labels)

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Videos of each class (rows) by the class that scored highest (columns)."""
        classes = self.scores.shape[1]
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (self.labels, self.scores.argmax(axis=1)), 1)
        return confusion

    def numbers(self) -> dict[str, float]:
        """As `Accuracy.compute`."""
        return self.accuracy.compute()

    def to_json(self) -> dict[str, Any]:
        """The numbers, and how they were measured."""
        protocol = self.protocol
        return {
            **self.numbers(),
            "videos": len(self.labels),
            "skipped": len(self.source) - len(self.labels),
            "views": f"{protocol.num_clips}x{protocol.num_crops}",
            "short_side": protocol.short_side,
            "crop_size": protocol.crop_size,
            "frames": f"{protocol.num_frames}x{protocol.frame_interval or 'uniform'}",
            "devices": jax.device_count(),
        }

    def table(self) -> str:
        """Classes from the worst to the best, and the means."""
        summary, rows, names = self.to_json(), self.accuracy.per_class(), self.class_names
        lines = []
        if len(rows) > 1:
            lines.append("  top-1    videos  class, worst first")
            lines += [
                f"{100 * share:6.2f} %  {videos:7}  {names[k] if names else f'class {k}'}"
                for k, videos, share in rows
            ]
        skipped = f", {summary['skipped']} unreadable skipped" if summary["skipped"] else ""
        count = f"{len(self.labels)} video{'s' if len(self.labels) != 1 else ''}"
        clips, crops = self.protocol.num_clips, self.protocol.num_crops
        return "\n".join(
            [
                *lines,
                f"{count}{skipped}; {clips} clip{'s' if clips > 1 else ''} x {crops}"
                f" crop{'s' if crops > 1 else ''} of {summary['crop_size']} pixels, frames"
                f" {summary['frames']}, mean of the softmax",
                f"top-1 {100 * summary['top1']:.2f} %   top-5 {100 * summary['top5']:.2f} %   mean"
                f" class {100 * summary['mean_class']:.2f} %",
            ]
        )

    def figure(self) -> Any:
        """The confusion matrix."""
        from squeezetime_jax.evaluation.pictures import draw_confusion

        return draw_confusion(self.confusion(), self.class_names)

    def write_page(self, folder: Path) -> Path:
        """As `Scores.write_page`; see `page`."""
        from squeezetime_jax.tasks.recognition.page import write_page  # which needs this class

        return write_page(self, folder)

    def write(self, path: Path) -> None:
        """Write every video's scores as npz, for late fusion and other metrics.

        The file holds `scores` (videos, classes), `labels`, `video_ids` (numbers in the source),
        and, if known, `paths` and `class_names`.

        Raises:
          UserError: the file cannot be written.
        """
        arrays: dict[str, Any] = {
            "scores": self.scores.astype(np.float32),
            "labels": self.labels,
            "video_ids": self.video_ids,
        }
        if isinstance(self.source, FileSource):
            arrays["paths"] = np.array([self.source.videos[k][0] for k in self.video_ids])
        if self.class_names is not None:
            arrays["class_names"] = np.array(self.class_names)
        with whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)


class TestVideos(TestSet):
    """The views of labelled videos.

    Args:
      source: the videos.
      protocol: their views.
      num_classes: of the network.
      batch_size: videos scored at once, on all devices together.
      class_names: in the order of the network's outputs, if known; the source's come first.
      frame_orders: indices of a clip's frames in the order in which the network gets them instead,
        to measure what the order is worth; the videos use the rows in turn.

    Raises:
      UserError: there are more classes than the network has.
    """

    def __init__(
        self,
        source: Source,
        protocol: ViewProtocol,
        num_classes: int,
        *,
        batch_size: int = 16,
        class_names: Sequence[str] | None = None,
        frame_orders: Int[np.ndarray, "orders t"] | None = None,
    ):
        if source.num_classes > num_classes:
            raise UserError(
                f"the videos have {source.num_classes} classes, but the network has {num_classes};"
                " give videos and a checkpoint of the same data set"
            )
        self.batch_size = batch_size
        self._source, self._protocol, self._frame_orders = source, protocol, frame_orders
        self._names = list(source.class_names) or class_names

    def __len__(self) -> int:
        return len(self._source)

    def contents(self) -> Any:
        """The videos' paths and labels."""
        return contents(self._source)

    def read(self, record: int) -> Sample:
        """`clips`, uint8 (views, t, h, w, 3), `labels` and `order`, int32 ()."""
        orders = 1 if self._frame_orders is None else len(self._frame_orders)
        sample = read_views(self._source, record, self._protocol)
        return {**sample, "order": np.int32(record % orders)}

    def blank(self) -> Sample:
        """A black video."""
        side = self._protocol.crop_size
        shape = (self._protocol.num_views, self._protocol.num_frames, side, side, 3)
        clips = np.broadcast_to(np.zeros((), np.uint8), shape)
        return {"clips": clips, "labels": np.int32(0), "order": np.int32(0)}

    def predictor(self, model: Any, mesh: Mesh) -> Callable[[Batch], Batch]:
        """`scores`, float (n, classes), and `labels`, int32 (n,)."""
        scorer = Scorer(model, mesh)
        orders = None
        if self._frame_orders is not None:
            orders = hosts.put_everywhere(self._frame_orders, mesh)

        def predict(batch: Batch) -> Batch:
            clips = batch["clips"]
            if orders is not None:
                clips = reorder(clips, batch["order"], orders)
            return {"scores": scorer.scores(clips), "labels": batch["labels"]}

        return predict

    def score(self, rows: Rows) -> VideoScores:
        """The scores, with what is known of the videos."""
        return VideoScores(
            rows["scores"],
            rows["labels"],
            rows["record"],
            self._source,
            self._protocol,
            self._names,
        )
