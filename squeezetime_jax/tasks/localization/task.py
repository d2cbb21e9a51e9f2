"""The task of localisation: a window of a video to the segments in it."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.store import Meta, load, read_labels
from squeezetime_jax.data import classes
from squeezetime_jax.data.batches import Sample, UnreadableRecord
from squeezetime_jax.data.embedded import untrimmed
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.scoring import Predict, Rows, Scores, TestSet
from squeezetime_jax.files import write_whole
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.tasks.localization.annotations import (
    GROUND_TRUTH_FILE,
    Instances,
    detections_file,
    read_annotations,
    read_ground_truth,
)
from squeezetime_jax.tasks.localization.config import NAME, UNTRIMMED, Data, Experiment
from squeezetime_jax.tasks.localization.dataset import (
    Image8,
    TrainingWindows,
    find_video,
    read_array,
    stream,
    write_arrays,
)
from squeezetime_jax.tasks.localization.inference import (
    STAGES,
    Finder,
    lower_clip_maps,
    to_json,
)
from squeezetime_jax.tasks.localization.losses import localization_loss, priors
from squeezetime_jax.tasks.localization.metric import TemporalMap, temporal_map
from squeezetime_jax.tasks.localization.model import (
    Localizer,
    abstract_localizer,
    load_localizer,
    normalise_frames,
)
from squeezetime_jax.training import config, devices
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.task import Batch, Metrics, Task

_SETTINGS = ("window", "head", "inference")


class Localization(Task):
    """One minus the overlap of found with true segments, and the focal loss of their classes.

    A batch is `frames`, uint8 (n, t, side, side, 3); `num_frames`, int32 (n,), the number of them
    that are of the video; `segments`, float32 (n, gt, 2), and `classes`, int32 (n, gt), 0 where
    there is no instance.
    """

    experiment_type = Experiment
    metric = "average"
    published = "average"

    def __init__(self, experiment: Experiment, folder: Path):
        super().__init__(experiment, folder)
        model = abstract_localizer(experiment.model, experiment.window, experiment.head)
        is_fixed = experiment.freeze.norm != "nothing" or experiment.freeze.backbone
        self.network = Network(model, freeze_norm=is_fixed)
        self.bn_group_size = None if is_fixed else experiment.model.bn_group_size
        self._norms = {
            tuple(map(str, path))
            for path, module in nnx.iter_modules(model)
            if isinstance(module, BatchNorm)
        }
        lengths = experiment.head.level_lengths(experiment.window.num_clips)
        self._priors = priors(lengths, experiment.window.num_frames)

    @classmethod
    def load(cls, checkpoint: str, fields: ConfigDict) -> Localizer:
        """Load a localiser; see `Task.load`."""
        stored = load_localizer(checkpoint)
        config.set_network(fields, stored.model.config)
        fields.window.update(dataclasses.asdict(stored.model.window))
        return stored.model

    @cached_property
    def data(self) -> Data:
        """Where the files are; the embedded data set is written on first use."""
        data = self.experiment.data
        data = dataclasses.replace(data, arrays=data.arrays or str(self.folder / "arrays"))
        if data.annotations != UNTRIMMED:
            return data
        folder = self.folder / UNTRIMMED
        hosts.first_host_makes(
            lambda: untrimmed.write_untrimmed(folder, data.untrimmed), "untrimmed videos"
        )
        return dataclasses.replace(data, annotations=str(folder), videos=str(folder / "videos"))

    def training_set(self) -> TrainingWindows:
        """The training windows; the arrays that they need are written on first use."""
        windows = TrainingWindows(self.experiment, self.data)
        side = self.experiment.window.stored_side
        hosts.first_host_makes(lambda: write_arrays(windows.videos, self.data, side), "arrays")
        return windows

    def test_set(self, checkpoint: str | None = None) -> "TestVideos":
        """The test videos; a checkpoint's classes are known by its names of them."""
        labels = read_labels(checkpoint) if checkpoint else None
        return TestVideos(self.experiment, self.data, labels)

    def lower_evaluation(self, mesh: Mesh) -> dict[str, jax.stages.Lowered]:
        """The backbone on clips: a host scores a video on its own devices."""
        row = list(mesh.devices.flat)
        own = [device for device in row if device.process_index == row[0].process_index]
        model = self.network.merge(*self.network.abstract())
        return {"feature maps of clips": lower_clip_maps(model, devices.data_mesh(devices=own))}

    def meta(self, labels: list[str] | None) -> Meta:
        """The backbone's configuration, the class names, and what else inference needs."""
        settings = {name: dataclasses.asdict(getattr(self.experiment, name)) for name in _SETTINGS}
        return Meta(self.experiment.model, labels, NAME, settings)

    def init(self) -> tuple[Tree, Tree]:
        """A random head on the backbone of `init`, or on a random one."""
        experiment = self.experiment
        rngs = nnx.Rngs(experiment.seed)
        model = Localizer(experiment.model, experiment.window, experiment.head, rngs)
        if experiment.init:
            backbone = load(experiment.init, **dataclasses.asdict(experiment.model))
            del backbone.head
            nnx.update(model.backbone, nnx.state(backbone))
        return self.network.split(model)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Frames with a margin to crop from, and instances."""
        window, n = self.experiment.window, self.experiment.batch_size
        side, count = window.stored_side, self.experiment.data.max_instances
        return {
            "frames": jax.ShapeDtypeStruct((n, window.num_frames, side, side, 3), jnp.uint8),
            "num_frames": jax.ShapeDtypeStruct((n,), jnp.int32),
            "segments": jax.ShapeDtypeStruct((n, count, 2), jnp.float32),
            "classes": jax.ShapeDtypeStruct((n, count), jnp.int32),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch, rows: Int[Array, "n"]) -> Batch:
        """Crop and mirror each window as a whole, then normalise."""
        window, data = self.experiment.window, self.experiment.data
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        side, margin = window.crop_side, window.stored_side - window.crop_side

        def crop(
            key: PRNGKeyArray, frames: UInt8[Array, "t h w 3"]
        ) -> UInt8[Array, "t side side 3"]:
            corner_key, flip_key = jax.random.split(key)
            corner = jax.random.randint(corner_key, (2,), 0, margin + 1)
            if not data.random_crop:
                corner = jnp.full((2,), round(margin / 2))
            cut = jax.lax.dynamic_slice(
                frames, (0, corner[0], corner[1], 0), (len(frames), side, side, 3)
            )
            return jnp.where(jax.random.bernoulli(flip_key, data.flip), cut[:, :, ::-1], cut)

        frames = jax.vmap(crop)(keys, batch["frames"])
        windows = normalise_frames(frames, window, self.experiment.model.param_dtype)
        if window.short_padding == "grey":
            lengths = batch["num_frames"][:, None, None, None, None]
            numbers = jnp.arange(window.num_frames)[:, None, None, None]
            windows = jnp.where(numbers < lengths, windows, 0.0)
        return {**batch, "frames": windows}

    def trains(self, path: Sequence[str]) -> bool:
        """All parameters except those that the experiment freezes."""
        freeze = self.experiment.freeze
        if path[0] != "backbone":
            return True
        is_norm = tuple(path[:-1]) in self._norms
        return not freeze.backbone and not (freeze.norm == "all" and is_norm)

    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Sums over the priors of all windows, divided by the positive ones of the whole batch."""

        def stopped(path: tuple, leaf: Any) -> Any:
            names = [str(getattr(key, "key", key)) for key in path]
            return leaf if self.trains(names) else jax.lax.stop_gradient(leaf)

        params = jax.tree_util.tree_map_with_path(stopped, params)
        outputs, batch_stats = self.network.forward(params, batch_stats, batch["frames"], key=key)
        total, parts = localization_loss(
            outputs,
            batch["segments"],
            batch["classes"],
            self._priors,
            self.experiment.loss,
            self.experiment.window.num_frames,
        )
        return total, (parts, batch_stats)


