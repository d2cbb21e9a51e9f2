"""The shipped configs of detection hold the published recipe."""

import math

import pytest

from squeezetime_jax.data.embedded import people
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.config import Experiment
from squeezetime_jax.training import config
from squeezetime_jax.training.recipe import learning_rate_schedule

# ml_collections' own
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def read(name: str, *changes: str) -> Experiment:
    return config.parse(config.read([f"--config={name}", *changes]))


def test_the_released_recipe() -> None:
    ava = read("ava21")
    assert ava == read("ava21:released")
    assert (ava.epochs, ava.batch_size, ava.model.bn_group_size) == (50, 128, 16)
    assert (ava.model.num_classes, ava.model.strides) == (81, (1, 2, 2, 1))
    assert (ava.data.short_side, ava.data.crop_size, ava.data.max_boxes) == (288, 256, 32)
    assert (ava.data.person_score, ava.data.match_iou) == (0.9, 0.9)
    assert ava.evaluation.action_score == 0.002
    assert ava.optimizer.weight_decay == 1e-5
    assert (ava.optimizer.momentum, ava.optimizer.clip_norm) == (0.9, 40.0)
    assert ava.published.frame_map == 0.151


def test_the_released_learning_rate_at_20_steps_an_epoch() -> None:
    """Up from 0.1 to 1.0 over 100 steps, then a cosine to 0.01; the last step is just above."""
    ava = read("ava21")
    rate = learning_rate_schedule(ava.optimizer, batch_size=128, epochs=50, steps_per_epoch=20)
    assert float(rate(0)) == pytest.approx(0.1)
    assert float(rate(99)) == float(rate(100)) == pytest.approx(1.0)
    middle = 0.01 + 0.99 * (1 + math.cos(math.pi * 100 / 900)) / 2
    assert float(rate(200)) == pytest.approx(middle, rel=1e-5)
    assert float(rate(999)) == pytest.approx(0.0100030, abs=1e-7)
    small = learning_rate_schedule(ava.optimizer, batch_size=16, epochs=50, steps_per_epoch=20)
    assert float(small(99)) == pytest.approx(0.125)  # scaled to the batch, its end is not
    assert float(small(999)) == pytest.approx(0.01, abs=1e-6)


def test_the_papers_recipe() -> None:
    paper = read("ava21:paper")
    assert paper.optimizer.learning_rate == 0.01
    assert paper.epochs == 50
    with pytest.raises(UserError, match="'papre'; known are released, paper"):
        read("ava21:papre")


def test_the_embedded_persons_have_their_actions() -> None:
    demo = read("ava_demo")
    assert demo.model.num_classes == 1 + len(people.ACTIONS)
    sampling = demo.data.sampling(demo.model.num_frames)
    numbers = sampling.numbers(people.SECOND)
    assert numbers.tolist() == list(range(1, 33, 2))  # the whole video
    middle = people.FPS * people.SECONDS // 2
    assert numbers[8] - 1 == middle  # the moment that is annotated


def test_fields_can_be_changed_and_are_checked() -> None:
    assert read("ava21", "--config.data.frame_offset=0").data.frame_offset == 0
    for change, message in (
        ("--config.data.frame_offset=2", "frame_offset must be 0 or 1, got 2"),
        ("--config.data.person_score=2.0", "person_score must be in .* got 2.0"),
        ("--config.data.people.size=31", "size must be .* got 31"),
        ("--config.optimizer.mixup=0.2", "optimizer.mixup is 0.2, but detection does not support"),
        ("--config.model.name=tsm_r18", "model.name is tsm_r18, but detection supports only"),
    ):
        with pytest.raises(UserError, match=message):
            read("ava21", change)


def test_a_misspelt_protocol_is_refused(untyped: None) -> None:
    with pytest.raises(
        UserError, match=r"evaluation\.protocol must be .* mmaction2, official, got 'oficial'"
    ):
        read("ava21", "--config.evaluation.protocol=oficial")
