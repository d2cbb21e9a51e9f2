import json
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax import cli
from squeezetime_jax.tasks.localization.annotations import Instances, read_ground_truth
from squeezetime_jax.tasks.localization.metric import TemporalMap, overlap, temporal_map

TRUTH = [(10, 20), (30, 40), (50, 60)]
FOUND = [(11, 20, 0.9), (12, 18, 0.8), (32, 44, 0.7), (49, 53.5, 0.6), (70, 75, 0.5)]


def scores(truth: list[tuple], found: list[tuple]) -> TemporalMap:
    """Of one class in one video."""
    return temporal_map(
        Instances.of([("v1", "Diving", *row) for row in truth], scored=False),
        Instances.of([("v1", "Diving", *row) for row in found], scored=True),
        {"v1"},
    )


def write(path: Path, truth: list[tuple], found: list[tuple]) -> tuple[str, str]:
    """Both files of one class in one video, segments of the ground truth as strings."""
    annotations = [{"segment": [str(s), str(e)], "label": "Diving"} for s, e in truth]
    database = {"v1": {"subset": "test", "annotations": annotations}}
    results = [{"label": "Diving", "score": x, "segment": [s, e]} for s, e, x in found]
    files = path / "gt.json", path / "out.json"
    files[0].write_text(json.dumps({"database": database}))
    files[1].write_text(json.dumps({"results": {"v1": results, "other": results}}))
    return str(files[0]), str(files[1])


def command(*words: str) -> int:
    return cli.main(["temporal-map", *words])


# Goldens: the same input given to the reference's evaluation code.


def test_a_duplicate_and_a_miss_score_as_in_the_reference() -> None:
    found = scores(TRUTH, FOUND)
    expected = [0.8333333333333333, *[0.5555555555555556] * 2, *[0.3333333333333333] * 2]
    assert found.per_threshold.tolist() == pytest.approx(expected, abs=1e-15)
    assert found.average == pytest.approx(0.5222222222222223, abs=1e-15)


def test_an_overlap_equal_to_the_threshold_counts() -> None:
    assert scores([(0, 10)], [(0, 5, 0.5)]).per_threshold.tolist() == [1, 1, 1, 0, 0]


def test_of_equal_scores_the_later_comes_first() -> None:
    right, wrong = (0, 10, 0.5), (50, 60, 0.5)
    assert scores([(0, 10)], [right, wrong]).average == 0.5
    assert scores([(0, 10)], [wrong, right]).average == 1.0


def test_thumos14_as_its_own_prediction_is_perfect(thumos14: Path) -> None:
    truth, videos = read_ground_truth(thumos14 / "thumos_gt.json", "test")
    assert (len(videos), len(truth.videos)) == (210, 3311)
    for values in (np.full(3311, 0.5), np.random.default_rng(0).uniform(size=3311)):
        found = Instances(truth.videos, truth.labels, truth.segments, values)
        result = temporal_map(truth, found, videos)
        assert len(result.classes) == 20
        assert result.per_threshold.tolist() == [1.0] * 5


# By hand.


def test_a_duplicate_may_find_the_second_best_instance() -> None:
    """(0, 10) overlaps (0, 9) by 0.9 and (0, 6) by 0.6; its duplicate finds the second."""
    found = scores([(0, 9), (0, 6)], [(0, 10, 0.9), (0, 10, 0.8)])
    assert found.per_threshold.tolist() == [1, 1, 1, 1, 0.5]


def test_a_class_without_detections_counts_as_zero_and_foreign_ones_do_not_count() -> None:
    truth = Instances.of([("v1", "a", 0, 1), ("v1", "b", 0, 1)], scored=False)
    rows = [("v1", "a", 0, 1, 0.5), ("v1", "c", 0, 1, 0.9), ("v2", "a", 0, 1, 0.7)]
    detections = Instances.of(rows, scored=True)
    found = temporal_map(truth, detections, {"v1"})
    assert found.classes == ("a", "b")
    assert found.average_precision[:, 0].tolist() == [1.0, 0.0]
    # In a video that is scored but has no instance, a detection is a false positive.
    found = temporal_map(truth, detections, {"v1", "v2"})
    assert found.average_precision[:, 0].tolist() == [0.5, 0.0]


