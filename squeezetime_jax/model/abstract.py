"""The network as shapes, and parts of a new one, without drawing all of its weights."""

from collections.abc import Collection

import jax
from flax import nnx
from jaxtyping import Array

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime


class _Keys(nnx.Rngs):
    """Numbered keys, counted in Python: `nnx.Rngs` takes quadratic time to count under a trace."""

    def __init__(self, seed: int):
        super().__init__()
        self.key = jax.random.key(seed)
        self.drawn = 0

    def params(self) -> Array:
        self.drawn += 1
        return jax.random.fold_in(self.key, self.drawn)


def abstract_model(config: SqueezeTimeConfig) -> SqueezeTime:
    """The network with `jax.ShapeDtypeStruct` in the place of arrays."""
    return nnx.eval_shape(lambda: SqueezeTime(config, _Keys(0)))


def flat_leaves(model: SqueezeTime) -> dict[str, nnx.Variable]:
    """Every parameter and statistic by its dotted path, such as "stages.0.1.norm1.scale"."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def initial_leaves(
    config: SqueezeTimeConfig, paths: Collection[str], seed: int = 0
) -> dict[str, Array]:
    """The named leaves of a new network; the others are never computed."""

    def draw() -> dict[str, Array]:
        leaves = flat_leaves(SqueezeTime(config, _Keys(seed)))
        return {path: leaves[path][...] for path in paths}

    return jax.jit(draw)()
