"""The fused network beside the network itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.model.fused import EXPORT, Form, Fused, features, fuse, logits

# Sides that halve to odd ones, and position grids of another size than the maps.
SIZE = (72, 90)
VARIANTS = {
    "basic": SqueezeTimeConfig.tiny(),
    "bottleneck": SqueezeTimeConfig.tiny(depth=50, width=0.25),
    "maximum": SqueezeTimeConfig.tiny(pooling="max"),
    "tfc": SqueezeTimeConfig.tiny(depth=50, branches="tfc"),
    "ioi": SqueezeTimeConfig.tiny(depth=50, branches="ioi", temporal_focus=False),
    "no position": SqueezeTimeConfig.tiny(branches="ioi", position_encoding=False),
    "plain": SqueezeTimeConfig.tiny(depth=50, branches="conv3x3"),
    "1x1": SqueezeTimeConfig.tiny(branches="tfc", temporal_focus=False),
    "ava": SqueezeTimeConfig.tiny(strides=(1, 2, 2, 1), num_frames=8, width=0.1875),
    "double": SqueezeTimeConfig.tiny(dtype="float64"),
}


@functools.cache
def network(config: SqueezeTimeConfig) -> SqueezeTime:
    """A network in evaluation mode whose every leaf matters."""
    model = SqueezeTime(config, nnx.Rngs(0))
    model.eval()
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        noise = rng.standard_normal(leaf.shape)
        if path[-1] == "var":
            leaf.set_value(jnp.asarray(np.abs(noise) + 0.5, leaf.dtype))
        elif path[-1] == "scale":  # small, or the maps grow from block to block
            leaf.set_value(jnp.asarray(0.3 + 0.1 * noise, leaf.dtype))
        elif leaf.ndim == 1:
            leaf.set_value(jnp.asarray(0.3 * noise, leaf.dtype))
    return model


def draw_clips(config: SqueezeTimeConfig, n: int, size: tuple[int, int] = SIZE) -> jax.Array:
    shape = (n, config.num_frames, *size, 3)
    return jnp.asarray(np.random.default_rng(n).standard_normal(shape), config.param_dtype)


def error(found: jax.Array, wanted: jax.Array) -> float:
    return float(jnp.abs(found - wanted).max() / jnp.abs(wanted).max())


@jax.jit
def both(fused: Fused, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
    return features(fused, clips), logits(fused, clips)


@functools.cache
def wanted(config: SqueezeTimeConfig, n: int) -> tuple[jax.Array, jax.Array]:
    graph, state = nnx.split(network(config))

    @jax.jit
    def run(state: nnx.State, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graph, state)
        feature_map = model.features(clips)
        return feature_map, model.head(feature_map)

    return run(state, draw_clips(config, n))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n", [1, 2])
def test_equals_the_network(name: str, n: int) -> None:
    config = VARIANTS[name]
    with jax.enable_x64(config.dtype == "float64"):
        clips = draw_clips(config, n)
        bound = 1e-13 if config.dtype == "float64" else 1e-5
        for form in (Form.of("cpu"), EXPORT):
            found = both(fuse(network(config), form), clips)
            for ours, theirs in zip(found, wanted(config, n), strict=True):
                assert ours.shape == theirs.shape
                assert ours.dtype == theirs.dtype
                assert error(ours, theirs) < bound, form
