"""Classes are matched by name: videos against other videos, or against a network.

A label is a number, and which class it stands for depends on who numbered the classes: a folder of
class folders by the alphabet, a label map by its lines, a network by its outputs.
"""

import unicodedata
from collections.abc import Iterable, Sequence

from squeezetime_jax.errors import UserError, count

_SHOWN = 5


def numbers(names: Sequence[str], expected: Sequence[str], *, place: str, owner: str) -> list[int]:
    """The place in `expected` of each name.

    Names that differ in upper and lower case, in spaces and underscores, or in how accents are
    encoded (macOS decomposes them) are the same.

    Args:
      names: classes of some videos.
      expected: the classes in their order.
      place: what the names are from, for messages, such as a folder.
      owner: what `expected` is from, for messages, such as "the checkpoint".

    Raises:
      UserError: a name is not expected.
    """
    places = _places(names, expected)
    unknown = [name for name, place in zip(names, places, strict=True) if place is None]
    if unknown:
        raise UserError(
            f"{place}: {count(len(unknown), 'class')} not in {owner}: {shown(unknown)}; expected"
            f" classes of {owner}: {shown(expected)}; rename or remove what does not belong"
        )
    return [place for place in places if place is not None]


def order(names: Sequence[str], expected: Sequence[str]) -> list[int] | None:
    """The place in `names` of each of `expected`; None if one of them is not there."""
    places = _places(expected, names)
    return None if None in places else [place for place in places if place is not None]


def is_same(name: str, other: str) -> bool:
    """Whether two names are of one class."""
    return _simple(name) == _simple(other)


def missing(names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Those of `expected` that are not among the names."""
    found = {*_places(names, expected)}
    return [name for number, name in enumerate(expected) if number not in found]


def shown(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    listed = ", ".join(repr(name) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{listed} and {more} more" if more > 0 else listed


def _places(names: Sequence[str], expected: Sequence[str]) -> list[int | None]:
    """The place in `expected` of each name; as it is written, or else simplified."""
    simple = {_simple(name): number for number, name in enumerate(expected)}
    exact = {name: number for number, name in enumerate(expected)}
    return [exact.get(name, simple.get(_simple(name))) for name in names]


def _simple(name: str) -> str:
    text = unicodedata.normalize("NFC", name).replace("_", " ").casefold()
    return " ".join(text.split())
