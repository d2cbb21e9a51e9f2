import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax import cli
from squeezetime_jax.tasks.detection.annotations import BoxRows, read_actions
from squeezetime_jax.tasks.detection.metric import GROUPS, frame_map


def rows_of(table: list[tuple], frames: list | None = None) -> BoxRows:
    """Rows `(frame, box, action, last)`."""
    frames = frames or list(dict.fromkeys(row[0] for row in table))
    return BoxRows(
        frames,
        np.array([frames.index(row[0]) for row in table], np.int64),
        np.array([row[1] for row in table], np.float64).reshape(-1, 4),
        np.array([row[2] for row in table], np.int64),
        np.array([row[3] for row in table], np.float64),
    )


def frame_map_command(*words: object) -> int:
    return cli.main(["frame-map", *map(str, words)])


def test_the_sample_of_mmaction2(
    reference: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    folder = reference("annotations/ava_sample/eval_detection")
    files = ["--ground-truth", folder / "gt.csv", "--detections", folder / "pred.csv"]
    files += ["--labels", folder / "action_list.txt"]
    assert frame_map_command(*files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"] == pytest.approx(0.09385521885521886, abs=1e-12)
    assert found["classes"] == pytest.approx(
        {"action1": 0.17045454545454545, "action2": 0.0, "action3": 0.1111111111111111}, abs=1e-12
    )
    groups = found["groups"]
    assert groups["person_movement"] == found["overall"]
    assert groups["object_manipulation"] is groups["person_interaction"] is None
    assert list(found["ground_truth"].values()) == [4, 3, 5]
    assert frame_map_command(*files) == 0
    out = capsys.readouterr().out
    assert "17.05 %       4     12  action1" in out
    assert out.endswith("9.39 %  frame mAP at IoU 0.5 (mmaction2)\n")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two frames with three boxes of two actions, and six detections.

    By hand: of `walk` (2 boxes) a hit, a duplicate and a hit give precisions 1, 1/2, 2/3 at recalls
    1/2, 1/2, 1, so 1/2 x 1 + 1/2 x 2/3 = 5/6. Of `talk` (1 box) a miss comes before the hit: 1/2.
    """
    (tmp_path / "gt.csv").write_text(
        "v,0902,0.1,0.1,0.5,0.9,1,0\nv,0903,0.1,0.1,0.5,0.9,1,0\nv,0902,0.5,0.1,0.9,0.9,65,1\n"
    )
    (tmp_path / "found.csv").write_text(
        "v,0902,0.1,0.1,0.5,0.8,1,0.9\n"
        "v,0902,0.1,0.1,0.5,0.9,1,0.8\n"
        "v,0903,0.1,0.2,0.5,0.9,1,0.7\n"
        "v,0902,0.1,0.1,0.5,0.9,65,0.6\n"
        "v,0902,0.5,0.1,0.9,0.9,65,0.5\n"
        "v,0902,0.5,0.1,0.9,0.9,7,0.5\n"
    )
    (tmp_path / "list.pbtxt").write_text(
        'item {\n  name: "walk"\n  id: 1\n}\nlabel {\n  name: "talk"\n  label_id: 65\n}\n'
    )
    names = {"ground-truth": "gt.csv", "detections": "found.csv", "labels": "list.pbtxt"}
    return [word for name, file in names.items() for word in (f"--{name}", str(tmp_path / file))]


def test_the_command_scores_files(files: list[str], capsys: pytest.CaptureFixture) -> None:
    assert frame_map_command(*files, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["classes"] == pytest.approx({"walk": 5 / 6, "talk": 1 / 2})
    assert found["overall"] == pytest.approx(2 / 3)
    expected = {"person_movement": 5 / 6, "object_manipulation": None, "person_interaction": 1 / 2}
    assert found["groups"] == pytest.approx(expected)
    assert (found["ground_truth"], found["detections"]) == (
        {"walk": 2, "talk": 1},
        {"walk": 3, "talk": 2},
    )
    assert (found["protocol"], found["iou"]) == ("mmaction2", 0.5)
    assert "found.csv: 1 rows left out" in err
    assert frame_map_command(*files) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "83.33 %       2      3  walk",
        "50.00 %       1      2  talk",
    ]


def test_excluded_frames_and_the_protocol_are_options(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "excluded.csv").write_text("v,0903\n")
    files += ["--exclude", str(tmp_path / "excluded.csv"), "--json"]
    for protocol, walk in (("mmaction2", 1 / 2), ("official", 1.0)):
        assert frame_map_command(*files, "--protocol", protocol) == 0
        assert json.loads(capsys.readouterr().out)["classes"]["walk"] == pytest.approx(walk)


def test_a_missing_file_is_one_line(files: list[str], capsys: pytest.CaptureFixture) -> None:
    files[files.index("--labels") + 1] = "none.pbtxt"
    assert frame_map_command(*files) == 1
    err = capsys.readouterr().err
    assert "none.pbtxt: cannot be read as text (No such file or directory)" in err
    assert err.count("\n") == 1


def plain_map(truth, found, actions, excluded, protocol):
    """Frame mAP box by box, one after the other."""
    official = protocol == "official"
    frames = list(dict.fromkeys(row[0] for row in truth if row[2] in actions))
    others = dict.fromkeys(row[0] for row in found if row[0] not in frames)
    precisions = {}
    for action in actions:
        scored = []
        for frame in [*frames, *others] if official else frames:
            if frame in excluded:
                continue
            boxes = [r for r in truth if r[0] == frame and r[2] == action]
            boxes = sorted(boxes, key=lambda r: -r[3])
            taken = set()
            mine = [r for r in found if r[0] == frame and r[2] == action]
            for _, box, _, score in sorted(mine, key=lambda r: -r[3]):
                overlaps = [plain_iou(box, other[1]) for other in boxes]
                best = int(np.argmax(overlaps)) if overlaps else -1
                hit = best >= 0 and overlaps[best] >= 0.5 and best not in taken
                taken |= {best} if hit else set()
                scored.append((score, hit))
        kept = [r for r in truth if r[2] == action and not (official and r[0] in excluded)]
        if not kept or (not scored and not official):
            continue
        scored.sort(key=lambda pair: -pair[0])
        hits = np.cumsum([hit for _, hit in scored])
        precision = [h / (i + 1) for i, h in enumerate(hits)]
        area, before = 0.0, 0.0
        for i, h in enumerate(hits):
            area += (h / len(kept) - before) * max(precision[i:])
            before = h / len(kept)
        precisions[action] = area
    return precisions


def plain_iou(a, b) -> float:
    a, b = np.float32(a), np.float32(b)
    wide = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    high = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    areas = (a[3] - a[1]) * (a[2] - a[0]), (b[3] - b[1]) * (b[2] - b[0])
    return high * wide / (float(areas[1] + areas[0]) - high * wide)


@pytest.mark.parametrize("protocol", ["mmaction2", "official"])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_a_plain_reading(seed: int, protocol: str) -> None:
    rng = np.random.default_rng(seed)
    actions = {3: "a", 20: "b", 70: "c", 71: "d"}

    def draw(number: int, num_frames: int, scores: np.ndarray) -> list[tuple]:
        corner = rng.choice([0.1, 0.15, 0.2, 0.5], (number, 2))
        boxes = np.hstack([corner, corner + rng.choice([0.2, 0.25, 0.4], (number, 2))])
        names = [(f"v{k}", 902) for k in rng.integers(0, num_frames, number)]
        ids = rng.choice([3, 20, 70, 80], number)
        rows = zip(names, boxes, ids, scores.tolist(), strict=True)
        return [(n, tuple(b), int(k), s) for n, b, k, s in rows]

    truth = draw(60, 9, rng.integers(0, 5, 60).astype(float))
    found = draw(150, 12, rng.permutation(150) / 150)  # no two scores are equal
    excluded = {("v2", 902), ("v10", 902)}
    result = frame_map(
        rows_of(truth), rows_of(found), actions, excluded=excluded, protocol=protocol
    )
    expected = plain_map(truth, found, actions, excluded, protocol)
    there = {k: ap for k, ap in result.average_precision.items() if not math.isnan(ap)}
    assert there == pytest.approx(expected, abs=1e-12)
    assert result.overall == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    for name, ids in GROUPS.items():
        part = [ap for k, ap in expected.items() if k in ids]
        assert result.groups()[name] == pytest.approx(np.mean(part), abs=1e-12)


def test_half_an_overlap_in_float32_is_not_a_half() -> None:
    frame = ("v", 902)
    truth = rows_of([(frame, (0.1, 0.1, 0.5, 0.9), 1, 0.0)])
    found = rows_of([(frame, (0.1, 0.1, 0.5, 0.5), 1, 0.9)])
    assert frame_map(truth, found, {1: "a"}).overall == 0.0
    found = rows_of([(frame, (0.1, 0.1, 0.5, 0.501), 1, 0.9)])
    assert frame_map(truth, found, {1: "a"}).overall == 1.0


def test_the_protocols_differ_where_they_say() -> None:
    box = (0.1, 0.1, 0.5, 0.9)
    a, b, c = ("a", 902), ("b", 902), ("c", 902)
    truth = rows_of([(a, box, 1, 0.0), (b, box, 1, 0.0), (a, box, 2, 0.0)])
    found = rows_of([(a, box, 1, 0.5), (c, box, 1, 0.9)])  # c has no ground truth
    actions = {1: "walk", 2: "sit"}
    ours = frame_map(truth, found, actions, excluded={b})
    assert ours.average_precision[1] == 0.5  # b's box was to be found, c's detection is not seen
    assert math.isnan(ours.average_precision[2])
    theirs = frame_map(truth, found, actions, excluded={b}, protocol="official")
    assert theirs.average_precision == {1: 0.5, 2: 0.0}  # b's is not; c's comes first and is wrong
    assert theirs.num_ground_truth == {1: 1, 2: 1}


def test_names_that_occur_twice_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("12: stand\n17: walk\n79: talk\n80: talk\n")
    empty = rows_of([])
    result = frame_map(empty, empty, read_actions(path)).to_json()
    assert list(result["classes"]) == ["stand", "walk", "talk (79)", "talk (80)"]
    assert result["overall"] is None


def test_the_figure_shows_each_average_precision() -> None:
    box, frame = (0.1, 0.1, 0.5, 0.9), ("v", 902)
    truth = rows_of([(frame, box, 1, 0.0), (frame, box, 2, 0.0), (frame, box, 3, 0.0)])
    found = rows_of(
        [(frame, (0.8, 0.8, 0.9, 0.9), 1, 0.9), (frame, box, 1, 0.5), (frame, box, 2, 1.0)]
    )
    figure = frame_map(truth, found, {1: "walk", 2: "sit", 3: "never found"}).figure()
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    bars = [bar.get_width() for bar in axes.patches]
    assert dict(zip(names, bars, strict=True)) == {"walk": 50.0, "sit": 100.0}
    assert axes.get_title() == "frame mAP 75.00 %"
