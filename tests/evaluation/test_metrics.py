import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax.evaluation.metrics import Accuracy


def _count(scores: np.ndarray, labels: list[int], mask: list[bool] | None = None) -> Accuracy:
    mask = mask or [True] * len(labels)
    return Accuracy.of(jnp.asarray(scores), jnp.asarray(labels), jnp.asarray(mask))


def test_hand_worked_accuracies() -> None:
    scores = np.zeros((4, 6), np.float32)
    scores[0, 2] = 1  # right
    scores[1, :5] = [5, 4, 3, 2, 1]  # label 4 comes fifth
    scores[2, :5] = [5, 4, 3, 2, 1]  # label 5 comes sixth
    scores[3, 2] = 1  # right
    result = _count(scores, [2, 4, 5, 2]).compute()
    assert result == pytest.approx({"top1": 0.5, "top5": 0.75, "mean_class": 1 / 3, "videos": 4})


def test_a_constant_model_gets_the_first_class_right() -> None:
    result = _count(np.zeros((10, 10), np.float32), list(range(10))).compute()
    assert result == pytest.approx({"top1": 0.1, "top5": 0.5, "mean_class": 0.1, "videos": 10})


def test_padding_does_not_count_and_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((11, 7)).astype(np.float32), rng.integers(0, 7, 11)
    whole = _count(scores, list(labels)).compute()
    merged = Accuracy.empty(7)
    for start in (0, 4, 8):
        rows = np.arange(start, start + 4) % 11
        mask = list(np.arange(start, start + 4) < 11)
        merged = merged.merge(_count(scores[rows], list(labels[rows]), mask))
    assert merged.compute() == whole


def test_scores_that_are_no_numbers_are_wrong() -> None:
    scores = np.full((2, 3), np.nan, np.float32)
    assert _count(scores, [0, 1]).compute()["top5"] == 0


def test_no_video_is_not_a_division_by_zero() -> None:
    assert Accuracy.empty(3).compute()["videos"] == 0
