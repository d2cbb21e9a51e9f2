"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """A file, a field or an option is not what was wanted.

    The message is one line: which file or field, what was found, what was wanted, what to do next.
    The command line prints it without a traceback and exits with 1.
    """
