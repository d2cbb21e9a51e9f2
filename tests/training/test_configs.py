"""Every shipped config builds, and its learning rate turns its corners."""

import jax
import pytest
from tiny import mesh_of

from squeezetime_jax.training import config, run
from squeezetime_jax.training.config import Experiment
from squeezetime_jax.training.recipe import learning_rate_schedule

VARIANTS = [
    "demo",
    "finetune",
    "hmdb51:released",
    "hmdb51:paper",
    "imagenet1k",
    "k400:released",
    "k400:paper",
    "k600",
    "sthv2",
]


def _experiment(name: str) -> Experiment:
    fields = config.read([f"--config={name}"])
    config.fill_in(fields, num_videos=4000, num_classes=51)
    return config.parse(fields)


def test_every_shipped_config_is_tried() -> None:
    assert {name.partition(":")[0] for name in VARIANTS} == set(config.shipped_configs())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_step_takes_its_own_state_and_gives_it_back(name: str) -> None:
    trainer = run.Trainer(_experiment(name), mesh_of(1), steps_per_epoch=10)
    state = trainer.abstract_state()
    after, metrics = jax.eval_shape(
        trainer._step, state, trainer.abstract_batch(), jax.eval_shape(trainer.key)
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        # At 10 steps an epoch: first and last step of the warm-up, first and last of the cosine.
        ("k400:released", {0: 0.012, 79: 0.12, 80: 0.12, 999: 0.00015034938}),
        # 1.5e-4 + (0.015 - 1.5e-4)/2 * 5.8303e-6
        ("k400:paper", {0: 0.0015, 79: 0.015, 80: 0.015, 999: 0.00015004329}),
        ("k600", {0: 0.012, 79: 0.12, 80: 0.12, 999: 0.00015034938}),
        ("hmdb51:released", {0: 0.16, 119: 0.16, 120: 0.016, 240: 0.0016, 499: 0.0016}),
        ("hmdb51:paper", {0: 0.015, 119: 0.015, 120: 0.0015, 240: 0.00015, 499: 0.00015}),
        # 0.4/2 * (1 - cos(pi/850))
        ("imagenet1k", {0: 0.04, 49: 0.4, 50: 0.4, 899: 1.36602e-06}),
    ],
)
def test_learning_rates_at_the_corners(name: str, corners: dict[int, float]) -> None:
    experiment = _experiment(name)
    with jax.enable_x64(True):
        schedule = learning_rate_schedule(
            experiment.optimizer,
            batch_size=experiment.batch_size,
            epochs=experiment.epochs,
            steps_per_epoch=10,
        )
        found = [float(schedule(step)) for step in corners]
    assert found == pytest.approx(list(corners.values()), rel=1e-5)


def test_the_releases_and_the_papers_recipes() -> None:
    table = {  # epochs, batch, decay, backbone's share of the rate
        "k400:released": (100, 512, 7e-5, 1.0),
        "k400:paper": (100, 512, 7e-5, 1.0),
        "k600": (100, 512, 3e-5, 1.0),
        "hmdb51:released": (50, 512, 8e-3, 0.1),
        "hmdb51:paper": (50, 512, 1e-2, 1.0),
    }
    for name, expected in table.items():
        experiment = _experiment(name)
        recipe = experiment.optimizer
        found = (
            experiment.epochs,
            experiment.batch_size,
            recipe.weight_decay,
            recipe.backbone_multiplier,
        )
        assert found == expected, name
        assert (recipe.momentum, recipe.clip_norm, recipe.label_smoothing) == (0.9, 40.0, 0.0)
        assert experiment.model.bn_group_size == 64
        assert experiment.model.dropout == 0.5


@pytest.mark.parametrize("name", sorted(config.shipped_configs()))
def test_a_config_opens_with_its_command_and_its_cost(name: str) -> None:
    text = config.shipped_configs()[name].read_text()
    assert f"squeezetime train --config configs/{name}.py --workdir" in text
    assert "Cost:" in text
