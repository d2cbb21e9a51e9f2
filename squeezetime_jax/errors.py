"""The one kind of error that the user can repair, and helpers for its message."""


class UserError(Exception):
    """A file, a field or an option is not as expected.

    The message is one line: which file or field, what was expected, what was found, what to do. The
    command line prints it without a traceback and exits with status 1.
    """


def count(number: int, noun: str) -> str:
    """A number of things in words: "1 video", "2 videos".

    Args:
      number: how many.
      noun: in the singular.
    """
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{ending}"


def check_fields(values: object, *checks: tuple[str, bool, str], section: str = "") -> None:
    """Refuse the first invalid field.

    Args:
      values: what has the fields.
      checks: for a field its name, whether it is valid, and what it must be.
      section: stands before the name in the message.

    Raises:
      ValueError: with what the field must be and what it is. If the values come from a config, it
        reaches the user as a UserError.
    """
    for name, is_valid, expected in checks:
        if not is_valid:
            place = f"{section}.{name}" if section else name
            raise ValueError(f"{place} must be {expected}, got {getattr(values, name)!r}")
