"""The task of recognition: a clip to the class of its video."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from squeezetime_jax.checkpoint.store import Meta, load
from squeezetime_jax.data.augment import augment
from squeezetime_jax.model.abstract import abstract_model
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.training.network import Network, Tree
from squeezetime_jax.training.plan import Experiment
from squeezetime_jax.training.recipe import Recipe
from squeezetime_jax.training.task import Batch, Metrics, Task

# Names of what is random in a batch's preparation; each has its own stream of keys.
_AUGMENT, _MIX = range(2)


class Recognition(Task):
    """Cross-entropy of a clip's logits.

    A batch is `clips`, uint8 (n, t, h, w, 3), and `labels`, int32 (n,). Beside the loss, `top1` is
    the share of the batch whose own label scores highest.

    Args:
      experiment: the run.
    """

    score = "top1"

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.network = Network(abstract_model(experiment.model))
        self.bn_group_size = experiment.model.bn_group_size

    def meta(self, labels: list[str] | None) -> Meta:
        """The network's configuration and the class names."""
        return Meta(self._experiment.model, labels)

    def init(self) -> tuple[Tree, Tree]:
        """The weights of `init`, adapted to this network, or fresh ones."""
        config = self._experiment.model
        if self._experiment.init:
            return self.network.split(load(self._experiment.init, **dataclasses.asdict(config)))
        return self.network.split(SqueezeTime(config, nnx.Rngs(self._experiment.seed)))

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """`clips` and `labels`."""
        n, side = self._experiment.batch_size, self._experiment.data.crop_size
        clip = (self._experiment.model.num_frames, side, side, 3)
        return {
            "clips": jax.ShapeDtypeStruct((n, *clip), jnp.uint8),
            "labels": jax.ShapeDtypeStruct((n,), jnp.int32),
        }

    def prepare(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """Normalised, augmented clips, their labels (a flip may change them), and soft targets."""
        model, recipe = self._experiment.model, self._experiment.optimizer
        clips, labels = augment(
            jax.random.fold_in(key, _AUGMENT),
            batch["clips"],
            batch["labels"],
            augmentation=self._experiment.augmentation,
            dtype=model.param_dtype,
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
        """Mean cross-entropy."""
        logits, batch_stats = self.network.train(params, batch_stats, batch["clips"], key=key)
        losses = optax.softmax_cross_entropy(logits, batch["targets"])
        top1 = jnp.mean(jnp.argmax(logits, -1) == batch["labels"], dtype=losses.dtype)
        return jnp.mean(losses), ({"top1": top1}, batch_stats)


def mix(
    key: PRNGKeyArray,
    clips: Float[Array, "n t h w 3"],
    targets: Float[Array, "n classes"],
    recipe: Recipe,
    group_size: int | None,
) -> tuple[Float[Array, "n t h w 3"], Float[Array, "n classes"]]:
    """Blend each clip with its mirror image in the order of its batch-norm group.

    One draw for the batch: mixup (arXiv 1710.09412) adds the partner with weight 1 - l; cutmix
    (arXiv 1905.04899) pastes a rectangle of the partner, the same one in all frames, whose area is
    1 - l of the frame before it is cut at the borders; l from Beta(alpha, alpha). Targets are mixed
    by what can be seen of each clip. Partners share a group so that no clip changes devices.
    """
    choice_key, share_key, place_key = jax.random.split(key, 3)
    both = bool(recipe.mixup and recipe.cutmix)
    cuts = jax.random.bernoulli(choice_key) if both else jnp.asarray(bool(recipe.cutmix))
    alpha = jnp.where(cuts, recipe.cutmix or 1.0, recipe.mixup or 1.0)
    share = jax.random.beta(share_key, alpha, alpha, dtype=clips.dtype)

    height, width = clips.shape[2:4]
    inside = _rectangle(place_key, height, width, jnp.sqrt(1 - share))
    weight = jnp.where(cuts, 1 - inside, share).astype(clips.dtype)  # of the clip itself
    seen = jnp.mean(weight)
    weight = weight[:, :, None]
    mixed = weight * clips + (1 - weight) * _partners(clips, group_size)
    return mixed, seen * targets + (1 - seen) * _partners(targets, group_size)


def _partners(x: Array, group_size: int | None) -> Array:
    group = min(group_size or x.shape[0], x.shape[0])
    return x.reshape(-1, group, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _rectangle(key: PRNGKeyArray, height: int, width: int, side: Array) -> Float[Array, "h w"]:
    """1 inside a rectangle of `side` times the frame's sides around a uniform point, else 0."""
    y, x = jax.random.uniform(key, (2,)) * jnp.array([height, width])
    rows = jnp.abs(jnp.arange(height) + 0.5 - y) < side * height / 2
    columns = jnp.abs(jnp.arange(width) + 0.5 - x) < side * width / 2
    return (rows[:, None] & columns).astype(float)
