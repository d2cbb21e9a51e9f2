"""One training step as a pure function of state, batch and key."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from squeezetime_jax.checkpoint.convert import filled
from squeezetime_jax.model.abstract import abstract_model, flat_leaves, initial_leaves
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.training.recipe import Recipe

Tree = Any
Augment = Callable[[PRNGKeyArray, UInt8[Array, "n t h w 3"], Int[Array, " n"]], tuple[Array, Array]]
Metrics = dict[str, Array]

METRICS = ("loss", "top1", "learning_rate", "grad_norm")
"""What a step tells, in the order in which it is read."""

# Names of what is random in a step; each has its own stream of keys.
_AUGMENT, _MIX, _DROPOUT = range(3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: steps done, int32.
      params: weights, as nested dictionaries of arrays.
      batch_stats: running statistics of batch norm, likewise.
      opt_state: the optimiser's momenta and count.
      ema: running average of `params` and `batch_stats`; empty where the recipe has none.
    """

    step: Any  # an array, or whatever JAX maps a tree of arrays to
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: dict[str, Tree]


class Network:
    """The network as pure functions of plain trees.

    The module's structure is taken apart once, here; inside a step it exists only while the step is
    being traced.
    """

    def __init__(self, config: SqueezeTimeConfig):
        self.config = config
        model = abstract_model(config)
        self._in_training = _parts(nnx.view(model, deterministic=False, use_running_average=False))
        self._at_rest = _parts(nnx.view(model, deterministic=True, use_running_average=True))

    def init(self, seed: int) -> tuple[Tree, Tree]:
        """Fresh weights and statistics."""
        paths = list(flat_leaves(abstract_model(self.config)))
        model = filled(abstract_model(self.config), initial_leaves(self.config, paths, seed))
        return self.split(model)

    def abstract(self) -> tuple[Tree, Tree]:
        """Weights and statistics as shapes."""
        return self.split(abstract_model(self.config))

    def split(self, model: SqueezeTime) -> tuple[Tree, Tree]:
        """A model's weights and statistics, as plain trees."""
        _, params, stats, *_ = nnx.split(model, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def merge(self, params: Tree, batch_stats: Tree) -> SqueezeTime:
        """A model in evaluation mode with these weights and statistics."""
        return self._merge(self._at_rest, params, batch_stats)

    def train(
        self, params: Tree, batch_stats: Tree, clips: Array, key: PRNGKeyArray
    ) -> tuple[Float[Array, "n classes"], Tree]:
        """Logits in training mode, and the statistics moved by these clips."""
        model = self._merge(self._in_training, params, batch_stats)
        logits = model(clips, rngs=key)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    @staticmethod
    def _merge(parts: tuple, params: Tree, batch_stats: Tree) -> SqueezeTime:
        graph, *states = jax.tree.map(lambda x: x, parts)  # a copy: the values are put in place
        for state, values in zip(states, (params, batch_stats), strict=False):
            nnx.replace_by_pure_dict(state, values)
        return nnx.merge(graph, *states, copy=True)


def _parts(model: SqueezeTime) -> tuple:
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    return graph, *states


def init_state(
    params: Tree, batch_stats: Tree, optimizer: optax.GradientTransformation, recipe: Recipe
) -> TrainState:
    """The state before the first step."""
    ema = {"params": params, "batch_stats": batch_stats} if recipe.ema else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # A donated state must not hold the same array twice.
        ema=jax.tree.map(jnp.copy, ema),
    )


def averaged(state: TrainState) -> tuple[Tree, Tree]:
    """The weights and statistics to evaluate: the running average where there is one."""
    if state.ema:
        return state.ema["params"], state.ema["batch_stats"]
    return state.params, state.batch_stats


def train_step(
    state: TrainState,
    batch: Mapping[str, Array],
    key: PRNGKeyArray,
    *,
    network: Network,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    recipe: Recipe,
    augment: Augment,
) -> tuple[TrainState, Metrics]:
    """One step of SGD.

    Args:
      state: where the run stands.
      batch: `clips`, uint8 (n, t, h, w, 3), and `labels`, int (n,).
      key: the run's key. What a step draws depends on it and on the step's number alone.
      network: what is trained.
      optimizer: gradient to update.
      schedule: the learning rate to report.
      recipe: label smoothing, mixing, accumulation, averaging.
      augment: videos to normalised clips; may change labels (a flip turns left into right).

    Returns:
      The state after the step, and the scalars `METRICS`: `loss` (mean over the batch), `top1`
      (share of the batch whose own label scores highest), `learning_rate`, `grad_norm` (before
      clipping).
    """
    key = jax.random.fold_in(key, state.step)
    clips, labels = augment(jax.random.fold_in(key, _AUGMENT), batch["clips"], batch["labels"])
    targets = jax.nn.one_hot(labels, network.config.num_classes, dtype=clips.dtype)
    if recipe.mixup or recipe.cutmix:
        group = network.config.bn_group_size
        clips, targets = mix(jax.random.fold_in(key, _MIX), clips, targets, recipe, group)
    if recipe.label_smoothing:
        targets = optax.smooth_labels(targets, recipe.label_smoothing)

    (loss, (top1, batch_stats)), gradient = _gradient(
        network, state, clips, targets, labels, jax.random.fold_in(key, _DROPOUT), recipe
    )
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema:
        now = {"params": params, "batch_stats": batch_stats}
        ema = optax.incremental_update(now, ema, 1 - recipe.ema)
    metrics = {
        "loss": loss,
        "top1": top1,
        "grad_norm": optax.tree.norm(gradient),
        "learning_rate": schedule(state.step),
    }
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def _gradient(
    network: Network,
    state: TrainState,
    clips: Array,
    targets: Array,
    labels: Array,
    key: PRNGKeyArray,
    recipe: Recipe,
) -> tuple[tuple[Array, tuple[Array, Tree]], Tree]:
    """Loss, top-1 share, moved statistics and gradient: means over the parts of the batch.

    Every part starts from the same statistics and holds whole groups of batch norm, so that the
    mean over parts is what the batch gives in one piece.
    """

    def loss(params: Tree, clips: Array, targets: Array, labels: Array, key: PRNGKeyArray) -> Any:
        logits, batch_stats = network.train(params, state.batch_stats, clips, key)
        losses = optax.softmax_cross_entropy(logits, targets)
        top1 = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=losses.dtype)
        return jnp.mean(losses), (top1, batch_stats)

    part = jax.value_and_grad(loss, has_aux=True)
    count = recipe.accumulation
    if count == 1:
        return part(state.params, clips, targets, labels, key)

    group = network.config.bn_group_size or clips.shape[0] // count

    def add(total: Tree, inputs: tuple[Array, ...]) -> tuple[Tree, None]:
        index, *arrays = inputs
        result = part(state.params, *arrays, jax.random.fold_in(key, index))
        return jax.tree.map(lambda a, b: a + b / count, total, result), None

    arrays = [_deal(x, count, group) for x in (clips, targets, labels)]
    shapes = jax.eval_shape(part, state.params, *(x[0] for x in arrays), key)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, (jnp.arange(count), *arrays))
    return total


def _deal(x: Array, parts: int, group: int) -> Array:
    """Deal the groups of a batch out to the parts in turn: (n, ...) -> (parts, n / parts, ...).

    Dealt in turn, every device's own groups go to every part and nothing moves between devices.
    """
    dealt = x.reshape(-1, parts, group, *x.shape[1:]).swapaxes(0, 1)
    return dealt.reshape(parts, -1, *x.shape[1:])


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
