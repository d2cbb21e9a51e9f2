"""The task of recognition: a clip to the class of its video."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.report import UnaccountedWeights
from squeezetime_jax.checkpoint.store import (
    Meta,
    load,
    read_config,
    read_input,
    read_labels,
)
from squeezetime_jax.data import classes
from squeezetime_jax.data.augment import augment
from squeezetime_jax.data.sources import Source
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.labels import network_classes
from squeezetime_jax.evaluation.views import Sampling, Scorer
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.peers import registry
from squeezetime_jax.tasks.recognition import experiment as sections
from squeezetime_jax.tasks.recognition.scores import TestVideos
from squeezetime_jax.tasks.recognition.videos import (
    MOTION,
    TrainingVideos,
    check_paths,
    match_test,
    open_test,
    open_train,
)
from squeezetime_jax.training import config, devices
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.recipe import Recipe
from squeezetime_jax.training.task import Batch, Metrics, Task

# Each use of random numbers in the preparation of a batch has its own stream of keys.
_AUGMENT, _MIX = range(2)


class Recognition(Task):
    """Cross-entropy of a clip's logits.

    A batch is `clips`, uint8 (n, t, h, w, 3), and `labels`, int32 (n,). `top1` is the share of the
    batch whose label has the highest logit.
    """

    experiment_type = sections.Recognition
    metric = "top1"
    published = "top1"

    def __init__(self, experiment: sections.Recognition, folder: Path = Path()):
        super().__init__(experiment, folder)
        module = registry.abstract(experiment.model)
        self.network = Network(module)
        self._has_auxiliary = hasattr(module, "with_auxiliary")
        self.bn_group_size = experiment.model.bn_group_size

    @classmethod
    def fill_in(cls, fields: ConfigDict, folder: Path) -> None:
        """Number of classes, epochs and batch size where a config leaves them to the data as 0."""
        if fields.model.num_classes and fields.epochs and fields.batch_size:
            return
        data = config.parse_section(fields, "data")
        train, test = open_train(data, folder / "videos"), open_test(data, folder / "videos")
        num_classes = train.num_classes
        if test and not train.class_names:  # otherwise, a class of the test videos alone is refused
            num_classes = max(num_classes, test.num_classes)
        fill_in(fields, len(train), num_classes)

    @classmethod
    def follow(cls, fields: ConfigDict, init: str) -> None:
        """The network, frame interval and sizes of the weights; not their classes."""
        if not init or not epath.Path(init).exists():
            return
        network = read_config(init)
        expected = read_input(init, network)
        kept = {name: fields.model[name] for name in ("num_classes", "dtype", "bn_group_size")}
        config.set_network(fields, network)
        fields.model.update(kept)
        sampling = Sampling.of_input(expected)
        fields.data.frame_interval = sampling.frame_interval or 0
        fields.data.target_fps = sampling.fps or 0.0
        fields.data.short_side = sampling.one_crop_side
        fields.data.crop_size = min(expected.train_side, sampling.one_crop_side)
        fields.evaluation.short_side = sampling.one_crop_side
        fields.evaluation.crop_size = sampling.crop_size

    @classmethod
    def load(cls, checkpoint: str, fields: ConfigDict) -> nnx.Module:
        """The network; `fields.model` describes it."""
        model = load(checkpoint)
        config.set_network(fields, model.config)
        return model

    @functools.cached_property
    def _train(self) -> Source:
        return open_train(self.experiment.data, self.folder / "videos")

    def training_set(self) -> TrainingVideos:
        """Random clips of the training videos."""
        return TrainingVideos(self._train, self.experiment)

    def test_set(self, checkpoint: str | None = None) -> TestVideos | None:
        """The test videos' views."""
        experiment: sections.Recognition = self.experiment
        data = experiment.data
        source = open_test(data, self.folder / "videos")
        if source is None:
            return None
        num_classes, names = experiment.model.num_classes, None
        if checkpoint is not None:
            labels = data.labels or None
            names, owner = network_classes(num_classes, labels=labels, checkpoint=checkpoint)
        else:
            names, owner = list(self._train.class_names) or None, data.train
        if not experiment.evaluation.skip_unreadable:
            check_paths(source, data.test or MOTION)
        source = match_test(source, names, place=data.test or MOTION, owner=owner, say=_say)
        return TestVideos(
            source,
            experiment.views(),
            num_classes,
            batch_size=experiment.evaluation.batch_size,
            class_names=names,
        )

    def lower_evaluation(self, mesh: Mesh) -> dict[str, jax.stages.Lowered]:
        """The scores of a batch of videos."""
        # Folding needs values; which ones does not change the program.
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.network.abstract())
        model = self.network.merge(*zeros)
        views, videos = self.experiment.views(), self.experiment.evaluation.batch_size
        n, side = -(-videos // mesh.size) * mesh.size, views.crop_size
        scorer = Scorer(model, mesh, lambda tree: devices.shapes_everywhere(tree, mesh))
        shape = (n, views.num_views, views.num_frames, side, side, 3)
        return {"scores of videos": scorer.lower(shape)}

    def meta(self, labels: list[str] | None) -> Meta:
        """The network's configuration, the class names, and what it expects of its input."""
        return Meta(self.experiment.model, labels, input=self.experiment.expected_input())

    def init(self) -> tuple[Tree, Tree]:
        """The weights of `init`, adapted to this network and its classes, or drawn."""
        model: NetworkConfig = self.experiment.model
        drawn = nnx.Rngs(self.experiment.seed)
        if not self.experiment.init:
            return self.network.split(registry.build(model, drawn))
        loaded = load_for(self.experiment.init, model)
        theirs, mine = read_labels(self.experiment.init), list(self._train.class_names)
        if theirs and mine and len(theirs) == len(mine) == model.num_classes:
            match_head(loaded, theirs, mine, draw=lambda: registry.build(model, drawn))
        return self.network.split(loaded)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """`clips` and `labels`."""
        n, side = self.experiment.batch_size, self.experiment.data.crop_size
        clip = (self.experiment.model.num_frames, side, side, 3)
        return {
            "clips": jax.ShapeDtypeStruct((n, *clip), jnp.uint8),
            "labels": jax.ShapeDtypeStruct((n,), jnp.int32),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch, rows: Int[Array, "n"]) -> Batch:
        """Augmented, normalised `clips`, `labels` (a flip may change them), and soft `targets`."""
        model, recipe = self.experiment.model, self.experiment.optimizer
        expected = registry.entry_of(model).input
        clips, labels = augment(
            jax.random.fold_in(key, _AUGMENT),
            batch["clips"],
            batch["labels"],
            augmentation=self.experiment.augmentation,
            dtype=model.param_dtype,
            rows=rows,
            mean=expected.mean,
            std=expected.std,
        )
        targets = jax.nn.one_hot(labels, model.num_classes, dtype=clips.dtype)
        if recipe.mixup or recipe.cutmix:
            key = jax.random.fold_in(key, _MIX)
            clips, targets = mix(key, clips, targets, recipe, model.bn_group_size)
        if recipe.label_smoothing:
            targets = optax.smooth_labels(targets, recipe.label_smoothing)
        return {"clips": clips, "labels": labels, "targets": targets}

    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """Mean cross-entropy; plus the weighted ones of auxiliary heads, where there are any."""
        run = functools.partial(self.network.forward, params, batch_stats, batch["clips"], key=key)
        auxiliary: list[tuple[float, Array]] = []
        try:
            if self._has_auxiliary:
                (logits, auxiliary), batch_stats = run(method="with_auxiliary")
            else:
                logits, batch_stats = run()
        except ValueError as error:  # clips of a size that the network does not take
            raise UserError(f"config: {error}") from None
        loss, *others = (
            jnp.mean(optax.softmax_cross_entropy(each, batch["targets"]))
            for each in (logits, *(each for _, each in auxiliary))
        )
        loss += sum(weight * other for (weight, _), other in zip(auxiliary, others, strict=True))
        top1 = jnp.mean(jnp.argmax(logits, -1) == batch["labels"], dtype=loss.dtype)
        return loss, ({"top1": top1}, batch_stats)


TASK = Recognition


def _say(text: str) -> None:
    if hosts.is_main():
        print(text, file=sys.stderr, flush=True)


def load_for(init: str, model: NetworkConfig) -> Any:
    """Weights to start from, adapted to a network.

    Raises:
      UserError: they are of a network of another kind or size.
    """
    try:
        return load(init, **dataclasses.asdict(model))
    except UnaccountedWeights as error:
        raise UserError(
            f"config: init: the weights are not of the network that model describes: {error.found};"
            " set the fields of model to those of the weights (`squeezetime convert` prints them),"
            " or allow what does not fit with `squeezetime convert --allow PATTERN` and start from"
            " what it writes"
        ) from None


def match_head(
    model: Any, theirs: Sequence[str], mine: Sequence[str], draw: Callable[[], Any]
) -> None:
    """Give the outputs of a classifier the order of the training videos' classes, by name.

    A classifier of other classes is drawn anew, although it has as many outputs.

    Args:
      model: the network; changed in place.
      theirs: the classes of its outputs.
      mine: the classes of the training videos, as many.
      draw: makes a new network of the same configuration.
    """
    order = classes.order(theirs, mine)
    if order == list(range(len(mine))):
        return
    new = None if order else flat_leaves(draw())
    for path, leaf in flat_leaves(model).items():
        if path.startswith("head.") and leaf.shape[-1] == len(mine):
            leaf[...] = jnp.take(leaf[...], jnp.array(order), -1) if new is None else new[path][...]


def fill_in(fields: ConfigDict, num_videos: int, num_classes: int) -> None:
    """Set the number of classes, epochs and batch size that a config leaves to the data as 0.

    Args:
      fields: changed in place.
      num_videos: training videos.
      num_classes: their classes.
    """
    if not fields.model.num_classes:
        fields.model.num_classes = num_classes
    if not fields.batch_size:
        # At least 20 steps in an epoch, so that the schedule is smooth.
        fields.batch_size = max((n for n in (64, 32, 16, 8) if 20 * n <= num_videos), default=8)
        fields.batch_size = min(fields.batch_size, num_videos)
    if not fields.epochs:
        # About 60 000 clips, a third of 50 epochs of HMDB51's 3570 videos.
        fields.epochs = min(max(round(60_000 / num_videos), 10), 100)


def mix(
    key: PRNGKeyArray,
    clips: Float[Array, "n t h w 3"],
    targets: Float[Array, "n classes"],
    recipe: Recipe,
    group_size: int | None,
) -> tuple[Float[Array, "n t h w 3"], Float[Array, "n classes"]]:
    """Blend each clip with a partner from its batch-norm group: the first with the last, and so on.

    One draw for the batch: mixup (arXiv 1710.09412) adds the partner with weight 1 - l; cutmix
    (arXiv 1905.04899) pastes a rectangle of the partner, the same one in all frames, whose area is
    1 - l of the frame before it is cut at the borders; l from Beta(alpha, alpha). Targets are mixed
    by the visible share of each clip. Partners share a group so that no clip changes devices.
    """
    choice_key, share_key, place_key = jax.random.split(key, 3)
    both = bool(recipe.mixup and recipe.cutmix)
    cuts = jax.random.bernoulli(choice_key) if both else jnp.asarray(bool(recipe.cutmix))
    alpha = jnp.where(cuts, recipe.cutmix or 1.0, recipe.mixup or 1.0)
    share = jax.random.beta(share_key, alpha, alpha, dtype=clips.dtype)

    height, width = clips.shape[2:4]
    inside = _rectangle(place_key, height, width, jnp.sqrt(1 - share))
    weight = jnp.where(cuts, 1 - inside, share).astype(clips.dtype)  # of the clip itself
    visible = jnp.mean(weight)
    weight = weight[:, :, None]
    mixed = weight * clips + (1 - weight) * _partners(clips, group_size)
    return mixed, visible * targets + (1 - visible) * _partners(targets, group_size)


def _partners(x: Array, group_size: int | None) -> Array:
    group = min(group_size or x.shape[0], x.shape[0])
    return x.reshape(-1, group, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _rectangle(key: PRNGKeyArray, height: int, width: int, side: Array) -> Float[Array, "h w"]:
    """1 inside a rectangle of `side` times the frame's sides around a uniform point, else 0."""
    y, x = jax.random.uniform(key, (2,)) * jnp.array([height, width])
    rows = jnp.abs(jnp.arange(height) + 0.5 - y) < side * height / 2
    columns = jnp.abs(jnp.arange(width) + 0.5 - x) < side * width / 2
    return (rows[:, None] & columns).astype(float)
