import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.model.tfc import (
    convolve,
    pool_space,
    temporal_focus_conv,
    temporal_focus_weights,
)


def draw(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("side", "has_bias"), [(1, False), (3, True), (7, True)])
def test_weighing_the_input_is_weighing_the_kernel(side: int, has_bias: bool) -> None:
    x, weights = draw(0, 3, 9, 8, 5), jax.nn.sigmoid(draw(1, 3, 5))
    kernel, bias = draw(2, side, side, 5, 4), draw(3, 4) if has_bias else None
    by_input = temporal_focus_conv(x, weights, kernel, bias, weigh="input")
    by_kernel = temporal_focus_conv(x, weights, kernel, bias, weigh="kernel")
    np.testing.assert_allclose(by_input, by_kernel, rtol=0, atol=2e-5)


@pytest.mark.parametrize("weigh", ["input", "kernel"])
def test_equation_5_by_hand(weigh: str) -> None:
    x, weights, kernel = draw(0, 2, 3, 4, 3), draw(1, 2, 3), draw(2, 3, 3, 3, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 3, 4, 2))
    for n, i, j, o in np.ndindex(expected.shape):
        window = padded[n, i : i + 3, j : j + 3]
        expected[n, i, j, o] = sum(
            weights[n, m] * np.sum(kernel[:, :, m, o] * window[:, :, m]) for m in range(3)
        )
    np.testing.assert_allclose(
        temporal_focus_conv(x, weights, kernel, weigh=weigh), expected, atol=1e-5
    )


def test_equal_weights_scale_the_convolution() -> None:
    x, kernel, bias = draw(0, 2, 6, 6, 4), draw(1, 3, 3, 4, 4), draw(2, 4)
    halved = temporal_focus_conv(x, jnp.full((2, 4), 0.5), kernel, bias)
    np.testing.assert_allclose(halved - bias, 0.5 * convolve(x, kernel), atol=1e-5)


def test_weights_are_a_gate_computed_from_each_sample_alone() -> None:
    reduce, expand, pooled = draw(0, 6, 6), draw(1, 6, 6), draw(2, 4, 6)
    weights = temporal_focus_weights(pooled, reduce, lambda z: z, expand)
    expected = 1 / (1 + np.exp(-(np.maximum(pooled @ reduce, 0) @ expand)))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    alone = temporal_focus_weights(pooled[2:3], reduce, lambda z: z, expand)
    np.testing.assert_allclose(weights[2:3], alone, atol=1e-6)


def test_pooling_is_the_average_or_the_maximum() -> None:
    x = draw(0, 2, 5, 3, 4)
    np.testing.assert_allclose(pool_space(x), np.mean(x, (1, 2)), atol=1e-6)
    np.testing.assert_array_equal(pool_space(x, "max"), np.max(x, (1, 2)))
