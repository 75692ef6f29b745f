"""Errors that say what was being done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def about(what: str) -> Generator[None]:
    """Note what an error is about; it stays the error it is.

    Examples:
        >>> try:
        ...     with about("the mask of addition"):
        ...         raise ValueError("too few examples")
        ... except ValueError as error:
        ...     said(error)
        'too few examples (the mask of addition)'
    """
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def said(error: BaseException) -> str:
    """An error's message with what it is about."""
    text = str(error.args[0] if len(error.args) == 1 else error)
    notes: list[str] = getattr(error, "__notes__", [])
    return text + "".join(f" ({note})" for note in notes)
