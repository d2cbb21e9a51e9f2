"""Files that are whole or not there."""

from pathlib import Path

import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole, write_whole


def test_a_file_takes_its_place_when_all_is_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "picture.png"
    with whole(path) as part:
        part.write_bytes(b"1")
        assert part.suffix == ".png"
        assert part.name.startswith(".picture.")
        assert not path.exists()
    assert path.read_bytes() == b"1"
    assert list(path.parent.iterdir()) == [path]


def test_what_goes_wrong_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_whole(path, "old")

    def write_half() -> None:
        with whole(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with whole(path) as first, whole(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/x\.txt: cannot be written \(.+\); choose another path"
    ):
        write_whole(tmp_path / "file" / "x.txt", "")
