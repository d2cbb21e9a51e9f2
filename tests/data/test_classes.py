"""Classes are matched by name."""

from pathlib import Path

import pytest

from squeezetime_jax.data import classes
from squeezetime_jax.data.sources import FileSource, match
from squeezetime_jax.errors import UserError

NAMES = ["walk", "run", "jump", "fall"]


def source(names: list[str], labels: list[int]) -> FileSource:
    return FileSource(Path("videos"), [(f"{n}.mp4", k) for n, k in enumerate(labels)], names)


def matched(names: list[str], labels: list[int], to: list[str] = NAMES) -> list[int]:
    found = match(source(names, labels), to, place="videos", owner="the checkpoint")
    assert list(found.class_names) == to
    return [found[k].label for k in range(len(found))]


def test_labels_follow_the_names_and_not_their_places() -> None:
    assert matched(["jump", "run", "walk"], [0, 1, 2, 2]) == [2, 1, 0, 0]


def test_case_spaces_and_encoded_accents_make_no_other_class() -> None:
    names = ["air drumming", "sa\u0308gen", "walk", "Walk"]
    assert matched(["Air_Drumming", "s\u00e4gen", "Walk"], [0, 1, 2], names) == [0, 1, 3]


def test_labels_without_names_keep_their_numbers() -> None:
    assert matched([], [3, 0]) == [3, 0]
    with pytest.raises(UserError, match="found label 4, but the checkpoint has 4 classes, labels"):
        matched([], [4])


def test_unknown_and_absent_classes_are_named() -> None:
    with pytest.raises(UserError, match="videos: 2 classes not in the checkpoint: 'fly', 'swim';"):
        matched(["fly", "run", "swim"], [0, 1, 2])
    assert classes.missing(["fall", "Run"], NAMES) == ["walk", "jump"]


def test_the_order_of_the_same_names() -> None:
    assert classes.order(NAMES, ["fall", "walk", "run", "jump"]) == [3, 0, 1, 2]
    assert classes.order(NAMES, ["fall", "walk", "run", "fly"]) is None
