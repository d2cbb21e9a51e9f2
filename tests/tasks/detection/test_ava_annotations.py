from pathlib import Path

import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection import annotations

ITEM = '{} {{\n  name: "{}"\n  {}: {}\n}}\n'
GOOD = "v,0902,0.1,0.2,0.3,0.4,12,0\n"


def write(folder: Path, text: str, name: str = "gt.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,0902,0.1,0.2,0.3", "expected 7 or 8 columns, got 'v,0902,0.1,0.2,0.3'"),
        ("v,0902,0.1,0.2,0.3,0.4,12,0,9", "expected 7 or 8 columns, got 'v,0902.*,9'"),
        ("v,0902,0.1,0.2,nan,0.4,12,0", "expected a finite number, got 'nan'"),
        ("v,0902,0.1,0.2,0.3,inf,12,0", "expected a finite number, got 'inf'"),
        ("v,0902,0.1,x,0.3,0.4,12,0", "expected a finite number, got 'x'"),
        (
            "v,-3,0.1,0.2,0.3,0.4,12,0",
            r"second: expected a finite number in \[0, 1e\+09\], got '-3'",
        ),
        (
            "v,0902,0.1,0.2,1.3,0.4,12,0",
            r"expected .* in \[0, 1\], as shares of the frame, got \[0.1, 0.2, 1.3, 0.4\]",
        ),
        ("v,0902,-0.1,0.2,0.3,0.4,12,0", r"in \[0, 1\], .* got \[-0.1"),
        ("v,0902,0.4,0.2,0.3,0.4,12,0", "expected a box with x1 <= x2"),
        ("v,0902,0.1,0.2,0.3,0.4,81,0", "expected an action id from 1 to 80, got '81'"),
        ("v,0902,0.1,0.2,0.3,0.4,0,0", "from 1 to 80, got '0'"),
        ("v,0902,0.1,0.2,0.3,0.4,walk,0", "from 1 to 80, got 'walk'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, GOOD + "\n" + line + "\n")
    with pytest.raises(UserError, match=rf"gt\.csv, line 3.*{message}") as error:
        annotations.read_ground_truth(path, max_action=80)
    assert "\n" not in str(error.value)


def test_a_detection_may_reach_slightly_beyond_the_frame(tmp_path: Path) -> None:
    path = write(tmp_path, "v,902,-0.01,0.2,1.05,0.4,12,0.5\n")
    assert annotations.read_detections(path).boxes.tolist() == [[-0.01, 0.2, 1.05, 0.4]]
    with pytest.raises(UserError, match="line 1"):
        annotations.read_detections(write(tmp_path, "v,902,10,20,30,40,12,0.5\n"))


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        annotations.read_ground_truth(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x\.csv: cannot be read as text"):
        annotations.read_ground_truth(tmp_path / "x.csv")


def test_rows_of_one_frame_belong_together(tmp_path: Path) -> None:
    text = GOOD + "w,0903,0.1,0.2,0.3,0.4,1,2\r\n" + "v,902,0.5,0.5,0.6,0.6,80,1\n"
    rows = annotations.read_ground_truth(write(tmp_path, text))
    assert rows.frames == [("v", 902), ("w", 903)]
    assert rows.frame.tolist() == [0, 1, 0]
    assert rows.action.tolist() == [12, 1, 80]
    assert rows.last.tolist() == [0, 2, 1]


def test_boxes_without_actions(tmp_path: Path) -> None:
    path = write(tmp_path, "v,902,0.1,0.2,0.3,0.4\n")
    assert annotations.read_boxes(path).action.tolist() == [0]
    with pytest.raises(UserError, match="expected 7 or 8 columns"):
        annotations.read_ground_truth(path)


def test_excluded_frames(tmp_path: Path) -> None:
    path = write(tmp_path, "a,0903\n\nb,902\n")
    assert annotations.read_excluded(path) == {("a", 903), ("b", 902)}
    with pytest.raises(UserError, match=r"line 2: expected video_id,second, got 'b'"):
        annotations.read_excluded(write(tmp_path, "a,903\nb\n"))


@pytest.mark.parametrize(
    "text",
    [
        ITEM.format("item", "bend/bow (at the waist)", "id", 1)
        + ITEM.format("item", "sit", "id", 11),
        ITEM.format("label", "bend/bow (at the waist)", "label_id", 1)
        + ITEM.format("label", "sit", "label_id", 11).replace("}", "  label_type: OTHER\n}"),
        "1: bend/bow (at the waist)\n11: sit\n",
    ],
)
def test_lists_of_actions(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text, "list.pbtxt")
    assert annotations.read_actions(path) == {1: "bend/bow (at the waist)", 11: "sit"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: a\n1: b\n", "line 2: expected an action id of at least 1, each once, got 1"),
        ("0: a\n", "line 1: expected an action id of at least 1, each once, got 0"),
        ("walk\n", "line 1: expected .*, got 'walk'"),
        ("\n", "no action found"),
    ],
)
def test_a_bad_list_of_actions(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        annotations.read_actions(write(tmp_path, text, "list.pbtxt"))


def test_detections_are_written_as_they_are_read(tmp_path: Path) -> None:
    text = "v,902,0.1000,0.2000,0.3000,0.4000,12,0.5000\nw,3,0.0000,0.0000,1.0000,1.0000,1,0.1234\n"
    rows = annotations.read_detections(write(tmp_path, text))
    annotations.write_detections(tmp_path / "again.csv", rows)
    assert (tmp_path / "again.csv").read_text() == text
