"""Goldens: the reference's own loss code on these inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from squeezetime_jax.tasks.localization import losses
from squeezetime_jax.tasks.localization.config import Loss
from squeezetime_jax.tasks.localization.losses import (
    Targets,
    assign,
    localization_loss,
    priors,
)

GROUND_TRUTH = [(10, 120, 5), (60, 90, 8), (60, 90, 3), (200, 204, 9), (239, 256, 2)]
SIX = (32, 16, 8, 4, 2, 1)

pytestmark = pytest.mark.usefixtures("float64")


def instances(*windows: list[tuple]) -> tuple[Array, Array]:
    """Segments and classes, padded to eight."""
    segments, classes = np.zeros((len(windows), 8, 2)), np.zeros((len(windows), 8), np.int32)
    for row, rows in enumerate(windows):
        for place, (start, end, label) in enumerate(rows):
            segments[row, place], classes[row, place] = (start, end), label
    return jnp.asarray(segments), jnp.asarray(classes)


def targets(lengths: tuple[int, ...], *windows: list[tuple]) -> Targets:
    return assign(jnp.asarray(priors(lengths, 256)), *instances(*windows), 256)


def loss(lengths: tuple[int, ...], logits: Array, place: tuple, *windows: list[tuple]) -> dict:
    """The parts, every prior finding the same distances."""
    count = sum(lengths)
    outputs = {
        "distances": jnp.broadcast_to(jnp.array(place, float), (len(windows), count, 2)),
        "logits": jnp.broadcast_to(logits, (len(windows), count, 21)),
    }
    points = priors(lengths, 256)
    total, parts = localization_loss(outputs, *instances(*windows), points, Loss(), 256)
    return {"total": float(total), **{name: float(part) for name, part in parts.items()}}


def some_logits() -> Array:
    logits = jnp.zeros((1, 8, 21)).at[..., 0].set(1.0)
    return logits.at[0, 2, 8].set(3.0)


def test_each_prior_gets_the_shortest_instance_around_it() -> None:
    found = targets((8,), GROUND_TRUTH)
    assert found.labels[0].tolist() == [5, 5, 8, 5, 0, 0, 0, 2]
    expected = [(6, 104), (38, 72), (20, 10), (102, 8), (1, 16)]
    assert found.distances[0][found.is_positive[0]].tolist() == [list(row) for row in expected]
    same = jnp.broadcast_to(jnp.array([20.0, 30.0]), (8, 2))
    shares = losses.overlaps(same, found.distances[0])
    expected = [0.2903225806451613, 0.45454545454545453, 0.6, 0.21212121212121213, 0.34]
    assert shares[found.is_positive[0]].tolist() == pytest.approx(expected, abs=1e-15)


def test_the_losses_of_one_level_are_the_references() -> None:
    found = loss((8,), some_logits(), (20, 30), GROUND_TRUTH)
    assert found["location"] == pytest.approx(0.6206021505376345, abs=1e-12)
    assert found["classification"] == pytest.approx(1.9890450997132532, abs=1e-12)
    assert found["total"] == pytest.approx(8.195066605089599, abs=1e-12)


def test_the_sums_are_divided_by_the_positives_of_the_whole_batch() -> None:
    empty = [(0, 2.56, 4)]  # no prior inside
    both = loss((8,), some_logits(), (20, 30), GROUND_TRUTH, empty)
    assert both["location"] == pytest.approx(0.6206021505376345, abs=1e-12)
    assert both["classification"] == pytest.approx(2.6844162940979004, abs=2e-7)
    alone = loss((8,), some_logits(), (20, 30), empty)
    assert alone["location"] == 0
    assert alone["classification"] == pytest.approx(3.476855516433716, abs=3e-7)


def test_six_levels_are_assigned_as_in_the_reference() -> None:
    levels = (
        "0 5 5 5 5 5 5 8 8 8 8 5 5 5 5 0 0 0 0 0 0 0 0 0 0 9 0 0 0 0 2 2",
        "0 5 5 5 8 8 5 5 0 0 0 0 9 0 0 2",
        "5 5 8 5 0 0 0 2",
        "5 5 0 0",
        "8 0",
        "0",
    )
    expected = [int(word) for level in levels for word in level.split()]
    assert targets(SIX, GROUND_TRUTH).labels[0].tolist() == expected


@pytest.mark.parametrize(
    ("lengths", "place", "location", "classification"),
    [
        (SIX, (20, 30), 0.6159666374677671, 2.6599229747148705),
        (SIX, (1, 1), 0.9492948082076331, 2.6599229747148705),
        (SIX[:5], (20, 30), 0.6159666374677671, 2.639618219182696),
    ],
)
def test_the_losses_of_all_levels_are_the_references(
    lengths: tuple, place: tuple, location: float, classification: float
) -> None:
    found = loss(lengths, jnp.zeros((1, 1, 21)), place, GROUND_TRUTH)
    assert found["location"] == pytest.approx(location, abs=1e-12)
    assert found["classification"] == pytest.approx(classification, abs=1e-12)


def test_the_ends_belong_to_the_instance() -> None:
    found = assign(jnp.array([128.0]), *instances([(128, 192, 1)]), 256)
    assert found.labels.tolist() == [[1]]
    assert found.distances.tolist() == [[[0, 64]]]
    part = losses.location_loss(jnp.array([[[4.0, 4.0]]]), found)
    assert float(part.sum()) == pytest.approx(0.9411764740943909, abs=2e-8)
    assert float(part.sum()) == pytest.approx(1 - 4 / 68, abs=1e-12)


def test_the_focal_loss_is_the_references() -> None:
    for logits, label, expected in (
        ((2.0, 0.0, 0.0), 0, 0.0027172927948502035),
        ((0.0, 1.0, -1.0), 1, 0.03425801821063442),
        ((0.0, 0.0, 0.0), 2, 0.3662019976157386),
    ):
        found = losses.focal_loss(jnp.array(logits), jnp.array(label))
        assert float(found) == pytest.approx(expected, abs=1e-15)


def test_the_overlap_loss_by_hand() -> None:
    """(3, 5) against (4, 4): 7 frames shared of 9."""
    found = losses.overlaps(jnp.array([3.0, 5.0]), jnp.array([4.0, 4.0]))
    assert 1 - float(found) == pytest.approx(2 / 9)


def test_gradients_are_finite_without_a_positive_prior() -> None:
    def total(z: Array) -> Array:
        outputs = {"distances": jnp.exp(z), "logits": jnp.zeros((1, 8, 21))}
        none = instances([(0, 2.56, 4)])
        return localization_loss(outputs, *none, priors((8,), 256), Loss(), 256)[0]

    gradient = jax.grad(total)(jnp.full((1, 8, 2), -200.0))  # exp(-200) squared is no number
    assert gradient.tolist() == np.zeros((1, 8, 2)).tolist()


def test_the_quality_loss_is_least_where_the_rating_is_the_overlap() -> None:
    expected = assign(jnp.array([128.0]), *instances([(64, 192, 1)]), 256)
    distances = jnp.array([[[32.0, 32.0]]])  # half of the instance

    def part(rating: float) -> float:
        logit = jnp.log(rating / (1 - rating))
        return float(losses.quality_loss(jnp.full((1, 1), logit), distances, expected).sum())

    assert part(0.5) == pytest.approx(np.log(2))
    assert part(0.5) < min(part(0.45), part(0.55))
