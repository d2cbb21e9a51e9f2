import numpy as np
import pytest

from squeezetime_jax.evaluation.metrics import Accuracy, Calibration


def test_hand_worked_accuracies() -> None:
    scores = np.zeros((4, 6), np.float32)
    scores[0, 2] = 1  # right
    scores[1, :5] = [5, 4, 3, 2, 1]  # label 4 comes fifth
    scores[2, :5] = [5, 4, 3, 2, 1]  # label 5 comes sixth
    scores[3, 2] = 1  # right
    result = Accuracy.of(scores, np.array([2, 4, 5, 2])).compute()
    assert result == pytest.approx({"top1": 0.5, "top5": 0.75, "mean_class": 1 / 3, "videos": 4})


def test_a_constant_model_gets_the_first_class_right() -> None:
    result = Accuracy.of(np.zeros((10, 10), np.float32), np.arange(10)).compute()
    assert result == pytest.approx({"top1": 0.1, "top5": 0.5, "mean_class": 0.1, "videos": 10})


def test_parts_merge_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((11, 7)).astype(np.float32), rng.integers(0, 7, 11)
    whole = Accuracy.of(scores, labels)
    merged = Accuracy.of(scores[:4], labels[:4]).merge(Accuracy.of(scores[4:], labels[4:]))
    assert merged.compute() == whole.compute()
    assert merged.per_class() == whole.per_class()


def test_scores_that_are_not_finite_are_wrong() -> None:
    scores = np.full((2, 3), np.nan, np.float32)
    assert Accuracy.of(scores, np.array([0, 1])).compute()["top5"] == 0


def test_no_video_is_not_a_division_by_zero() -> None:
    assert Accuracy.of(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).compute() == {
        "top1": 0.0, "top5": 0.0, "mean_class": 0.0, "videos": 0.0
    }  # fmt: skip


def test_hand_worked_calibration() -> None:
    """Two videos of 95 %, one right; two of 60 %, both right: (2 * 0.45 + 2 * 0.4) / 4."""
    scores = np.array([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.4, 0.6], [np.nan, 0.5]])
    found = Calibration.of(scores, np.array([0, 1, 1, 1, 0]), bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert found.accuracy[[5, 9]].tolist() == [1.0, 0.5]
    assert found.error() == pytest.approx((0.9 + 0.8) / 4)
