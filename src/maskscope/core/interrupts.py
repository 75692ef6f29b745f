"""Ctrl-C between steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed; ask after each step."""

    def __init__(self) -> None:
        """Not yet."""
        self.pressed = False

    def press(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        """Note the first; a second one does not wait."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


@contextmanager
def deferred() -> Generator[Interrupts]:
    """Hold Ctrl-C (and a polite kill) back, so that a state is never left half updated.

    In other threads than the main one nothing is held back: Python delivers signals to the main thread only.

    Examples:
        >>> with deferred() as interrupts:
        ...     interrupts.pressed
        False
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    held = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupts.press) for number in held}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
