import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax import cli
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.proposals import Proposals, read_proposals, write_proposals

FRAME = ("v", 902)


def test_the_sample_of_mmaction2(reference: Callable[[str], Path]) -> None:
    folder = reference("annotations/ava_sample/ava_dataset")
    found = read_proposals(folder / "ava_proposals_sample.pkl")
    assert found.frames() == [("0f39OWEqJ24", 902), ("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902)]
    first = found.select(("0f39OWEqJ24", 902))
    assert first.tolist() == [[0.011, 0.157, 0.655, 0.983, 0.998163]]
    last = found.select(("_-Z6wFjXtGQ", 902))
    assert last[:, 4].tolist() == [0.994488, 0.996238]
    assert found.all_of(("_-Z6wFjXtGQ", 902))[0, 4] == 0.281325


def test_which_boxes_are_used() -> None:
    boxes = np.zeros((4, 5))
    boxes[:, 2:4], boxes[:, 4] = 1, [0.5, 0.7, 0.7, 0.1]
    found = Proposals({FRAME: boxes, ("w", 1): np.zeros((0, 5)), ("x", 1): boxes[:, :4]})
    assert found.select(FRAME)[:, 4].tolist() == [0.7, 0.7]  # none reaches 0.9
    assert found.select(FRAME, 0.5)[:, 4].tolist() == [0.5, 0.7, 0.7]
    assert found.select(FRAME, 0.0, max_boxes=2)[:, 4].tolist() == [0.5, 0.7]  # the file's order
    whole = [[0, 0, 1, 1, 1]]
    assert found.select(("nobody", 1)).tolist() == found.select(("w", 1)).tolist() == whole
    assert found.select(("x", 1))[:, 4].tolist() == [1] * 4


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.float64, np.float32, ">f8"])
def test_every_pickle_protocol(tmp_path: Path, protocol: int, kind: object) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (200, 2))
    boxes = np.hstack([corner, corner + 0.1, rng.uniform(size=(200, 1))]).astype(kind)
    path = tmp_path / "p.pkl"
    expected = {"a,b,0902": boxes, "c,1798": np.asfortranarray(boxes[:3]), "d,0903": boxes[:0]}
    path.write_bytes(pickle.dumps(expected, protocol=protocol))
    found = read_proposals(path)
    assert found.frames() == [("a,b", 902), ("c", 1798), ("d", 903)]
    np.testing.assert_array_equal(found.all_of(("a,b", 902)), boxes.astype(np.float64))
    np.testing.assert_array_equal(found.all_of(("c", 1798)), boxes[:3].astype(np.float64))
    assert found.all_of(("d", 903)).shape == (0, 5)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"v,0902": Evil()}))
    with pytest.raises(
        UserError, match=r"evil\.pkl, entry 'v,0902': expected .*, got an object of .*mkdir"
    ):
        read_proposals(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dictionary by .*, got a list"),
        ({"v-0902": np.ones((1, 5))}, "expected keys .*, got 'v-0902'"),
        ({7: np.ones((1, 5))}, "expected keys .*, got 7"),
        ({"v,0902": [[0, 0, 1, 1, 1]]}, "entry 'v,0902': expected an array of floats, got a list"),
        (
            {"v,0902": np.ones((1, 5), int)},
            "expected an array of floats, got an array of another type",
        ),
        ({"v,0902": np.array([None])}, "expected an array of floats, got an array of another type"),
        (
            {"v,0902": np.ones((1, 6))},
            r"entry v,0902: expected floats .*, got float64 of shape \(1, 6\)",
        ),
        (
            {"v,0902": np.full((1, 5), np.nan)},
            "entry v,0902: expected finite numbers x1, y1, x2, y2, score",
        ),
        (
            {"v,0902": np.array([[0, 0, 1.5, 1, 1.0]])},
            r"expected x1, y1, x2, y2 in \[0, 1\], as shares, got \[0.0, 0.0, 1.5",
        ),
        ({"v,0902": np.array([[0.5, 0, 0.2, 1, 1]])}, "expected a box with x1 <= x2"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "p.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        read_proposals(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_files(tmp_path: Path) -> None:
    whole = pickle.dumps({"v,0902": np.ones((9, 5))})
    for name, data in (("cut.pkl", whole[:-40]), ("no.npz", b"PK\x03\x04"), ("no.parquet", b"P")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            read_proposals(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_proposals(tmp_path / "none.pkl")
    np.savez(tmp_path / "other.npz", boxes=np.ones((1, 5)))
    with pytest.raises(UserError, match=r"other\.npz: expected the columns video_id, second, x1"):
        read_proposals(tmp_path / "other.npz")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_converted_files_hold_the_same(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture
) -> None:
    source, target = tmp_path / "p.pkl", tmp_path / f"p{suffix}"
    boxes = np.array([[0.1, 0.2, 0.3, 0.4, 0.9], [0, 0, 1, 1, 0.123456789]])
    frames = {"v,0902": boxes, "w,0001": boxes[1:], "v,0903": boxes[:1]}
    source.write_bytes(pickle.dumps(frames))
    assert cli.main(["ava-proposals", str(source), str(target)]) == 0
    assert "3 frames" in capsys.readouterr().out
    before, after = read_proposals(source), read_proposals(target)
    assert before.frames() == after.frames()
    for frame in before.frames():
        np.testing.assert_array_equal(before.all_of(frame), after.all_of(frame))
    with pytest.raises(UserError, match=r"must end in \.npz or \.parquet"):
        write_proposals(tmp_path / "q.pkl", before)
