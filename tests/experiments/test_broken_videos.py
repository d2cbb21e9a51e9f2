"""The count of corrupted videos that training reads."""

import sys

import broken_videos
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    for number, encoding in enumerate(broken_videos.ENCODINGS):
        (folder / f"original-{number:02d}").write_bytes(broken_videos.original(*encoding))
    return folder


def test_every_case_is_read_or_refused_and_files_are_removed(folder):
    found = broken_videos.read_cases(folder, 0, 0)
    assert found.total() == broken_videos.CASES_AT_ONCE
    assert set(found) == {"read", "refused in one line"}
    assert not list(folder.glob("broken-*"))


def test_a_case_is_always_the_same():
    originals = [bytes(range(256)) * 40, b"other" * 500]
    cases = [broken_videos.corrupted(originals, 3, case) for case in range(25)]
    assert cases == [broken_videos.corrupted(originals, 3, case) for case in range(25)]
    assert not set(cases) & set(originals)


def test_a_crash_is_counted_and_makes_the_status_1(tmp_path, monkeypatch, capsys):
    def each(function, items, processes, **how):
        for item in items:
            yield item, broken_videos.UserError("died") if item else function(item)

    monkeypatch.setattr(broken_videos, "CASES_AT_ONCE", 2)
    monkeypatch.setattr(broken_videos.workers, "each", each)
    monkeypatch.setattr(sys, "argv", ["broken_videos.py", "4", "--folder", str(tmp_path)])
    assert broken_videos.main() == 1
    assert "1 crashed or hung" in capsys.readouterr().out
