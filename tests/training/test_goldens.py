"""The real step and recipe give the losses of the authors' code, in float64."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.checkpoint.convert import from_torch_file
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training.recipe import Recipe, learning_rate_schedule, optimizer
from squeezetime_jax.training.step import init_state, train_step
from squeezetime_jax.training.task import Batch

TOLERANCE = 1e-6


def _clips(golden: Path, name: str) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    settings = json.loads((golden / f"{name}.json").read_text())["config"]
    steps, batch, side = settings["steps"], settings["batch"], settings["hw"]
    rng = np.random.default_rng(settings["seed"])
    clips = 0.5 * rng.standard_normal((steps, batch, 3, 16, side, side))
    clips = (clips + rng.standard_normal((steps, batch, 3, 16, 1, 1))).astype(np.float32)
    labels = rng.integers(0, 5, (steps, batch))
    test = np.random.default_rng(settings["seed"] + 1).standard_normal((2, 3, 16, side, side))
    return settings, np.moveaxis(clips, 2, -1), labels, np.moveaxis(test.astype("f4"), 1, -1)


class AsTheyAre(Recognition):
    """Recognition of clips that come normalised already."""

    def prepare(self, key: jax.Array, batch: Batch, rows: jax.Array) -> Batch:
        targets = jax.nn.one_hot(batch["labels"], 5, dtype=jnp.float64)
        return {**batch, "clips": batch["clips"].astype(jnp.float64), "targets": targets}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accumulation"), [("sgd", 1), ("sgd_groups", 3)])
def test_losses_and_final_scores_are_the_references(
    golden: Path, reference: Callable[[str], Path], name: str, accumulation: int
) -> None:
    settings, clips, labels, test = _clips(golden, name)
    expected = np.load(golden / f"{name}.npz")
    group = settings["batch"] // settings.get("groups", 1)
    recipe = Recipe(
        learning_rate=settings["lr"],
        base_batch_size=0,
        schedule="steps",
        weight_decay=settings["wd"],
        clip_norm=settings["clip"],
        accumulation=accumulation,
    )
    with jax.enable_x64(True):
        model, _ = from_torch_file(
            reference("golden/mmengine_tiny.pth"), dtype="float64", dropout=0.0, bn_group_size=group
        )
        task = AsTheyAre(Experiment(model=model.config, optimizer=recipe))
        schedule = learning_rate_schedule(
            recipe, batch_size=settings["batch"], epochs=1, steps_per_epoch=settings["steps"]
        )
        sgd = optimizer(recipe, schedule)
        step = jax.jit(
            functools.partial(
                train_step,
                task=task,
                optimizer=sgd,
                schedule=schedule,
                recipe=recipe,
            )
        )
        state = init_state(*task.network.split(model), sgd, recipe)
        losses, norms = [], []
        for video, label in zip(clips, labels, strict=True):
            state, metrics = step(state, {"clips": video, "labels": label}, jax.random.key(0))
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
        scores = jax.jit(lambda m, x: m(x))(
            task.network.merge(state.params, state.batch_stats), test.astype(np.float64)
        )
    np.testing.assert_allclose(losses, expected["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=TOLERANCE)
    # The classifier's norm is 10 and the scores are near 0.1: absolute error counts.
    np.testing.assert_allclose(scores, expected["final_logits"], atol=TOLERANCE)
