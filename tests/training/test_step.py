import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import experiment, trainer

from squeezetime_jax.tasks.recognition.task import mix
from squeezetime_jax.training import devices
from squeezetime_jax.training.recipe import Recipe
from squeezetime_jax.training.step import Trainer

MIX = jax.jit(mix, static_argnames=("recipe", "group_size"))


def _after(made: Trainer, batch: dict, steps: int = 1) -> tuple:
    step = jax.jit(made._step)
    state = made.new_state()
    for _ in range(steps):
        state, metrics = step(state, batch, made.key())
    return state, metrics


def test_accumulation_over_parts_is_the_whole_batch(float64: None) -> None:
    rng = np.random.default_rng(0)
    batch = {
        "clips": rng.integers(0, 256, (8, 4, 16, 16, 3), dtype=np.uint8),
        "labels": rng.integers(0, 4, 8).astype(np.int32),
    }
    changes = {
        "batch_size": 8,
        "model__bn_group_size": 2,
        "model__dtype": "float64",
        "model__dropout": 0.0,
        "optimizer__label_smoothing": 0.1,
        "optimizer__ema": 0.5,
        "optimizer__mixup": 0.5,
        "augmentation__flip": 0.5,
        "augmentation__brightness": 0.5,
        "augmentation__erase": 0.5,
    }
    whole, parts = (
        trainer(experiment(**changes, optimizer__accumulation=n), devices.data_mesh(1))
        for n in (1, 2)
    )
    state, metrics = _after(whole, batch)
    other, other_metrics = _after(parts, batch)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, other_metrics[name], rtol=1e-12, err_msg=name)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
    # The running average moves half way from the start.
    start = whole.new_state()
    half = jax.tree.map(lambda a, b: (a + b) / 2, start.params, state.params)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(state.ema["params"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert jax.tree.structure(state.ema["batch_stats"]) == jax.tree.structure(state.batch_stats)


def test_parts_are_prepared_one_after_the_other() -> None:
    """A whole batch of 512 clips as floats would take 4.9 GB."""
    program = trainer(experiment(optimizer__accumulation=4), devices.data_mesh(1)).compile_step()
    clips_as_floats = 4 * math.prod((32, 4, 16, 16, 3))
    assert program.memory_analysis().temp_size_in_bytes < 0.8 * clips_as_floats


def test_a_batch_of_another_shape_is_refused_by_name() -> None:
    made = trainer(experiment(batch_size=4), devices.data_mesh(1))
    step, state = made.compile_step(), made.new_state()
    batch = {
        "clips": np.zeros((8, 4, 16, 16, 3), np.uint8),
        "labels": np.zeros(4, np.int32),
    }
    with pytest.raises(TypeError, match=r"batch\['clips'\].*uint8\[4,4,16,16,3\].*uint8\[8,4"):
        step(state, jax.device_put(batch), made.key())


def _mixed(recipe: Recipe, seed: int, group: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    clips = jnp.arange(4.0).reshape(4, 1, 1, 1, 1) * jnp.ones((1, 2, 16, 16, 3))
    clips, targets = MIX(jax.random.key(seed), clips, jnp.eye(4), recipe=recipe, group_size=group)
    return np.asarray(clips), np.asarray(targets)


def test_mixup_blends_each_clip_with_its_mirror_image_in_the_group() -> None:
    clips, targets = _mixed(Recipe(mixup=0.8), seed=1, group=2)
    share = targets[0, 0]
    assert 0 < share < 1
    np.testing.assert_allclose(targets[0], [share, 1 - share, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(targets[3], [0, 0, 1 - share, share], rtol=1e-6)
    np.testing.assert_allclose(clips[0], 1 - share, rtol=1e-5)  # of 0 and 1
    np.testing.assert_allclose(clips[3], 3 * share + 2 * (1 - share), rtol=1e-5)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels() -> None:
    for seed in range(5):
        clips, targets = _mixed(Recipe(cutmix=1.0), seed)
        pasted = clips[0, 0, :, :, 0] == 3
        assert np.all(clips[0] == 3 * pasted[None, :, :, None])  # the same in all frames, colours
        rows, columns = pasted.any(1), pasted.any(0)
        assert np.array_equal(pasted, np.outer(rows, columns))
        np.testing.assert_allclose(targets[0], [1 - pasted.mean(), 0, 0, pasted.mean()], atol=1e-6)


def test_with_both_on_some_steps_blend_and_some_paste() -> None:
    recipe = Recipe(mixup=1.0, cutmix=1.0)
    pastes = [set(np.unique(_mixed(recipe, seed)[0][0])) <= {0.0, 3.0} for seed in range(12)]
    assert 0 < sum(pastes) < 12
