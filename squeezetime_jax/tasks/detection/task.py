"""The task of detection: a clip and boxes of persons to the actions of each."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.store import Meta, read_labels
from squeezetime_jax.data import augment, classes
from squeezetime_jax.data.batches import Sample, pad_rows
from squeezetime_jax.data.embedded import people
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.scoring import Predict, Rows, Scores, TestSet
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.detection.annotations import (
    DECIMALS,
    BoxRows,
    read_actions,
    write_detections,
)
from squeezetime_jax.tasks.detection.boxes import flip_boxes
from squeezetime_jax.tasks.detection.config import NAME, PEOPLE, Data, Evaluation, Experiment
from squeezetime_jax.tasks.detection.dataset import Split, square_clip, with_files
from squeezetime_jax.tasks.detection.detector import Detector, abstract_detector, load_detector
from squeezetime_jax.tasks.detection.metric import FrameMap, frame_map
from squeezetime_jax.training import config, devices
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.task import Batch, Metrics, Task, TrainingSet

_TOP = (3, 5)


class Detection(Task):
    """Binary cross-entropy of each action, over the boxes of a batch.

    A batch is `clips`, uint8 (n, t, h, w, 3); `boxes`, float32 (n, k, 4) in pixels; `labels`, bool
    (n, k, classes); `mask`, bool (n, k): which rows are boxes.
    """

    experiment_type = Experiment
    metric = "overall"
    published = "frame_map"

    def __init__(self, experiment: Experiment, folder: Path):
        super().__init__(experiment, folder)
        assert isinstance(experiment.model, SqueezeTimeConfig)  # Experiment has checked it
        self.network = Network(abstract_detector(experiment.model))
        self.bn_group_size = experiment.model.bn_group_size

    @classmethod
    def load(cls, checkpoint: str, fields: ConfigDict) -> Detector:
        """Load a detector; see `Task.load`."""
        detector = load_detector(checkpoint)
        config.set_network(fields, detector.config)
        return detector

    @cached_property
    def data(self) -> Data:
        """Where the files are; the embedded data set is written on first use."""
        data = self.experiment.data
        if data.train != PEOPLE:
            return data
        folder = self.folder / "videos"
        hosts.first_host_makes(lambda: people.write_people(folder, data.people), "people videos")
        return with_files(data, folder)

    def training_set(self) -> "TrainingClips":
        """The annotated training frames."""
        model = self.experiment.model
        return TrainingClips(Split(self.data, "train", model.num_classes, model.num_frames))

    def test_set(self, checkpoint: str | None = None) -> "TestClips | None":
        """The annotated test frames, if there are any."""
        if not self.data.test:
            return None
        model = self.experiment.model
        split = Split(self.data, "test", model.num_classes, model.num_frames)
        test = TestClips(split, self.experiment.evaluation)
        known = read_labels(checkpoint) if checkpoint else None
        if known and len(known) == model.num_classes:
            check_actions(read_actions(split.data.labels), known, split.data.labels)
        return test

    def lower_evaluation(self, mesh: Mesh) -> dict[str, jax.stages.Lowered]:
        """The scores of a batch of clips, with as many boxes as a training clip may have."""
        data, model = self.experiment.data, self.experiment.model
        n = -(-self.experiment.evaluation.batch_size // mesh.size) * mesh.size
        split, side = devices.split_batch(mesh), data.crop_size
        compiled, state = _forward(self.network.merge(*self.network.abstract()), mesh)
        shape = (n, model.num_frames, side, side, 3)
        lowered = compiled.lower(
            devices.shapes_everywhere(state, mesh),
            jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=split),
            jax.ShapeDtypeStruct((n, data.max_boxes, 4), jnp.float32, sharding=split),
        )
        return {"scores of clips": lowered}

    def meta(self, labels: list[str] | None) -> Meta:
        """The backbone's configuration and the actions' names."""
        return Meta(self.experiment.model, labels, NAME)

    def init(self) -> tuple[Tree, Tree]:
        """The weights of `init`, adapted to this network, or random ones."""
        model, init = self.experiment.model, self.experiment.init
        if init:
            return self.network.split(load_detector(init, **dataclasses.asdict(model)))
        return self.network.split(Detector(model, nnx.Rngs(self.experiment.seed)))

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """`clips`, `boxes`, `labels` and `mask`."""
        data, model = self.experiment.data, self.experiment.model
        n, k, side = self.experiment.batch_size, data.max_boxes, data.crop_size
        return {
            "clips": jax.ShapeDtypeStruct((n, model.num_frames, side, side, 3), jnp.uint8),
            "boxes": jax.ShapeDtypeStruct((n, k, 4), jnp.float32),
            "labels": jax.ShapeDtypeStruct((n, k, model.num_classes), jnp.bool_),
            "mask": jax.ShapeDtypeStruct((n, k), jnp.bool_),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch, rows: Int[Array, "n"]) -> Batch:
        """Normalised, augmented clips, and boxes mirrored with them."""
        augmentation = self.experiment.augmentation
        clips, boxes = batch["clips"], batch["boxes"]
        draws = augment.draw(key, clips.shape, augmentation, rows)
        if augmentation.flip:
            flipped = flip_boxes(boxes, clips.shape[3])
            boxes = jnp.where(draws.flip[:, None, None], flipped, boxes)
        clips = augment.apply(clips, draws, augmentation, self.experiment.model.param_dtype)
        return {**batch, "clips": clips, "boxes": boxes}

    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Mean over groups of clips of the mean over the boxes and actions of each group."""
        logits, batch_stats = self.network.forward(
            params, batch_stats, batch["clips"], batch["boxes"], key=key
        )
        loss = box_loss(logits, batch["labels"], batch["mask"], self.bn_group_size)
        return loss, (box_metrics(logits, batch["labels"], batch["mask"]), batch_stats)


