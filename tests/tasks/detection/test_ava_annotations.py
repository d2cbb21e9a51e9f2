from pathlib import Path

import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection import annotations, evaluate

ITEM = '{} {{\n  name: "{}"\n  {}: {}\n}}\n'
GOOD = "v,0902,0.1,0.2,0.3,0.4,12,0\n"


def write(folder: Path, text: str, name: str = "gt.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v,0902,0.1,0.2,0.3", r"found 5 columns \(v,0902,0.1,0.2,0.3\), wanted 7 or 8"),
        ("v,0902,0.1,0.2,0.3,0.4,12,0,9", "found 9 columns"),
        ("v,0902,0.1,0.2,nan,0.4,12,0", "found 'nan', wanted a finite number"),
        ("v,0902,0.1,0.2,0.3,inf,12,0", "found 'inf', wanted a finite number"),
        ("v,0902,0.1,x,0.3,0.4,12,0", "found 'x', wanted a number"),
        ("v,-3,0.1,0.2,0.3,0.4,12,0", "found second '-3'"),
        ("v,0902,0.1,0.2,1.3,0.4,12,0", r"found box \[0.1, 0.2, 1.3, 0.4\], wanted .* in \[0, 1\]"),
        ("v,0902,-0.1,0.2,0.3,0.4,12,0", r"in \[0, 1\]"),
        ("v,0902,0.4,0.2,0.3,0.4,12,0", "wanted x1 <= x2"),
        ("v,0902,0.1,0.2,0.3,0.4,81,0", "found action id '81', wanted a label from 1 to 80"),
        ("v,0902,0.1,0.2,0.3,0.4,0,0", "found action id '0'"),
        ("v,0902,0.1,0.2,0.3,0.4,walk,0", "found action id 'walk'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, GOOD + "\n" + line + "\n")
    with pytest.raises(UserError, match=rf"gt\.csv, line 3: .*{message}") as error:
        annotations.read_ground_truth(path, max_action=80)
    assert "\n" not in str(error.value)


def test_a_detection_may_stick_out_a_little(tmp_path: Path) -> None:
    path = write(tmp_path, "v,902,-0.01,0.2,1.05,0.4,12,0.5\n")
    assert annotations.read_detections(path).boxes.tolist() == [[-0.01, 0.2, 1.05, 0.4]]
    with pytest.raises(UserError, match="line 1"):
        annotations.read_detections(write(tmp_path, "v,902,10,20,30,40,12,0.5\n"))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        annotations.read_ground_truth(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x\.csv: not readable as a text file"):
        annotations.read_ground_truth(tmp_path / "x.csv")
    assert evaluate.main(["--ground-truth", "a", "--detections", "b", "--labels", "none"]) == 1


def test_rows_of_one_frame_belong_together(tmp_path: Path) -> None:
    text = GOOD + "w,0903,0.1,0.2,0.3,0.4,1,2\r\n" + "v,902,0.5,0.5,0.6,0.6,80,1\n"
    rows = annotations.read_ground_truth(write(tmp_path, text))
    assert rows.frames == [("v", 902), ("w", 903)]
    assert rows.frame.tolist() == [0, 1, 0]
    assert rows.action.tolist() == [12, 1, 80]
    assert rows.last.tolist() == [0, 2, 1]


def test_boxes_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "v,902,0.1,0.2,0.3,0.4\n")
    assert annotations.read_boxes(path).action.tolist() == [0]
    with pytest.raises(UserError, match="6 columns"):
        annotations.read_ground_truth(path)


def test_excluded_frames(tmp_path: Path) -> None:
    path = write(tmp_path, "a,0903\n\nb,902\n")
    assert annotations.read_excluded(path) == {("a", 903), ("b", 902)}
    with pytest.raises(UserError, match=r"line 2: found 'b', wanted video_id,second"):
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
        ("1: a\n1: b\n", "line 2: found action id 1 a second time"),
        ("0: a\n", "line 1: found action id 0"),
        ("walk\n", "line 1: found 'walk'"),
        ("\n", "names no action"),
    ],
)
def test_a_bad_list_of_actions(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        annotations.read_actions(write(tmp_path, text, "list.pbtxt"))
