"""One training step: a pure function of state, batch and key, and its program on a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from squeezetime_jax import hosts
from squeezetime_jax.training import devices
from squeezetime_jax.training.network import Tree
from squeezetime_jax.training.recipe import Recipe, learning_rate_schedule
from squeezetime_jax.training.recipe import optimizer as make_optimizer
from squeezetime_jax.training.task import Batch, Metrics, Task

# Each use of random numbers in a step has its own stream of keys.
_PREPARE, _DROPOUT = range(2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: steps done, int32.
      params: weights, as nested dictionaries of arrays.
      batch_stats: running statistics of batch norm, likewise.
      opt_state: the optimiser's momenta and count.
      ema: running average of `params` and `batch_stats`; empty if the recipe has none.
    """

    step: Any  # an array, or whatever JAX maps a tree of arrays to
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: dict[str, Tree]


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
    """The weights and statistics to evaluate: the running average if there is one."""
    if state.ema:
        return state.ema["params"], state.ema["batch_stats"]
    return state.params, state.batch_stats


def items_of(state: TrainState) -> dict[str, Any]:
    """The state as a checkpoint's items; `params` and `batch_stats` are the ones to evaluate."""
    params, batch_stats = averaged(state)
    training: dict[str, Any] = {"step": state.step, "opt_state": state.opt_state}
    if state.ema:
        training["raw"] = {"params": state.params, "batch_stats": state.batch_stats}
    return {"params": params, "batch_stats": batch_stats, "training": training}


def state_of(items: dict[str, Any]) -> TrainState:
    """The state that `items_of` gave."""
    training = items["training"]
    evaluated = {name: items[name] for name in ("params", "batch_stats")}
    raw = training.get("raw")
    return TrainState(
        step=training["step"],
        opt_state=training["opt_state"],
        ema=evaluated if raw else {},
        **(raw or evaluated),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    task: Task,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    recipe: Recipe,
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent.

    Args:
      state: before the step.
      batch: as `task.abstract_batch` says.
      key: the run's key. All random numbers of a step follow from it and the step's number.
      task: what is trained.
      optimizer: gradient to update.
      schedule: the learning rate to report.
      recipe: accumulation and averaging.

    Returns:
      The state after the step, and scalars: `loss`, the task's metrics, `learning_rate` and
      `grad_norm` (before clipping).
    """
    key = jax.random.fold_in(key, state.step)
    (loss, (metrics, batch_stats)), gradient = _gradient(
        task, state, batch, key, recipe.accumulation
    )
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema:
        now = {"params": params, "batch_stats": batch_stats}
        ema = optax.incremental_update(now, ema, 1 - recipe.ema)
    metrics = {
        "loss": loss,
        **metrics,
        "learning_rate": schedule(state.step),
        "grad_norm": optax.tree.norm(gradient),
    }
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics


def _gradient(
    task: Task, state: TrainState, batch: Batch, key: PRNGKeyArray, count: int
) -> tuple[tuple[Array, tuple[Metrics, Tree]], Tree]:
    """Loss, metrics, updated statistics and gradient: means over `count` parts of the batch.

    Every part starts from the same statistics and holds whole groups of batch norm, so that the
    mean over parts equals the result of the batch in one piece. It is prepared when its turn comes:
    the rest of the batch is held as bytes.
    """
    prepare_key, dropout_key = (jax.random.fold_in(key, use) for use in (_PREPARE, _DROPOUT))

    def loss(params: Tree, batch: Batch, rows: Array, key: PRNGKeyArray) -> Any:
        prepared = task.prepare(prepare_key, batch, rows)
        return task.loss(params, state.batch_stats, prepared, key)

    part = jax.value_and_grad(loss, has_aux=True)
    size = jax.tree.leaves(batch)[0].shape[0]
    rows = jnp.arange(size)
    if count == 1:
        return part(state.params, batch, rows, dropout_key)

    def add(total: Tree, inputs: tuple[Array, tuple[Batch, Array]]) -> tuple[Tree, None]:
        index, (arrays, rows) = inputs
        result = part(state.params, arrays, rows, jax.random.fold_in(dropout_key, index))
        return jax.tree.map(lambda a, b: a + b / count, total, result), None

    group = task.bn_group_size or size // count
    parts = jax.tree.map(lambda x: _deal(x, count, group), (batch, rows))
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(part, state.params, *first, dropout_key)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, (jnp.arange(count), parts))
    return total


def _deal(x: Array, parts: int, group: int) -> Array:
    """Deal the groups of a batch to the parts in turn: (n, ...) -> (parts, n / parts, ...).

    In turn, because then each part has groups of every device, and no clip moves between devices.
    """
    dealt = x.reshape(-1, parts, group, *x.shape[1:]).swapaxes(0, 1)
    return dealt.reshape(parts, -1, *x.shape[1:])


class Trainer:
    """The compiled step of a task on a mesh, and the states it works on.

    Args:
      task: what is trained.
      mesh: the devices.
      steps_per_epoch: batches in one pass.
    """

    def __init__(self, task: Task, mesh: Mesh, steps_per_epoch: int):
        self.task, self.mesh, self.steps_per_epoch = task, mesh, steps_per_epoch
        self._experiment = task.experiment
        recipe = self._experiment.optimizer
        schedule = learning_rate_schedule(
            recipe,
            batch_size=self._experiment.batch_size,
            epochs=self._experiment.epochs,
            steps_per_epoch=steps_per_epoch,
        )
        self._optimizer = make_optimizer(recipe, schedule, task.trains)
        self._step = functools.partial(
            train_step, task=task, optimizer=self._optimizer, schedule=schedule, recipe=recipe
        )

    def new_state(self) -> TrainState:
        """The state before the first step."""
        state = init_state(*self.task.init(), self._optimizer, self._experiment.optimizer)
        return hosts.put_everywhere(state, self.mesh)

    def key(self) -> PRNGKeyArray:
        """The run's key, on every device."""
        return jax.jit(jax.random.key, out_shardings=devices.replicated(self.mesh))(
            self._experiment.seed
        )

    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings."""
        shapes = jax.eval_shape(
            functools.partial(
                init_state, optimizer=self._optimizer, recipe=self._experiment.optimizer
            ),
            *self.task.network.abstract(),
        )
        return devices.shapes_everywhere(shapes, self.mesh)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch as shapes with shardings."""
        split = devices.split_batch(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split)
            for name, x in self.task.abstract_batch().items()
        }

    def compile_step(self) -> jax.stages.Compiled:
        """The step, compiled ahead of time.

        The program takes these shapes, types and shardings only: with others it raises an error
        that names the argument, where a jitted function would compile again.
        """
        return self.lower_step().compile()

    def lower_step(self) -> jax.stages.Lowered:
        """The step for the compiler; the mesh may have devices that this machine lacks."""
        everywhere = devices.replicated(self.mesh)
        jitted = jax.jit(
            self._step,
            in_shardings=(everywhere, devices.split_batch(self.mesh), everywhere),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        )
        key = jax.eval_shape(jax.random.key, self._experiment.seed)
        return jitted.lower(
            self.abstract_state(),
            self.abstract_batch(),
            devices.shapes_everywhere(key, self.mesh),
        )
