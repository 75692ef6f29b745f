"""Progress of long work: a bar with rate and time left on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from maskscope.core.learning.learned import State, is_reading, read


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "", style="progress.data.speed")


def bars(console: Console | None = None) -> Progress:
    """A rich progress display with rate, time taken and time left; disabled when not on a terminal."""
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def progress(label: str, console: Console | None = None) -> Callable[[Iterator[State]], Iterable[State]]:
    """A progress bar for ``learn_mask(..., watch=progress("add"))``.

    Examples:
        >>> from maskscope.core.learning.learn import learning
        >>> watch = progress("add")
    """

    def watch(states: Iterator[State]) -> Iterator[State]:
        with bars(console) as display:
            task = display.add_task(label, total=None)
            for state in states:
                if is_reading(state.step, state.steps):
                    display.update(task, description=f"{label}: {read(state).kept:,} likely kept")
                display.update(task, completed=state.step, total=state.steps)
                yield state

    return watch
