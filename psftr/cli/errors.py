"""How the command line ends on bad input: one line and exit status 2."""

from __future__ import annotations

EXIT_BAD_INPUT = 2


def one_line(error: BaseException) -> str:
    """The message of an error on one line (`OSError` prints its number and file as Python does)."""
    return " ".join(str(error).split()) or type(error).__name__
