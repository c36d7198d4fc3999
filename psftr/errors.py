"""The one exception that means "the input is wrong": the command line prints it as one line and exits non-zero."""


class PsftrError(ValueError):
    """Says what is wrong, what was given and what to do, in one line."""
