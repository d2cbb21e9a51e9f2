"""The task of detection: a clip and its boxes to what the persons in them do."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from squeezetime_jax.checkpoint.store import Meta
from squeezetime_jax.data import augment
from squeezetime_jax.tasks.detection.boxes import flip_boxes
from squeezetime_jax.tasks.detection.config import TASK, Experiment
from squeezetime_jax.tasks.detection.detector import Detector, abstract_detector
from squeezetime_jax.tasks.detection.weights import load_detector
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.task import Batch, Metrics, Task

_TOP = (3, 5)


class Detection(Task):
    """Cross-entropy of each action by itself, over the boxes of a batch.

    A batch is `clips`, uint8 (n, t, h, w, 3); `boxes`, float32 (n, k, 4) in pixels; `labels`, bool
    (n, k, classes); `mask`, bool (n, k): which rows are boxes.

    Args:
      experiment: the run.
    """

    score = "overall"

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.network = Network(abstract_detector(experiment.model))
        self.bn_group_size = experiment.model.bn_group_size

    def meta(self, labels: list[str] | None) -> Meta:
        """The backbone's configuration and the actions' names."""
        return Meta(self._experiment.model, labels, TASK)

    def init(self) -> tuple[Tree, Tree]:
        """The weights of `init`, adapted to this network, or fresh ones."""
        config = self._experiment.model
        if self._experiment.init:
            return self.network.split(
                load_detector(self._experiment.init, **dataclasses.asdict(config))
            )
        return self.network.split(Detector(config, nnx.Rngs(self._experiment.seed)))

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """`clips`, `boxes`, `labels` and `mask`."""
        data, model = self._experiment.data, self._experiment.model
        n, k, side = self._experiment.batch_size, data.max_boxes, data.crop_size
        return {
            "clips": jax.ShapeDtypeStruct((n, model.num_frames, side, side, 3), jnp.uint8),
            "boxes": jax.ShapeDtypeStruct((n, k, 4), jnp.float32),
            "labels": jax.ShapeDtypeStruct((n, k, model.num_classes), jnp.bool_),
            "mask": jax.ShapeDtypeStruct((n, k), jnp.bool_),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """Normalised, augmented clips, and boxes that follow the flip."""
        augmentation = self._experiment.augmentation
        clips, boxes = batch["clips"], batch["boxes"]
        draws = augment.draw(key, clips.shape, augmentation)
        if augmentation.flip:
            flipped = flip_boxes(boxes, clips.shape[3])
            boxes = jnp.where(draws.flip[:, None, None], flipped, boxes)
        dtype = self._experiment.model.param_dtype
        return {
            **batch,
            "clips": augment.apply(clips, draws, augmentation, dtype),
            "boxes": boxes,
        }

    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Mean over groups of clips of the mean over each group's boxes and actions."""
        logits, batch_stats = self.network.train(
            params, batch_stats, batch["clips"], batch["boxes"], key=key
        )
        loss = box_loss(logits, batch["labels"], batch["mask"], self.bn_group_size)
        return loss, (box_metrics(logits, batch["labels"], batch["mask"]), batch_stats)


def box_loss(
    logits: Float[Array, "n k classes"],
    labels: Bool[Array, "n k classes"],
    mask: Bool[Array, "n k"],
    group_size: int | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy, averaged over boxes and actions (released code).

    The reference averages over the boxes of each device's clips and then over devices; a group of
    clips stands for a device here, whatever the number of devices.

    Args:
      logits: column 0 counts for nothing.
      labels: what each box does; boxes that do nothing count for nothing.
      mask: which rows are boxes.
      group_size: clips that are averaged over at once; None: all.
    """
    n = logits.shape[0]
    size = min(group_size or n, n)
    targets = labels[..., 1:].astype(logits.dtype)
    each = jnp.mean(optax.sigmoid_binary_cross_entropy(logits[..., 1:], targets), axis=-1)
    counts = _counts(labels, mask).astype(logits.dtype)
    sums = jnp.sum((each * counts).reshape(n // size, -1), axis=1)
    return jnp.mean(sums / jnp.maximum(jnp.sum(counts.reshape(n // size, -1), axis=1), 1))


def box_metrics(
    logits: Float[Array, "n k classes"],
    labels: Bool[Array, "n k classes"],
    mask: Bool[Array, "n k"],
) -> dict[str, Float[Array, ""]]:
    """Means over the boxes of each one's recall and precision (released code).

    Returns:
      `recall_thr`, `precision_thr`: of the actions that score above a half; `recall_top3`,
      `precision_top3`, `recall_top5`, `precision_top5`: of the best few.
    """
    scores, targets = logits[..., 1:], labels[..., 1:]
    counts = _counts(labels, mask)
    order = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
    chosen = {"thr": scores > 0}
    chosen |= {f"top{k}": order < k for k in _TOP if k <= scores.shape[-1]}
    metrics = {}
    for name, picked in chosen.items():
        hits = jnp.sum(picked & targets, axis=-1)
        recall = hits / jnp.maximum(jnp.sum(targets, axis=-1), 1)
        precision = hits / (jnp.sum(picked, axis=-1) + 1e-6)
        for kind, share in (("recall", recall), ("precision", precision)):
            total = jnp.sum(jnp.where(counts, share, 0))
            metrics[f"{kind}_{name}"] = (total / jnp.maximum(jnp.sum(counts), 1)).astype(
                logits.dtype
            )
    return metrics


def _counts(labels: Bool[Array, "n k classes"], mask: Bool[Array, "n k"]) -> Bool[Array, "n k"]:
    return mask & jnp.any(labels[..., 1:], axis=-1)