TASK = Localization


class TestVideos(TestSet):
    """The test videos, one record each: a host reads and scores one after the other.

    A window is not a record, because overlapping windows share their clips: THUMOS14's 3485 test
    windows have 67 998 distinct clips, where records of windows would compute 111 520.

    Args:
      experiment: the run.
      data: where the files are.
      labels: class names in the order of the network's outputs; None: the annotations'.

    Raises:
      UserError: the annotations are invalid, or have a class that the network does not know.
    """

    def __init__(self, experiment: Experiment, data: Data, labels: list[str] | None = None):
        self._experiment, self._data = experiment, data
        file = Path(data.annotations) / GROUND_TRUTH_FILE
        self._truth, self._scored = read_ground_truth(file, "test")
        annotations = read_annotations(data.annotations, "test")
        self._labels = list(labels or annotations.class_names)
        # The scores are matched by name, as the annotations spell it.
        names = annotations.class_names
        place = f"{data.annotations}: annotations"
        for number, name in zip(
            classes.numbers(names, self._labels, place=place, owner="the checkpoint"),
            names,
            strict=True,
        ):
            self._labels[number] = name
        self._videos = list(annotations.videos.items())

    def __len__(self) -> int:
        return len(self._videos)

    def contents(self) -> Any:
        """The videos."""
        return self._videos, self._labels

    def read(self, record: int) -> Sample:
        """`frames`, an iterator over the frames of a video at the sampled rate.

        They come from a prepared array if there is one, else from the video file.
        """
        name, facts = self._videos[record]
        side, data = self._experiment.window.stored_side, self._data

        def frames() -> Iterator[Image8]:
            try:
                if (Path(data.arrays) / f"{name}.npy").is_file():
                    yield from read_array(data.arrays, name, side)
                else:
                    yield from stream(find_video(data.videos, name), side, facts.fps)
            except UserError as error:
                raise UnreadableRecord(name, str(error)) from None

        return {"frames": frames()}

    def predictor(self, model: Localizer, mesh: Mesh) -> Predict:
        """The detections of a video as JSON has them, and what they cost."""
        shuffle = self._experiment.seed if self._experiment.evaluation.shuffled else None
        finder = Finder(model, self._experiment.inference, shuffle)
        finder.compile()

        def predict(sample: Sample) -> dict[str, Any]:
            found = finder.find(sample["frames"])
            return {"detections": to_json(found.detections, self._labels), "cost": found.cost}

        return predict

    def score(self, rows: Rows) -> "LocalizationScores":
        """The mean average precision of all videos' detections."""
        names = [self._videos[record][0] for record in rows["record"]]
        detections = dict(zip(names, rows["detections"], strict=True))
        found = [
            (name, each["label"], *each["segment"], each["score"])
            for name, each_video in detections.items()
            for each in each_video
        ]
        thresholds = self._experiment.evaluation.thresholds
        instances = Instances.of(found, scored=True)
        result = temporal_map(self._truth, instances, self._scored, thresholds)
        total: collections.Counter[str] = collections.Counter()
        for cost in rows["cost"]:
            total.update(cost)
        seconds = {stage: total[stage] / len(names) for stage in STAGES}
        forward = (total["backbone"] + total["head"]) / total["windows"]
        return LocalizationScores(
            **vars(result),
            detections=detections,
            cost={
                "videos": len(names),
                "windows": total["windows"],
                "clips": total["clips"],
                "clips_unshared": total["windows"] * self._experiment.window.num_clips,
                "seconds_per_video": {**seconds, "all": sum(seconds.values())},
                "forward_seconds_per_window": forward,
            },
        )


