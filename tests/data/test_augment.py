"""Augmentation on the device against a plain reading of the recipe, pixel by pixel."""

import colorsys
import dataclasses
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.data import augment as lib
from squeezetime_jax.data.augment import Augmentation

SHAPE = (24, 2, 9, 11, 3)
RECIPE = Augmentation()

draw = jax.jit(lib.draw, static_argnums=(1, 2))
apply = jax.jit(lib.apply, static_argnums=2)
augment = jax.jit(lib.augment, static_argnums=3)


@pytest.fixture(scope="module")
def clips() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))


def grey(frame: np.ndarray) -> np.ndarray:
    return 0.2989 * frame[..., 0] + 0.587 * frame[..., 1] + 0.114 * frame[..., 2]


def hue_shifted(frame: np.ndarray, sextants: float) -> np.ndarray:
    shifted = np.empty_like(frame)
    for place in np.ndindex(frame.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*np.clip(frame[place], 0, 255) / 255)
        turned = (hue + sextants / 6) % 1.0
        shifted[place] = np.array(colorsys.hsv_to_rgb(turned, saturation, value)) * 255
    return shifted


def plain_reading(clip: np.ndarray, draws: lib.Draws, i: int, rng) -> np.ndarray:
    """Flip, four colour changes one after the other in a drawn order, normalisation; by frame."""
    changes = {
        "brightness": lambda f: f * float(draws.brightness[i]),
        "contrast": lambda f: (
            f * float(draws.contrast[i]) + (1 - float(draws.contrast[i])) * grey(f).mean()
        ),
        "saturation": lambda f: (
            f * float(draws.saturation[i]) + (1 - float(draws.saturation[i])) * grey(f)[..., None]
        ),
        "hue": lambda f: hue_shifted(f, float(draws.hue[i])),
    }
    others = ("brightness", "contrast", "saturation")
    before = [name for k, name in enumerate(others) if draws.before_hue[i, k]]
    after = [name for name in others if name not in before]
    order = [*rng.permutation(before), "hue", *rng.permutation(after)]
    frames = []
    for frame in clip[:, :, ::-1] if draws.flip[i] else clip:
        changed = frame.astype(np.float64)
        for name in order:
            changed = changes[name](changed)
        frames.append(np.clip(changed, 0, 255))
    return (np.stack(frames) - lib.MEAN) / lib.STD


def test_colour_and_flip_are_the_plain_reading(clips):
    draws = draw(jax.random.key(3), SHAPE, RECIPE)
    never = dataclasses.replace(RECIPE, erase=0.0)
    found = apply(clips, draws, never)
    rng = np.random.default_rng(0)
    expected = [plain_reading(np.asarray(clips)[i], draws, i, rng) for i in range(SHAPE[0])]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_without_hue_nothing_is_clipped_in_between(clips):
    recipe = Augmentation(hue=0.0, erase=0.0)
    draws = draw(jax.random.key(3), SHAPE, recipe)
    found = apply(clips, draws, recipe)
    for i in range(SHAPE[0]):
        frame = np.asarray(clips)[i, 0].astype(np.float64)
        frame = frame[:, ::-1] if draws.flip[i] else frame
        b, c, s = (float(f[i]) for f in (draws.brightness, draws.contrast, draws.saturation))
        frame = b * frame
        frame = c * frame + (1 - c) * grey(frame).mean()
        frame = np.clip(s * frame + (1 - s) * grey(frame)[..., None], 0, 255)
        np.testing.assert_allclose(found[i, 0], (frame - lib.MEAN) / lib.STD, atol=2e-4)


@pytest.mark.parametrize("sextants", [-3.0, -0.86, 0.0, 0.25, 2.0, 3.0])
def test_the_hue_shift_is_that_of_hsv(sextants):
    levels = np.array([0, 1, 128, 254, 255], np.float32)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 1, 25, 5, 3)
    planes = [jnp.asarray(colours[..., i]) for i in range(3)]
    found = np.stack(lib._shift_hue(planes, jnp.array([sextants])), -1)
    expected = hue_shifted(colours[0, 0].astype(np.float64), sextants)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-3)


