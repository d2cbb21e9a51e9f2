"""The fused network beside the network itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.model.fused import (
    ACCELERATOR,
    CPU,
    EXPORT,
    Form,
    Fused,
    classify,
    features,
    fuse,
    logits,
)
from squeezetime_jax.model.squeezetime import squeeze

# Sides that halve to odd ones, and position grids of another size than the maps.
SIZE = (72, 90)
VARIANTS = {
    "basic": SqueezeTimeConfig.tiny(),
    "bottleneck": SqueezeTimeConfig.tiny(depth=50, width=0.25),
    "maximum": SqueezeTimeConfig.tiny(pooling="max"),
    "tfc": SqueezeTimeConfig.tiny(branches="tfc"),
    "ioi": SqueezeTimeConfig.tiny(branches="ioi", temporal_focus=False),
    "no position": SqueezeTimeConfig.tiny(branches="ioi", position_encoding=False),
    "plain": SqueezeTimeConfig.tiny(branches="conv3x3"),
    "1x1": SqueezeTimeConfig.tiny(branches="tfc", temporal_focus=False),
    "ava": SqueezeTimeConfig.tiny(strides=(1, 2, 2, 1), num_frames=8, width=0.1875),
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


def draw_clips(config: SqueezeTimeConfig) -> jax.Array:
    shape = (2, config.num_frames, *SIZE, 3)
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), config.param_dtype)


def error(found: jax.Array, expected: jax.Array) -> float:
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


@jax.jit
def both(fused: Fused, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
    feature_map = features(fused, clips)
    return feature_map, classify(fused, feature_map)


@functools.cache
def expected(config: SqueezeTimeConfig) -> tuple[jax.Array, jax.Array]:
    """Feature map and logits of the network itself."""
    graph, state = nnx.split(network(config))

    @jax.jit
    def run(state: nnx.State, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graph, state)
        feature_map = model.features(clips)
        return feature_map, model.head(feature_map)

    return run(state, draw_clips(config))


def check(config: SqueezeTimeConfig, form: Form, n: int, bound: float = 1e-5) -> None:
    found = both(fuse(network(config), form), draw_clips(config)[:n])
    for ours, theirs in zip(found, expected(config), strict=True):
        assert ours.shape == (n, *theirs.shape[1:])
        assert ours.dtype == theirs.dtype
        assert error(ours, theirs[:n]) < bound


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_network(name: str) -> None:
    check(VARIANTS[name], CPU, 1)


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
@pytest.mark.parametrize("form", [CPU, ACCELERATOR, EXPORT], ids=["cpu", "accelerator", "export"])
def test_equals_the_network_on_several_clips(name: str, form: Form) -> None:
    check(VARIANTS[name], form, 2)


@pytest.mark.usefixtures("float64")
def test_equals_the_network_in_double_precision() -> None:
    check(SqueezeTimeConfig.tiny(dtype="float64"), CPU, 1, bound=1e-13)


def test_bfloat16_stays_near() -> None:
    config = SqueezeTimeConfig.tiny(dtype="bfloat16")
    fused = fuse(network(config))
    assert fused.weights["stem"]["kernel"].dtype == jnp.bfloat16
    check(config, fused.form, 2, bound=0.05)


def test_squeezed_clips_are_taken() -> None:
    config = VARIANTS["basic"]
    clips = draw_clips(config)
    found = jax.jit(logits)(fuse(network(config)), squeeze(clips))
    assert error(found, expected(config)[1]) < 1e-5


def test_no_batch_norm_is_left() -> None:
    """Adding and multiplying by channel: a bias for each convolution, and no factor."""
    fused = fuse(network(VARIANTS["bottleneck"]), EXPORT)
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(fused.weights)}
    assert names == {"kernel", "bias", "shift", "reduce", "expand", "position"}


def test_exports_are_of_plain_operations() -> None:
    config = SqueezeTimeConfig.tiny(depth=18)
    shape = jax.ShapeDtypeStruct((1, 64, 64, 12), jnp.float32)
    fused = fuse(network(config), EXPORT)
    graph = str(jax.make_jaxpr(lambda clips: logits(fused, clips))(shape))
    assert graph.count("feature_group_count=8") == 1  # the first of three halvings
    assert " slice[" not in graph
    assert " reduce_window_max" in graph
    assert "padding=((0, 0), (0, 0), (0, 0), (0, 0))" in graph  # of the max-pool