@dataclasses.dataclass(frozen=True)
class LocalizationScores(TemporalMap, Scores):
    """The mean average precision of a test set.

    Attributes:
      detections: of each video, as JSON has them.
      cost: numbers of windows and clips, and seconds.
    """

    detections: dict[str, list[dict[str, Any]]]
    cost: dict[str, Any]

    def numbers(self) -> dict[str, float]:
        """`average`, and the mean over the classes at each threshold."""
        pairs = zip(self.thresholds, self.per_threshold, strict=True)
        return {"average": self.average, **{f"mAP@{t:g}": float(v) for t, v in pairs}}

    def to_json(self) -> dict[str, Any]:
        """The metric and the cost."""
        return {**super().to_json(), "cost": self.cost}

    def table(self) -> str:
        """Percent by class and threshold, and two lines on the cost."""
        cost, seconds = self.cost, self.cost["seconds_per_video"]
        stages = ", ".join(f"{stage} {seconds[stage]:.3f}" for stage in STAGES)
        return (
            f"{super().table()}\nvideos: {cost['videos']}, windows: {cost['windows']}, clips"
            f" through the backbone: {cost['clips']} ({cost['clips_unshared']} without sharing)\n"
            f"seconds per video: {seconds['all']:.3f} ({stages}); forward pass of a window:"
            f" {cost['forward_seconds_per_window']:.3f}"
        )

    def write(self, path: Path) -> None:
        """Write the detections as a JSON file in ActivityNet's format."""
        write_whole(path, json.dumps(detections_file(self.detections)))
