"""Batch norm with PyTorch's statistics, over groups of the batch."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig

MOMENTUM = 0.9  # running = 0.9 * running + 0.1 * batch; PyTorch calls this momentum 0.1
EPSILON = 1e-5


class BatchNorm(nnx.Module):
    """Normalises each channel by the statistics of a group of samples.

    The authors train with 64 clips a GPU and each GPU normalises its own clips. Here the batch is
    cut into consecutive groups of `config.bn_group_size` samples wherever they lie, so that any
    number of devices computes the same numbers; where every device holds whole groups, nothing
    crosses devices but the average of the running statistics.

    As in PyTorch, samples are normalised by the biased variance while the unbiased one enters the
    running statistics; over several groups, the running statistics take the mean of the groups'
    updates.

    Args:
      num_features: length of the last axis.
      config: gives the dtypes and the clips of a group.
      epsilon: added to the variance.
      momentum: share of the old running statistics in the new ones; PyTorch's momentum is one
        minus this.
    """

    def __init__(
        self,
        num_features: int,
        config: NetworkConfig,
        *,
        epsilon: float = EPSILON,
        momentum: float = MOMENTUM,
    ):
        dtype = config.param_dtype
        self.scale = nnx.Param(jnp.ones(num_features, dtype))
        self.bias = nnx.Param(jnp.zeros(num_features, dtype))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, dtype))
        self.var = nnx.BatchStat(jnp.ones(num_features, dtype))
        self.group_size = config.bn_group_size
        self.dtype = config.compute_dtype
        self.epsilon, self.momentum = epsilon, momentum
        self.use_running_average = False

    def set_view(self, use_running_average: bool | None = None, **kwargs: object) -> dict:
        """Takes its mode from `nnx.view`, as Flax's own batch norm does."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        return kwargs

    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        """Normalise; in training also update the running statistics.

        Raises:
          ValueError: the batch is larger than a group and not a whole number of groups.
        """
        if self.use_running_average:
            scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
            shift = self.bias[...] - self.mean[...] * scale
            return (x * scale + shift).astype(self.dtype)

        grouped = x.reshape(self._num_groups(x.shape[0]), -1, *x.shape[1:]).astype(self.mean.dtype)
        axes = tuple(range(1, grouped.ndim - 1))
        mean = jnp.mean(grouped, axes, keepdims=True)
        var = jnp.mean(jnp.square(grouped - mean), axes, keepdims=True)
        self._update_running_statistics(mean, var, count=grouped[0, ..., 0].size)
        normed = (grouped - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...])
        return (normed + self.bias[...]).reshape(x.shape).astype(self.dtype)

    def _num_groups(self, batch: int) -> int:
        if self.group_size is None or batch <= self.group_size:
            return 1
        if batch % self.group_size:
            raise ValueError(
                f"a batch of {batch} clips is not a whole number of batch norm groups of "
                f"{self.group_size}; change the batch size or bn_group_size"
            )
        return batch // self.group_size

    def _update_running_statistics(self, mean: Array, var: Array, count: int) -> None:
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            update = jax.lax.stop_gradient(batch).reshape(-1, batch.shape[-1]).mean(axis=0)
            running[...] = self.momentum * running[...] + (1 - self.momentum) * update
