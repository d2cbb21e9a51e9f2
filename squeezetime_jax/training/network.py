"""A module as pure functions of plain trees."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

Tree = Any


class Network:
    """A module's weights and statistics as nested dictionaries, and what it computes from them.

    The module's structure is taken apart once, here; inside a step it exists only while the step is
    being traced.

    Args:
      module: the module, of arrays or of shapes; its values are not kept.
      freeze_norm: whether batch norm keeps to its running statistics in training too.
    """

    def __init__(self, module: nnx.Module, *, freeze_norm: bool = False):
        self._module = module
        at_rest = {"deterministic": True, "use_running_average": True}
        in_training = {"deterministic": False, "use_running_average": freeze_norm}
        self._at_rest = _parts(nnx.view(module, **at_rest))
        self._in_training = _parts(nnx.view(module, **in_training))

    def abstract(self) -> tuple[Tree, Tree]:
        """Weights and statistics as shapes."""
        return jax.eval_shape(lambda: self.split(self._module))

    def split(self, module: nnx.Module) -> tuple[Tree, Tree]:
        """A module's weights and statistics, as plain trees."""
        _, params, stats, *_ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def merge(self, params: Tree, batch_stats: Tree) -> Any:
        """The module in evaluation mode with these weights and statistics."""
        return self._merge(self._at_rest, params, batch_stats)

    def train(
        self, params: Tree, batch_stats: Tree, *inputs: Any, key: PRNGKeyArray
    ) -> tuple[Any, Tree]:
        """What the module gives in training mode, and the statistics moved by these inputs."""
        module = self._merge(self._in_training, params, batch_stats)
        outputs = module(*inputs, rngs=key)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    @staticmethod
    def _merge(parts: tuple, params: Tree, batch_stats: Tree) -> Any:
        graph, *states = jax.tree.map(lambda x: x, parts)  # a copy: the values are put in place
        for state, values in zip(states, (params, batch_stats), strict=False):
            nnx.replace_by_pure_dict(state, values)
        return nnx.merge(graph, *states, copy=True)


def _parts(module: nnx.Module) -> tuple:
    graph, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    return graph, *states
