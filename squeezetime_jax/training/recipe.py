"""How the weights are trained: learning-rate schedule, optimiser, options of the loss.

The arithmetic is that of the reference's PyTorch and mmengine, so that a published recipe gives the
published curve: decay is coupled (added to the clipped gradient, on every parameter), the momentum
buffer holds gradients and not steps, and schedules change every step.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from squeezetime_jax.errors import UserError, check_fields

# The module that holds the classifier; every other parameter belongs to the backbone.
HEAD = "head"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the weights are trained, apart from epochs and batch size.

    Attributes:
      learning_rate: peak learning rate for a batch of `base_batch_size` clips.
      base_batch_size: the batch size of `learning_rate`; another one scales it linearly. 0: no
        scaling.
      schedule: after the warm-up, "cosine" per step, or "steps" at `milestones`.
      warmup_epochs: epochs of linear increase from `warmup_factor` times the peak.
      warmup_factor: first learning rate of the warm-up, as a share of the peak.
      final_learning_rate: the cosine's last learning rate. It does not scale with the batch
        (mmengine scales the peak alone).
      milestones: epochs after which the learning rate is multiplied by `step_factor`.
      step_factor: see `milestones`.
      method: "sgd", or "adam" with the decay still coupled (PyTorch's Adam, not AdamW).
      momentum: of SGD, not Nesterov's.
      betas: decays of Adam's running mean and mean square.
      weight_decay: coupled, on every trained parameter.
      clip_norm: largest global norm of the gradient, applied before the decay. 0: no clipping.
      backbone_multiplier: factor on the learning rate of everything but the classifier.
      label_smoothing: share of the target that is spread over all classes.
      mixup: alpha of the Beta distribution that clips are blended with. 0: off.
      cutmix: alpha of the Beta distribution of the pasted area. 0: off. With both on, one of them
        is drawn for each step.
      ema: decay per step of the running average of weights and statistics, which is then
        evaluated. 0: off.
      accumulation: parts that a batch is computed in to save memory. The update is the same.
    """

    learning_rate: float = 0.015
    base_batch_size: int = 64
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.1
    final_learning_rate: float = 0.0
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    method: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 7e-5
    clip_norm: float = 40.0
    backbone_multiplier: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    accumulation: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        object.__setattr__(self, "betas", tuple(self.betas))
        check_fields(self, *self._checks())

    def _checks(self) -> list[tuple[str, bool, str]]:
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        return [
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("base_batch_size", self.base_batch_size >= 0, "at least 0"),
            ("schedule", self.schedule in ("cosine", "steps"), "'cosine' or 'steps'"),
            ("warmup_epochs", self.warmup_epochs >= 0, "at least 0"),
            ("warmup_factor", 0 <= self.warmup_factor <= 1, "in [0, 1]"),
            ("final_learning_rate", self.final_learning_rate >= 0, "at least 0"),
            ("milestones", rising, "epochs in ascending order"),
            ("step_factor", self.step_factor > 0, "above 0"),
            ("method", self.method in ("sgd", "adam"), "'sgd' or 'adam'"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip_norm", self.clip_norm >= 0, "at least 0"),
            ("backbone_multiplier", self.backbone_multiplier >= 0, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
            ("ema", 0 <= self.ema < 1, "in [0, 1)"),
            ("accumulation", self.accumulation >= 1, "at least 1"),
        ]

    def peak_learning_rate(self, batch_size: int) -> float:
        """The learning rate at the top of the schedule for a batch of `batch_size` clips."""
        scale = batch_size / self.base_batch_size if self.base_batch_size else 1.0
        return self.learning_rate * scale


def learning_rate_schedule(
    recipe: Recipe, *, batch_size: int, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    As in mmengine: the first of W warm-up steps has `warmup_factor` times the peak and the last,
    W-1, the peak itself; the cosine starts at step W, again with the peak, and would reach
    `final_learning_rate` at the step after the last.

    Args:
      recipe: the schedule's fields.
      batch_size: clips in a global batch.
      epochs: length of the run.
      steps_per_epoch: batches in an epoch.

    Returns:
      A function of the step (an integer, traced or not) to the learning rate.
    """
    peak = recipe.peak_learning_rate(batch_size)
    total = epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)

    def rise(step: Any) -> Any:
        share = step / max(warmup - 1, 1)
        return peak * (recipe.warmup_factor + (1 - recipe.warmup_factor) * share)

    def cosine(step: Any) -> Any:
        angle = math.pi * (step - warmup) / max(total - warmup, 1)
        low = recipe.final_learning_rate
        return low + (peak - low) * 0.5 * (1 + jnp.cos(angle))

    def steps(step: Any) -> Any:
        passed = sum(jnp.where(step >= m * steps_per_epoch, 1, 0) for m in recipe.milestones)
        return peak * recipe.step_factor ** jnp.asarray(passed, dtype=float)

    after = cosine if recipe.schedule == "cosine" else steps
    return lambda step: jnp.where(step < warmup, rise(step), after(step))


def optimizer(
    recipe: Recipe,
    schedule: optax.Schedule,
    trains: Callable[[Sequence[str]], bool] = lambda path: True,
) -> optax.GradientTransformation:
    """SGD or Adam as PyTorch does it: clip, add the decay, accumulate, scale by the rate.

    Args:
      recipe: the optimiser's fields.
      schedule: the learning rate of each step.
      trains: whether the parameter at a path is trained; any other keeps its value, and its
        gradient is ignored.
    """

    def frozen(params: Any) -> Any:
        return _mask(params, lambda path: not trains(path))

    freeze = optax.masked(optax.set_to_zero(), frozen)
    links = [freeze]
    if recipe.clip_norm:
        links.append(optax.clip_by_global_norm(recipe.clip_norm))
    links.append(optax.add_decayed_weights(recipe.weight_decay))
    if recipe.method == "adam":
        links.append(optax.scale_by_adam(*recipe.betas, eps=1e-8))
    else:
        links.append(optax.trace(decay=recipe.momentum))
    if recipe.backbone_multiplier != 1.0:
        links.append(optax.masked(optax.scale(recipe.backbone_multiplier), backbone_mask))
    links += [optax.scale_by_learning_rate(schedule), freeze]
    return optax.chain(*links)


def backbone_mask(params: Any) -> Any:
    """A tree like `params`: whether each leaf is outside the classifier."""
    return _mask(params, lambda path: path[0] != HEAD)


def _mask(params: Any, chosen: Callable[[Sequence[str]], bool]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: chosen([str(getattr(key, "key", key)) for key in path]), params
    )


def check_batch(recipe: Recipe, batch_size: int, bn_group_size: int | None) -> None:
    """Refuse a batch that batch norm's groups or the accumulation do not divide evenly.

    Raises:
      UserError: naming the field to change.
    """
    part = batch_size // recipe.accumulation
    if batch_size % recipe.accumulation:
        raise UserError(
            f"optimizer.accumulation must divide batch_size {batch_size}, got {recipe.accumulation}"
        )
    group = bn_group_size or batch_size
    if part % group and not (recipe.accumulation == 1 and batch_size < group):
        raise UserError(
            f"batch_size {batch_size} in {recipe.accumulation} part{'s'[: recipe.accumulation > 1]}"
            f" has {part} clips in each, which is not a multiple of model.bn_group_size = {group};"
            " choose another batch_size or model.bn_group_size"
        )