def test_many_detections_are_matched_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 50, 60)
    found = [(s, s + 8, x) for s, x in zip(start, rng.uniform(size=60), strict=True)]
    truth = [(s, s + 7) for s in rng.uniform(0, 50, 12)]
    whole = scores(truth, found).average
    monkeypatch.setattr("squeezetime_jax.tasks.localization.metric._AT_ONCE", 7)
    assert scores(truth, found).average == whole
    assert 0 < whole < 1


def test_empty_segments_overlap_nothing() -> None:
    point = np.array([[1.0, 1.0]])
    assert overlap(point, point).tolist() == [[0.0]]


# The command.


def test_the_command_prints_a_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, TRUTH, FOUND)
    arguments = ["--ground-truth", files[0], "--detections", files[1]]
    assert command(*arguments) == 0
    out = capsys.readouterr().out
    words = ["83.33", "55.56", "55.56", "33.33", "33.33", "52.22"]
    assert out.splitlines()[1].split() == ["Diving", *words]
    assert "detections: 10, of which 5 of other videos left out; instances: 3 in 1 video" in out
    assert command(*arguments, "--json", "--tiou", "0.6,0.3") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["average"] == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert found["per_threshold"] == pytest.approx({"0.6": 1 / 3, "0.3": 5 / 6})
    assert found["classes"]["Diving"]["per_threshold"] == found["per_threshold"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('"score": 0.9', '"score": "x"'),
            "results.v1[0], score: expected a finite number, got 'x'",
        ),
        (('"score": 0.9', '"score": NaN'), "out.json: expected finite numbers, got NaN"),
        (('"score": 0.9, ', ""), "results.v1[0], score: expected a finite number, got None"),
        (("[11, 20]", "[20, 11]"), "expected a segment that starts before its end, got [20, 11]"),
        (("[11, 20]", "[11]"), "expected a segment [start, end] in seconds, got [11]"),
        (
            ("[11, 20]", '[11, "1e999"]'),
            "results.v1[0], segment: expected a finite number, got '1e999'",
        ),
        (
            ('"label": "Diving", "score": 0.9', '"score": 0.9'),
            "expected a field 'label', got ['score'",
        ),
        (('"label": "Diving"', '"label": 3'), "field label: expected a string, got 3"),
        (('"results": {', '"results": [{'), "line 1, column"),
        (('"results"', '"result"'), "out.json: expected a field 'results', got ['result']"),
    ],
)
def test_malformed_detections_are_named(
    change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = write(tmp_path, TRUTH, FOUND)
    text = Path(found).read_text()
    assert change[0] in text
    Path(found).write_text(text.replace(*change, 1))
    assert command("--ground-truth", truth, "--detections", found) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"database": {"v1": {"annotations": []}}}, "database.v1: expected a field 'subset'"),
        ({"database": {"v1": 3}}, "gt.json: database.v1: expected an object, got 3"),
        ({"database": []}, "gt.json, field database: expected an object, got []"),
        (["database"], "gt.json: expected one JSON object, got ['database']"),
        ({"database": {}}, "no instance of subset 'test'; its subsets are none"),
        (
            {"database": {"v1": {"subset": "test", "annotations": [{"segment": [1, 2]}]}}},
            "database.v1.annotations[0]: expected a field 'label', got ['segment']",
        ),
        ({"database": {"v1": {"subset": "test", "annotations": []}}}, "its subsets are 'test'"),
    ],
)
def test_malformed_ground_truth_is_named(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = write(tmp_path, TRUTH, FOUND)
    Path(truth).write_text(json.dumps(content))
    assert command("--ground-truth", truth, "--detections", found) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("tiou", ["0.5,x", "0", "1.5", "", "0.5,0.5"])
def test_thresholds_that_make_no_sense_are_refused(
    tiou: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = write(tmp_path, TRUTH, FOUND)
    assert command("--ground-truth", truth, "--detections", found, "--tiou", tiou) == 1
    assert "--tiou: expected different numbers in (0, 1]" in capsys.readouterr().err


def test_a_file_that_is_not_there_or_nested_without_end_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = write(tmp_path, TRUTH, FOUND)
    Path(found).write_text("[" * 100_000)
    assert command("--ground-truth", truth, "--detections", found) == 1
    assert command("--ground-truth", truth, "--detections", "nowhere.json") == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert "nested too deeply" in err
    assert "nowhere.json: cannot be read" in err
