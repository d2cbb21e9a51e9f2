"""The task of localisation: a window to the segments in it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from squeezetime_jax.checkpoint.store import Meta, load
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.tasks.localization import losses
from squeezetime_jax.tasks.localization.config import TASK, Experiment
from squeezetime_jax.tasks.localization.model import Localizer, abstract_localizer, normalise_frames
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.task import Batch, Metrics, Task


class Localization(Task):
    """One minus the overlap of found with true segments, and the focal loss of their classes.

    A batch is `frames`, uint8 (n, t, side, side, 3); `num_frames`, int32 (n,), those of them that
    are the video's; `segments`, float32 (n, gt, 2), and `classes`, int32 (n, gt), 0 where there is
    no instance.

    Args:
      experiment: the run.
    """

    score = "average"

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        model = abstract_localizer(experiment.model, experiment.window, experiment.head)
        keeps = experiment.freeze.norm != "nothing" or experiment.freeze.backbone
        self.network = Network(model, freeze_norm=keeps)
        self.bn_group_size = None if keeps else experiment.model.bn_group_size
        self._norms = {
            tuple(map(str, path))
            for path, module in nnx.iter_modules(model)
            if isinstance(module, BatchNorm)
        }
        lengths = experiment.head.level_lengths(experiment.window.num_clips)
        self._priors = losses.priors(lengths, experiment.window.num_frames)

    def meta(self, labels: list[str] | None) -> Meta:
        """The backbone's configuration, the class names, and what else inference needs."""
        sections = ("window", "head", "inference")
        settings = {name: dataclasses.asdict(getattr(self._experiment, name)) for name in sections}
        return Meta(self._experiment.model, labels, TASK, settings)

    def init(self) -> tuple[Tree, Tree]:
        """A new head on the weights of `init`, or on fresh ones."""
        experiment = self._experiment
        config = experiment.model
        model = Localizer(config, experiment.window, experiment.head, nnx.Rngs(experiment.seed))
        if experiment.init:
            backbone = load(experiment.init, **dataclasses.asdict(config))
            del backbone.head
            nnx.update(model.backbone, nnx.state(backbone))
        return self.network.split(model)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Frames with a border to crop from, and instances."""
        window, n = self._experiment.window, self._experiment.batch_size
        side, most = window.stored_side, self._experiment.data.max_instances
        return {
            "frames": jax.ShapeDtypeStruct((n, window.num_frames, side, side, 3), jnp.uint8),
            "num_frames": jax.ShapeDtypeStruct((n,), jnp.int32),
            "segments": jax.ShapeDtypeStruct((n, most, 2), jnp.float32),
            "classes": jax.ShapeDtypeStruct((n, most), jnp.int32),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """Crop and mirror each window as a whole, then normalise."""
        window, data = self._experiment.window, self._experiment.data
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(batch["frames"])))
        border = window.stored_side - window.crop_side

        def crop(
            key: PRNGKeyArray, frames: UInt8[Array, "t h w 3"]
        ) -> UInt8[Array, "t side side 3"]:
            corner_key, flip_key = jax.random.split(key)
            corner = jax.random.randint(corner_key, (2,), 0, border + 1)
            if not data.random_crop:
                corner = jnp.full((2,), round(border / 2))
            side = window.crop_side
            cut = jax.lax.dynamic_slice(
                frames, (0, corner[0], corner[1], 0), (len(frames), side, side, 3)
            )
            return jnp.where(jax.random.bernoulli(flip_key, data.flip), cut[:, :, ::-1], cut)

        frames = jax.vmap(crop)(keys, batch["frames"])
        windows = normalise_frames(frames, window, self._experiment.model.param_dtype)
        if window.short_padding == "grey":
            lengths = batch["num_frames"][:, None, None, None, None]
            numbers = jnp.arange(window.num_frames)[:, None, None, None]
            windows = jnp.where(numbers < lengths, windows, 0.0)
        return {**batch, "frames": windows}

    def trains(self, path: Sequence[str]) -> bool:
        """Everything but what the experiment freezes."""
        freeze = self._experiment.freeze
        if path[0] == "backbone":
            is_norm = tuple(path[:-1]) in self._norms
            return not freeze.backbone and not (freeze.norm == "all" and is_norm)
        return True

    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Sums over the priors of all windows, divided by the positive ones of the whole batch."""
        params = jax.tree_util.tree_map_with_path(self._stopped, params)
        outputs, batch_stats = self.network.train(params, batch_stats, batch["frames"], key=key)
        total, parts = localization_loss(
            outputs, batch["segments"], batch["classes"], self._priors, self._experiment
        )
        return total, (parts, batch_stats)

    def _stopped(self, path: tuple, leaf: Any) -> Any:
        """The weight, without a gradient where it is not trained."""
        names = [str(getattr(key, "key", key)) for key in path]
        return leaf if self.trains(names) else jax.lax.stop_gradient(leaf)


def localization_loss(
    outputs: dict[str, Array],
    segments: Float[Array, "n gt 2"],
    classes: Any,
    priors: Any,
    experiment: Experiment,
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the losses, and each of them.

    Args:
      outputs: of the localiser.
      segments: true ones, in frames of the window.
      classes: their ids, 0 where there is none.
      priors: in frames.
      experiment: the weights, and the window's length.
    """
    weights = experiment.loss
    points = jnp.asarray(priors, outputs["distances"].dtype)
    targets = losses.assign(points, segments, classes, experiment.window.num_frames)
    count = jnp.maximum(targets.is_positive.sum(), 1)
    parts = {
        "location": losses.location_loss(outputs["distances"], targets).sum() / count,
        "classification": losses.focal_loss(outputs["logits"], targets.labels).sum() / count,
    }
    if "quality" in outputs:
        rated = losses.quality_loss(outputs["quality"], outputs["distances"], targets)
        parts["quality"] = rated.sum() / count
    total = sum(getattr(weights, name) * part for name, part in parts.items())
    return total, parts