def test_erasing_fills_one_rectangle_with_fresh_noise(clips):
    recipe = dataclasses.replace(lib.NONE, erase=1.0)
    draws = draw(jax.random.key(1), SHAPE, recipe)
    pixels = np.asarray(apply(clips, draws, recipe)) * np.float32(lib.STD) + np.float32(lib.MEAN)
    untouched = np.abs(pixels - np.asarray(clips)).max(-1) < 0.01
    for i, (top, left, height, width) in enumerate(np.asarray(draws.box)):
        outside = np.ones(SHAPE[2:4], bool)
        outside[top : top + height, left : left + width] = False
        assert untouched[i][:, outside].all()
        assert not untouched[i][:, ~outside].all()
        noise = pixels[i][:, ~outside]
        np.testing.assert_allclose(noise, np.rint(noise), atol=0.01)
        assert (noise[0] != noise[1]).any()


def test_validation_is_normalisation_alone(clips):
    expected = (np.asarray(clips, np.float64) - lib.MEAN) / lib.STD
    np.testing.assert_allclose(lib.normalise(clips), expected, atol=1e-6)
    untouched, _ = augment(jax.random.key(0), clips, jnp.zeros(24, int), lib.NONE)
    np.testing.assert_allclose(untouched, expected, atol=1e-6)
    assert lib.normalise(clips, jnp.bfloat16).dtype == jnp.bfloat16


def test_equal_frames_stay_equal_outside_the_rectangle():
    frame = np.random.default_rng(1).integers(0, 256, (24, 1, 9, 11, 3)).astype(np.uint8)
    recipe = dataclasses.replace(RECIPE, erase=0.0)
    found, _ = augment(
        jax.random.key(5), jnp.asarray(np.repeat(frame, 4, 1)), jnp.zeros(24, int), recipe
    )
    for t in range(1, 4):
        np.testing.assert_array_equal(found[:, t], found[:, 0])


def test_a_flip_changes_the_labels_it_is_told_to(clips):
    recipe = dataclasses.replace(lib.NONE, flip=0.5, flip_labels=(1, 0, 2))
    labels = jnp.arange(24) % 3
    found, flipped = augment(jax.random.key(2), clips, labels, recipe)
    is_flipped = np.asarray(draw(jax.random.key(2), SHAPE, recipe).flip)
    assert 0 < is_flipped.sum() < 24
    expected = np.where(is_flipped, np.array([1, 0, 2])[labels], labels)
    np.testing.assert_array_equal(flipped, expected)
    same = lib.normalise(clips)
    np.testing.assert_array_equal(found[is_flipped], same[is_flipped][:, :, :, ::-1])
    np.testing.assert_array_equal(found[~is_flipped], same[~is_flipped])


def worst_distance(values: np.ndarray, low: float, high: float) -> float:
    """Kolmogorov-Smirnov distance from the uniform distribution."""
    uniform = np.sort((np.asarray(values, np.float64) - low) / (high - low))
    return np.abs(uniform - (np.arange(len(uniform)) + 0.5) / len(uniform)).max()


@pytest.fixture(scope="module")
def many() -> types.SimpleNamespace:
    draws = draw(jax.random.key(9), (8192, 1, 224, 224, 3), RECIPE)
    names = [field.name for field in dataclasses.fields(draws)]
    return types.SimpleNamespace(**{name: np.asarray(getattr(draws, name)) for name in names})


def test_draws_have_the_recipes_distribution(many):
    five_sigma = 5 * (0.25 / 8192) ** 0.5
    assert abs(many.flip.mean() - 0.5) < five_sigma
    limit = 2.2 / 8192**0.5  # about 1 in 8,000 exceeds it
    for factor in (many.brightness, many.contrast, many.saturation):
        assert worst_distance(factor, 0.5, 1.5) < limit
    assert worst_distance(many.hue, -0.85, 0.85) < limit  # sixths of the circle: 51 degrees
    together = np.stack([many.brightness, many.contrast, many.saturation, many.hue, many.flip])
    assert np.abs(np.corrcoef(together) - np.eye(5)).max() < 0.06


