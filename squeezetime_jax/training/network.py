"""A module as pure functions of nested dictionaries."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

Tree = Any


class Network:
    """A module's weights and statistics as nested dictionaries, and its outputs from them.

    The module is split once, here; inside a step it exists only while the step is traced.

    Args:
      module: the module, of arrays or of shapes; its values are not kept.
      freeze_norm: whether batch norm uses its running statistics in training too.
    """

    def __init__(self, module: nnx.Module, *, freeze_norm: bool = False):
        self._module = module
        evaluating = {"deterministic": True, "use_running_average": True}
        training = {"deterministic": False, "use_running_average": freeze_norm}
        # A network without batch norm has nothing that takes `use_running_average`.
        self._evaluating = _parts(nnx.view(module, raise_if_not_found=False, **evaluating))
        self._training = _parts(nnx.view(module, raise_if_not_found=False, **training))

    def abstract(self) -> tuple[Tree, Tree]:
        """Weights and statistics as shapes."""
        return jax.eval_shape(lambda: self.split(self._module))

    def split(self, module: nnx.Module) -> tuple[Tree, Tree]:
        """A module's weights and statistics."""
        _, params, stats, *_ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def merge(self, params: Tree, batch_stats: Tree) -> Any:
        """The module in evaluation mode with these weights and statistics."""
        return self._merge(self._evaluating, params, batch_stats)

    def forward(
        self,
        params: Tree,
        batch_stats: Tree,
        *inputs: Any,
        key: PRNGKeyArray,
        method: str = "__call__",
    ) -> tuple[Any, Tree]:
        """The outputs of a method in training mode, and the statistics that follow the inputs."""
        module = self._merge(self._training, params, batch_stats)
        outputs = getattr(module, method)(*inputs, rngs=key)
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
