"""Progress of long work with rate and time left: a bar on a terminal; elsewhere, as in a job's log, a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from maskscope.core.learning.learned import State, is_reading, read

FIRST_LINE, BETWEEN_LINES = 20.0, 300.0
"""Seconds until work off a terminal is first told of, and between lines at most; each wait is as long as all before it."""


class RateColumn(ProgressColumn):
    """How much per second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(_rate(task), style="progress.data.speed")


class Lines(Progress):
    """Progress without a bar: lines, the first after ``FIRST_LINE`` seconds, then ever fewer.

    Args:
        console: Where they go.
        get_time: Seconds, from whenever.
    """

    def __init__(self, console: Console, get_time: Callable[[], float] | None = None) -> None:
        """Of nothing yet."""
        super().__init__(console=console, get_time=get_time, speed_estimate_period=BETWEEN_LINES, disable=True)
        self._due: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As of a bar; and a line, if one is due."""
        super().update(task_id, **changes)
        task = self._tasks[task_id]
        elapsed = task.elapsed or 0.0
        if elapsed < self._due.setdefault(task_id, FIRST_LINE) or task.finished:
            return
        self._due[task_id] = elapsed + min(max(elapsed, FIRST_LINE), BETWEEN_LINES)
        of = "" if task.total is None else f" of {task.total:,.0f}"
        told = [f"{task.completed:,.0f}{of}", _rate(task)]
        if task.time_remaining is not None:
            told.append(f"{timedelta(seconds=task.time_remaining)} left")
        line = f"{task.description}: {', '.join(part for part in told if part)}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rate(task: Task) -> str:
    return f"{task.speed:.{0 if task.speed >= 10 else 1}f}/s" if task.speed else ""


def bars(console: Console | None = None) -> Progress:
    """A rich progress display with rate, time taken and time left; lines where there is no terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        return Lines(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def progress(label: str, console: Console | None = None) -> Callable[[Iterator[State]], Iterable[State]]:
    """Progress for ``learn_mask(..., watch=progress("add"))``: a bar, or lines where there is no terminal.

    Examples:
        >>> from maskscope.core.learning.learn import learning
        >>> watch = progress("add")
    """

    def watch(states: Iterator[State]) -> Iterator[State]:
        with bars(console) as display:
            task = display.add_task(label, total=None)
            told = label
            for state in states:
                if is_reading(state.step, state.steps):
                    told = f"{label}: {read(state).kept:,} likely kept"
                display.update(task, description=told, completed=state.step, total=state.steps)
                yield state

    return watch