def test_every_order_of_the_colour_changes_is_equally_likely(many):
    counts = np.bincount(many.before_hue @ np.array([1, 2, 4]), minlength=8) / 8192
    # Hue has each of the four places with 1/4; then each subset of that size is equally likely.
    np.testing.assert_allclose(counts, np.array([3, 1, 1, 1, 1, 1, 1, 3]) / 12, atol=0.025)


def test_rectangles_have_the_recipes_distribution(many):
    erased = many.box[:, 2] > 0
    assert abs(erased.mean() - 0.25) < 5 * (0.1875 / 8192) ** 0.5
    top, left, height, width = many.box[erased].T.astype(np.float64)
    assert (top + height).max() <= 224
    assert (left + width).max() <= 224
    # Where neither side was cut to the frame, area and aspect are as drawn but for rounding.
    whole = (height < 224) & (width < 224)
    area, aspect = (height * width / 224**2)[whole], (height / width)[whole]
    assert 0.019 < area.min() < 0.03
    assert 0.31 < area.max() < 0.336
    assert 0.29 < aspect.min() < 0.31
    assert 3.2 < aspect.max() < 3.4
    small = area < 0.2  # never cut
    number = small.sum()
    assert worst_distance(area[small], 0.02, 0.2) < 2.5 / number**0.5
    assert worst_distance(np.log(aspect[small]), np.log(0.3), np.log(10 / 3)) < 2.5 / number**0.5
    place = top[whole] / (224 - height[whole])
    assert worst_distance(place, 0, 1) < 2.5 / whole.sum() ** 0.5 + 1 / 100


def test_noise_is_uniform_and_fresh_everywhere():
    noise = np.stack(lib._noise(jnp.array([7, 8], jnp.uint32), (2, 8, 64, 64, 3)), -1)
    counts = np.bincount(noise.astype(int).ravel(), minlength=256)
    expected = noise.size / 256
    assert counts.size == 256
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert 150 < chi_squared < 380  # 255 degrees of freedom, deviation 22.6
    centred = noise - 127.5
    for other in (
        np.roll(centred, 1, 1), np.roll(centred, 1, 2), np.roll(centred, 1, 3),
        np.roll(centred, 1, 4), centred[::-1],
    ):  # fmt: skip
        assert abs((centred * other).mean()) / centred.var() < 0.01


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from squeezetime_jax.data.augment import Augmentation, augment
augment = jax.jit(augment, static_argnums=3)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.NamedSharding(mesh, jax.P("data"))
clips = np.random.default_rng(0).integers(0, 256, (24, 2, 9, 11, 3)).astype(np.uint8)
arguments = jax.random.key(4), jnp.asarray(clips), jnp.arange(24) % 8
expected, _ = augment(*arguments, Augmentation())
key, *arrays = arguments
found, _ = augment(key, *(jax.device_put(a, sharding) for a in arrays), Augmentation())
assert found.sharding.is_equivalent_to(sharding, 5), found.sharding
print(float(jnp.abs(jax.device_get(found) - expected).max()))
"""


def test_any_number_of_devices_draws_the_same() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ON_FOUR_DEVICES],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(run.stdout) <= 1e-5


def test_steps_and_clips_draw_afresh(clips):
    first, again, other = (draw(jax.random.key(k), SHAPE, RECIPE).noise_seed for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()
    assert len(np.unique(first)) == 24


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip", 1.5), ("brightness", -0.1), ("hue", 0.5), ("flip_labels", (1, 2, 0))],
)
def test_fields_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"Augmentation.{field}"):
        Augmentation(**{field: value})
