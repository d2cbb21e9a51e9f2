import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTimeConfig
from squeezetime_jax.model.layers import (
    Conv,
    DepthwiseHalving,
    PositionEncoding,
    initialise,
    resize_matrix,
)

CONFIG = SqueezeTimeConfig.tiny()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (2, 3)])
def test_halving_is_a_depthwise_convolution(height: int, width: int) -> None:
    layer = DepthwiseHalving(6, CONFIG)
    initialise(layer, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, height, width, 6))
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...][:, :, None, :],
        window_strides=(2, 2),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(layer(x), expected + layer.bias[...], atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(7, 7), (7, 13), (14, 5), (3, 1), (1, 4), (56, 40)])
def test_resizing_interpolates_with_corners_aligned(old: int, new: int) -> None:
    values = np.random.default_rng(0).standard_normal(old)
    positions = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
    expected = np.interp(positions, np.arange(old), values)
    np.testing.assert_allclose(resize_matrix(old, new) @ values, expected, atol=5e-6)


def test_position_encoding_is_resized_in_both_directions() -> None:
    layer = PositionEncoding(4, 2, CONFIG)
    rows, columns = np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij")
    layer.grid[...] = jnp.asarray(np.stack([rows, columns], -1), jnp.float32)
    y = layer(jnp.zeros((1, 7, 10, 2)))[0]
    np.testing.assert_allclose(y[:, 3, 0], np.linspace(0, 3, 7), atol=1e-5)
    np.testing.assert_allclose(y[2, :, 1], np.linspace(0, 3, 10), atol=1e-5)
    np.testing.assert_array_equal(layer(jnp.ones((2, 4, 4, 2)))[1], 1 + layer.grid[...])


class Layers(nnx.Module):
    def __init__(self) -> None:
        self.conv = Conv(32, 64, 5, CONFIG, bias=True)
        self.halving = DepthwiseHalving(2048, CONFIG)
        self.position = PositionEncoding(56, 16, CONFIG)


def test_initialisation_is_the_released_one() -> None:
    layers = Layers()
    initialise(layers, nnx.Rngs(0))
    assert np.std(layers.conv.kernel[...]) == pytest.approx(np.sqrt(2 / (64 * 25)), rel=0.02)
    bound = 1 / np.sqrt(32 * 25)
    assert 0.9 * bound < np.max(np.abs(layers.conv.bias[...])) <= bound
    assert np.std(layers.halving.kernel[...]) == pytest.approx(np.sqrt(2 / 8192), rel=0.03)
    assert 0.49 < np.max(np.abs(layers.halving.bias[...])) <= 0.5
    assert np.std(layers.position.grid[...]) == pytest.approx(np.sqrt(2 / 56**2), rel=0.02)


def test_initialisation_is_the_same_under_jit_and_differs_between_seeds() -> None:
    def grid(seed: int) -> jax.Array:
        layer = PositionEncoding(8, 16, CONFIG)
        initialise(layer, nnx.Rngs(seed))
        return layer.grid[...]

    np.testing.assert_allclose(jax.jit(grid, static_argnums=0)(3), grid(3), atol=1e-7)
    assert np.abs(grid(3) - grid(4)).max() > 0.01
