"""The one kind of error that is the user's to mend, and what fields are refused with."""


class UserError(Exception):
    """A file, a field or an option is not what was wanted.

    The message is one line: which file or field, what was found, what was wanted, what to do next.
    The command line prints it without a traceback and exits with 1.
    """


def check_fields(values: object, *checks: tuple[str, bool, str], section: str = "") -> None:
    """Refuse the first field that is not what it should be.

    Args:
      values: what has the fields.
      checks: of a field its name, whether it is right, and what is wanted.
      section: what the message puts before the name.

    Raises:
      ValueError: saying what was found and what is wanted. Where the values come out of a config,
        it reaches the user as a UserError.
    """
    for name, is_right, wanted in checks:
        if not is_right:
            place = f"{section}.{name}" if section else name
            raise ValueError(f"{place} is {getattr(values, name)!r}, wanted {wanted}")
