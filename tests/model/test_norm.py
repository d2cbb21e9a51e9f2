import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTimeConfig
from squeezetime_jax.model.norm import BatchNorm


def norm_of(group_size: int | None, channels: int = 3) -> BatchNorm:
    norm = BatchNorm(channels, SqueezeTimeConfig.tiny(bn_group_size=group_size))
    norm.scale[...] = jnp.linspace(0.5, 2, channels)
    norm.bias[...] = jnp.linspace(-1, 1, channels)
    return norm


def draw(*shape: int) -> jax.Array:
    return 3 + 2 * jax.random.normal(jax.random.key(0), shape)


def test_normalises_with_the_biased_and_keeps_the_unbiased_variance() -> None:
    x, norm = np.asarray(draw(4, 5, 6, 3)), norm_of(None)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * norm.scale[...] + norm.bias[...]
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, atol=2e-6)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var * 120 / 119, rtol=1e-5)


def test_running_statistics_normalise_in_evaluation_and_stay() -> None:
    norm = norm_of(None)
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2, 3]), jnp.array([4.0, 5, 6])
    norm.eval()
    x = draw(2, 4, 4, 3)
    expected = (x - norm.mean[...]) / jnp.sqrt(norm.var[...] + 1e-5) * norm.scale[...]
    np.testing.assert_allclose(norm(x), expected + norm.bias[...], atol=2e-6)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])


def test_each_group_is_normalised_by_itself() -> None:
    x, norm = draw(6, 4, 4, 3), norm_of(2)
    together = norm(x)
    parts, means, variances = [], [], []
    for start in (0, 2, 4):
        part = norm_of(None)
        parts.append(part(x[start : start + 2]))
        means.append(part.mean[...])
        variances.append(part.var[...])
    np.testing.assert_allclose(together, jnp.concatenate(parts), atol=1e-6)
    np.testing.assert_allclose(norm.mean[...], sum(means) / 3, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], sum(variances) / 3, atol=1e-6)


def test_a_batch_no_larger_than_a_group_is_one_group() -> None:
    x = draw(5, 4, 4, 3)
    np.testing.assert_array_equal(norm_of(64)(x), norm_of(None)(x))


def test_half_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 6 clips .* groups of 4"):
        norm_of(4)(draw(6, 2, 2, 3))


def test_statistics_of_bfloat16_are_taken_in_float32() -> None:
    norm = BatchNorm(3, SqueezeTimeConfig.tiny(dtype="bfloat16", bn_group_size=None))
    x = (1000 + draw(8, 16, 16, 3)).astype(jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(norm.mean[...], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...] - 0.9, 0.1 * exact.var((0, 1, 2)), rtol=1e-2)


def test_a_view_switches_the_mode_and_shares_the_statistics() -> None:
    norm = norm_of(None)
    view = nnx.view(norm, use_running_average=True)
    assert view.use_running_average
    assert not norm.use_running_average
    assert view.mean is norm.mean
