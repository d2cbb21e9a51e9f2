"""Gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


def check_gradient(model: nnx.Module, clips: jax.Array) -> None:
    """Compare the slope of a loss along a random direction; in double precision.

    The parameters are moved away from their start, where some are 0 and hide others' gradients.
    """
    rng = np.random.default_rng(0)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape), params)
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)

    def loss(params: nnx.State) -> jax.Array:
        return jnp.sum(jnp.sin(nnx.merge(graph, params, rest, copy=True)(clips)))

    @jax.jit
    def slope(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = jax.tree.map(lambda x, d: x + step * d, params, direction)
        value, gradient = jax.value_and_grad(loss)(moved)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
        return value, sum(jax.tree.leaves(products))

    (before, _), (_, found), (after, _) = (slope(jnp.asarray(s * 1e-6)) for s in (-1.0, 0.0, 1.0))
    expected = float(after - before) / 2e-6
    assert abs(expected) > 1e-3
    assert float(found) == pytest.approx(expected, rel=1e-6)