TASK = Detection


def box_loss(
    logits: Float[Array, "n k classes"],
    labels: Bool[Array, "n k classes"],
    mask: Bool[Array, "n k"],
    group_size: int | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy, averaged over boxes and actions (released code).

    The reference averages over the boxes of each device's clips and then over devices; a group of
    clips takes the place of a device here, whatever the number of devices.

    Args:
      logits: column 0 is ignored.
      labels: actions of each box; boxes without an action are ignored.
      mask: which rows are boxes.
      group_size: clips averaged over at once; None: all.
    """
    n = logits.shape[0]
    size = min(group_size or n, n)
    targets = labels[..., 1:].astype(logits.dtype)
    losses = jnp.mean(optax.sigmoid_binary_cross_entropy(logits[..., 1:], targets), axis=-1)
    weights = _has_action(labels, mask).astype(logits.dtype)
    sums = jnp.sum((losses * weights).reshape(n // size, -1), axis=1)
    return jnp.mean(sums / jnp.maximum(jnp.sum(weights.reshape(n // size, -1), axis=1), 1))


def box_metrics(
    logits: Float[Array, "n k classes"],
    labels: Bool[Array, "n k classes"],
    mask: Bool[Array, "n k"],
) -> dict[str, Float[Array, ""]]:
    """Recall and precision of each box's actions, averaged over the boxes (released code).

    Returns:
      `recall_thr`, `precision_thr`: of the actions that score above a half; `recall_top3`,
      `precision_top3`, `recall_top5`, `precision_top5`: of those that score highest.
    """
    scores, targets = logits[..., 1:], labels[..., 1:]
    is_counted = _has_action(labels, mask)
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1), axis=-1)
    predicted = {"thr": scores > 0}
    predicted |= {f"top{k}": rank < k for k in _TOP if k <= scores.shape[-1]}
    metrics = {}
    for name, picked in predicted.items():
        hits = jnp.sum(picked & targets, axis=-1)
        recall = hits / jnp.maximum(jnp.sum(targets, axis=-1), 1)
        precision = hits / (jnp.sum(picked, axis=-1) + 1e-6)
        for kind, share in (("recall", recall), ("precision", precision)):
            mean = jnp.sum(jnp.where(is_counted, share, 0)) / jnp.maximum(jnp.sum(is_counted), 1)
            metrics[f"{kind}_{name}"] = mean.astype(logits.dtype)
    return metrics


def _has_action(labels: Bool[Array, "n k classes"], mask: Bool[Array, "n k"]) -> Bool[Array, "n k"]:
    return mask & jnp.any(labels[..., 1:], axis=-1)


def check_actions(actions: Mapping[int, str], known: Sequence[str], place: str) -> None:
    """Refuse a list of actions that are numbered otherwise than those of a checkpoint.

    Args:
      actions: name of each number in the list.
      known: the checkpoint's names, by number.
      place: the list, for messages.

    Raises:
      UserError: with the first number that stands for another action.
    """
    for number, name in actions.items():
        mine = known[number] if number < len(known) else "none"
        if not classes.is_same(name, mine) and mine != f"action {number}":
            raise UserError(
                f"{place}: action {number} is {name!r}, but {mine!r} in the checkpoint; give the"
                " list of actions that it was trained with (data.labels)"
            )


class TrainingClips(TrainingSet):
    """Random clips of the annotated training frames.

    Args:
      split: the opened data.
    """

    def __init__(self, split: Split):
        self._split = split
        if split.data.labels:
            actions = read_actions(split.data.labels)
            num_classes = split.key_frames.num_classes
            names = [actions.get(k, f"action {k}") for k in range(1, num_classes)]
            self.labels = ["no action", *names]

    def __len__(self) -> int:
        return len(self._split.key_frames)

    def contents(self) -> Any:
        """The annotations and the proposals."""
        return self._split.contents()

    def read(self, record: int, rng: np.random.Generator) -> Sample:
        """A clip with boxes; see `Split.training_sample`."""
        return self._split.training_sample(record, rng)


class TestClips(TestSet):
    """The clip of each annotated test frame, resized to a square, with the boxes to be scored.

    Args:
      split: the opened data.
      evaluation: how detections are made and scored.
      orders: for each record the order in which the frames of its clip are shown; None: as they
        are.

    Raises:
      UserError: there is no list of actions.
    """

    def __init__(
        self,
        split: Split,
        evaluation: Evaluation,
        orders: Int[np.ndarray, "records t"] | None = None,
    ) -> None:
        if not split.data.labels:
            raise UserError("config: data.labels is empty; set --config.data.labels=LIST.pbtxt")
        self._actions = read_actions(split.data.labels)
        self._split, self._evaluation, self._orders = split, evaluation, orders
        self.batch_size = evaluation.batch_size
        counts = [len(split.select_proposals(frame)) for frame in split.key_frames.frames]
        self._max_boxes = -(-max(counts) // 4) * 4  # in fours: few different programs

    def __len__(self) -> int:
        return len(self._split.key_frames)

    def contents(self) -> Any:
        """The annotations and the proposals."""
        return self._split.contents()

    def read(self, record: int) -> Sample:
        """The sample of a frame.

        Returns:
          `clips`, uint8 (t, size, size, 3); `boxes`, float32 (max_boxes, 4) in pixels of the clip;
          `num_boxes`: how many of its rows are boxes.
        """
        frame = self._split.key_frames.frames[record]
        frames = self._split.read_clip(frame)
        if self._orders is not None:
            frames = frames[self._orders[record]]
        found = self._split.select_proposals(frame)
        clip, boxes = square_clip(frames, found, self._split.data.crop_size)
        padded = pad_rows(boxes, self._max_boxes)
        return {"clips": clip, "boxes": padded, "num_boxes": np.int32(len(boxes))}

    def blank(self) -> Sample:
        """A sample without boxes."""
        size = self._split.data.crop_size
        return {
            "clips": np.zeros((self._split.sampling.num_frames, size, size, 3), np.uint8),
            "boxes": np.zeros((self._max_boxes, 4), np.float32),
            "num_boxes": np.int32(0),
        }

    def predictor(self, model: Detector, mesh: Mesh) -> Predict:
        """`scores`, each action's probability in each box, beside `boxes` and `num_boxes`."""
        predict = predictor(model, mesh)

        def rows(batch: Batch) -> dict[str, Any]:
            scores = predict(batch["clips"], batch["boxes"])
            return {"scores": scores, "boxes": batch["boxes"], "num_boxes": batch["num_boxes"]}

        return rows

    def score(self, rows: Rows) -> "DetectionScores":
        """The frame mAP of the actions that score more than `action_score`."""
        key_frames = self._split.key_frames
        detections = to_rows(
            key_frames.frames,
            rows,
            size=self._split.data.crop_size,
            action_score=self._evaluation.action_score,
        )
        result = frame_map(
            key_frames.rows,
            detections,
            self._actions,
            excluded=self._split.excluded,
            protocol=self._evaluation.protocol,
        )
        count = len(rows["record"])
        return DetectionScores(**vars(result), detections=detections, num_frames=count)


def predictor(model: Detector, mesh: Mesh) -> Any:
    """A compiled detector on a mesh.

    Args:
      model: the detector, in evaluation mode; the same on all hosts.
      mesh: the devices; the first axis of a batch is cut over them.

    Returns:
      A function of clips, uint8 (n, t, h, w, 3), and boxes, float32 (n, k, 4) in their pixels; it
      gives each action's probability in each box, (n, k, classes).
    """
    compiled, state = _forward(model, mesh)
    state = hosts.put_everywhere(state, mesh)
    return lambda clips, boxes: compiled(state, clips, boxes)


def _forward(model: Detector, mesh: Mesh) -> tuple[Any, Any]:
    """The scores as a jitted function of weights, clips and boxes, and the weights."""
    graph, state = nnx.split(model)
    dtype = model.config.param_dtype
    everywhere, split = devices.replicated(mesh), devices.split_batch(mesh)

    def forward(state: Any, clips: Array, boxes: Array) -> Array:
        detector = nnx.merge(graph, state)
        return jax.nn.sigmoid(detector(augment.normalise(clips, dtype), boxes.astype(dtype)))

    return jax.jit(forward, in_shardings=(everywhere, split, split), out_shardings=split), state


def to_rows(frames: list, rows: Rows, *, size: int, action_score: float) -> BoxRows:
    """Scores as detections, by frame, action and box, as a file of them would be read.

    Args:
      frames: video and second of each record.
      rows: `record`, `boxes` in pixels, `num_boxes` and `scores`.
      size: side of the clips in pixels.
      action_score: an action counts where its score exceeds this.
    """
    parts = [np.zeros((0, 7))]
    for record, boxes, count, scores in zip(
        rows["record"], rows["boxes"], rows["num_boxes"], rows["scores"], strict=True
    ):
        box, action = above(scores[:count], action_score)
        columns = (np.full(len(box), record), *(boxes / np.float32(size))[box].T, action)
        columns = (*columns, scores[box, action])
        parts.append(np.stack([np.asarray(column, np.float64) for column in columns], axis=1))
    table = np.concatenate(parts)
    rounded = [float(f"{value:.{DECIMALS}f}") for value in table[:, [1, 2, 3, 4, 6]].ravel()]
    values = np.array(rounded, np.float64).reshape(-1, 5)
    return BoxRows(
        frames=list(frames),
        frame=table[:, 0].astype(np.int64),
        boxes=values[:, :4],
        action=table[:, 5].astype(np.int64),
        last=values[:, 4],
    )


def above(
    scores: Float[np.ndarray, "k classes"], action_score: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Boxes and actions that score more than a threshold, by action, then box; never action 0."""
    action, box = np.nonzero(np.float32(action_score) < scores[:, 1:].T)
    return box, action + 1


@dataclasses.dataclass(frozen=True)
class DetectionScores(FrameMap, Scores):
    """The frame mAP of a test set.

    Attributes:
      detections: that it was computed from.
      num_frames: frames that were scored.
    """

    detections: BoxRows
    num_frames: int

    def numbers(self) -> dict[str, float]:
        """`overall`, and the groups of actions that occur; 0 without any detection."""
        groups = {k: value for k, value in self.groups().items() if not math.isnan(value)}
        return {"overall": 0.0 if math.isnan(self.overall) else self.overall, **groups}

    def to_json(self) -> dict[str, Any]:
        """The number of frames and the metric."""
        return {"frames": self.num_frames, **super().to_json()}

    def write(self, path: Path) -> None:
        """Write the detections as a csv file in AVA's format."""
        write_detections(path, self.detections)
