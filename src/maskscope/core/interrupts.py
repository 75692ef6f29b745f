"""Ctrl-C between steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed; ask after each step."""

    def __init__(self) -> None:
        """Not yet."""
        self.pressed = False
        self._when = 0.0

    def press(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        """Note the first; a second one does not wait, unless it is the same one (terminal and parent both send it)."""
        if self.pressed and time.monotonic() - self._when > 1.0:
            raise KeyboardInterrupt
        self.pressed, self._when = True, time.monotonic()


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
