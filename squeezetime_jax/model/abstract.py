"""The network as shapes, and its leaves by name."""

from flax import nnx

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime


def abstract_model(config: SqueezeTimeConfig) -> SqueezeTime:
    """The network with `jax.ShapeDtypeStruct` in the place of arrays: nothing is drawn."""
    return nnx.eval_shape(lambda: SqueezeTime(config, nnx.Rngs(0)))


def flat_leaves(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Every parameter and statistic by its dotted path, such as "stages.0.1.norm1.scale"."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
