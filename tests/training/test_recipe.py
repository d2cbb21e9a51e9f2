import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.training.recipe import (
    Recipe,
    check_batch,
    learning_rate_schedule,
    optimizer,
)


def _rates(recipe: Recipe, steps: list[int], *, epochs: int, batch_size: int = 512) -> list[float]:
    with jax.enable_x64(True):
        schedule = learning_rate_schedule(
            recipe, batch_size=batch_size, epochs=epochs, steps_per_epoch=10
        )
        return [float(schedule(step)) for step in steps]


def test_kinetics_curve_at_its_corners() -> None:
    # 0.015 for 64 clips is 0.12 for 512; the warm-up's 80 steps go from a tenth of it to all of it,
    # so step 1 has 0.012 + 0.108/79. The cosine starts at step 80 with the peak, is half way down
    # to 1.5e-4 at step 540 and one step of 920 short of it at step 999:
    # 1.5e-4 + (0.12 - 1.5e-4)/2 * (1 - cos(pi/920)) = 1.5e-4 + 0.11985/2 * 5.8303e-6.
    recipe = Recipe(learning_rate=0.015, warmup_epochs=8.0, final_learning_rate=1.5e-4)
    expected = {
        0: 0.012,
        1: 0.0133670886,
        79: 0.12,
        80: 0.12,
        540: 0.060075,
        999: 0.00015034938,
        1000: 0.00015,
    }
    np.testing.assert_allclose(
        _rates(recipe, list(expected), epochs=100), list(expected.values()), rtol=1e-6
    )


def test_hmdb51_steps_down_after_12_and_24_epochs() -> None:
    recipe = Recipe(learning_rate=0.02, schedule="steps", milestones=(12, 24))
    expected = {0: 0.16, 119: 0.16, 120: 0.016, 239: 0.016, 240: 0.0016, 499: 0.0016}
    np.testing.assert_allclose(
        _rates(recipe, list(expected), epochs=50), list(expected.values()), rtol=1e-12
    )


def test_rate_grows_with_the_batch_unless_told_not_to() -> None:
    flat = {"schedule": "steps", "learning_rate": 0.015}
    assert _rates(Recipe(**flat), [0], epochs=1, batch_size=128) == pytest.approx([0.03])
    flat["base_batch_size"] = 0
    assert _rates(Recipe(**flat), [0], epochs=1, batch_size=128) == pytest.approx([0.015])


def test_update_clips_before_it_decays_and_accumulates_before_it_scales() -> None:
    # Gradient (30, 40) has norm 50; clipped to 10 it is (6, 8); decay 0.5 of weights (2, 4) makes
    # it (7, 10). Rate 0.1: weights (1.3, 3). Then gradient 0: decay (0.65, 1.5), momentum 0.5*(7,
    # 10) + that = (4.15, 6.5); weights (0.885, 2.35).
    recipe = Recipe(
        learning_rate=0.1,
        base_batch_size=0,
        schedule="steps",
        clip_norm=10.0,
        weight_decay=0.5,
        momentum=0.5,
    )
    sgd = optimizer(
        recipe, learning_rate_schedule(recipe, batch_size=1, epochs=1, steps_per_epoch=2)
    )
    params = {"head": jnp.array([2.0, 4.0])}
    state = sgd.init(params)
    for gradient, expected in (([30.0, 40.0], [1.3, 3.0]), ([0.0, 0.0], [0.885, 2.35])):
        updates, state = sgd.update({"head": jnp.array(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["head"], expected, rtol=1e-6)


def test_backbone_multiplier_leaves_the_classifier_alone() -> None:
    recipe = Recipe(
        learning_rate=1.0,
        base_batch_size=0,
        schedule="steps",
        weight_decay=0.0,
        backbone_multiplier=0.1,
    )
    sgd = optimizer(
        recipe, learning_rate_schedule(recipe, batch_size=1, epochs=1, steps_per_epoch=1)
    )
    params = {"head": {"kernel": jnp.ones(2)}, "stem": {"kernel": jnp.ones(2)}}
    updates, _ = sgd.update(params, sgd.init(params), params)
    np.testing.assert_allclose(updates["head"]["kernel"], -1)
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("accumulation", "batch", "group", "told"),
    [
        (3, 64, 8, "accumulation must divide batch_size 64, got 3"),
        (2, 64, 24, "bn_group_size = 24"),
        (1, 100, 64, "bn_group_size = 64"),
        (4, 64, 32, "has 16 clips in each"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(
    accumulation: int, batch: int, group: int, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        check_batch(Recipe(accumulation=accumulation), batch, group)


def test_batches_that_can_be_cut_pass() -> None:
    check_batch(Recipe(accumulation=2), 128, 64)
    check_batch(Recipe(), 32, 64)  # one group, smaller than asked for
    check_batch(Recipe(), 48, None)


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1\.5"):
        Recipe(momentum=1.5)


def test_adam_couples_the_decay_and_frozen_parameters_stay() -> None:
    # PyTorch's Adam on these numbers in float64; AdamW would begin with 0.99999999.
    recipe = Recipe(
        method="adam",
        learning_rate=1e-5,
        base_batch_size=0,
        schedule="steps",
        weight_decay=1e-3,
        clip_norm=0.0,
    )
    expected = (
        (0.999990000099999, 1.999990000000199, -0.5000099999995992),
        (0.9999800002026052, 1.999984850152746, -0.5000199999991879),
    )
    with jax.enable_x64(True):
        schedule = learning_rate_schedule(recipe, batch_size=1, epochs=1, steps_per_epoch=2)
        adam = optimizer(recipe, schedule, lambda path: path[-1] != "scale")
        params = {"kernel": jnp.array([1, 2, -0.5]), "scale": jnp.array([1.0])}
        state = adam.init(params)
        for gradient, after in zip(((0, 0.5, 0.25), (0, -0.1, 0.25)), expected, strict=True):
            gradients = {"kernel": jnp.array(gradient), "scale": jnp.array([9.0])}
            updates, state = adam.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params["kernel"], after, rtol=1e-15)
            np.testing.assert_array_equal(params["scale"], [1.0])


def test_frozen_parameters_do_not_count_for_clipping() -> None:
    recipe = Recipe(
        learning_rate=1.0, base_batch_size=0, schedule="steps", weight_decay=0.0, clip_norm=1.0
    )
    schedule = learning_rate_schedule(recipe, batch_size=1, epochs=1, steps_per_epoch=1)
    sgd = optimizer(recipe, schedule, lambda path: path[0] == "head")
    params = {"head": jnp.array([0.0]), "stem": jnp.array([0.0])}
    gradients = {"head": jnp.array([0.5]), "stem": jnp.array([100.0])}
    updates, _ = sgd.update(gradients, sgd.init(params), params)
    np.testing.assert_allclose(updates["head"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["stem"], 0)
