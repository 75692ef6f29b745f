"""Several runs one after another or side by side, with one display of their progress."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import queue
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from maskscope.progress import bars
from maskscope.runs.loop import Paused, Report, Tick
from maskscope.runs.pipeline import Runner, folder_of
from maskscope.runs.store import InUse
from maskscope.runs.study import Experiment


@dataclass(frozen=True)
class Job:
    """One seed of one experiment."""

    experiment: Experiment
    seed: int
    root: Path
    threads: int

    @property
    def name(self) -> str:
        """What progress calls it."""
        return f"{self.experiment.variant} seed {self.seed}"

    def run(self, report: Report) -> None:
        """Do it, or what is left of it."""
        folder = folder_of(self.root, self.experiment, self.seed)
        Runner(self.experiment, self.seed, folder, report, self.threads).run()


class JobFailed(RuntimeError):  # noqa: N818 - says what happened
    """A job that ran in its own process failed; the message has its error."""


def run_jobs(jobs: Sequence[Job], side_by_side: int, console: Console) -> None:
    """Run jobs to their end, showing progress; what is already done costs nothing.

    Args:
        jobs: In the order to start them.
        side_by_side: How many processes; 1 runs them here.
        console: Where progress goes; off a terminal one line per finished step.

    Raises:
        Paused: Ctrl-C; every job has saved its state.
        JobFailed: A job failed in its process.
    """
    with _display(console) as report:
        if side_by_side == 1 or len(jobs) == 1:
            for job in jobs:
                job.run(report)
        else:
            _run_processes(jobs, side_by_side, report)


@contextmanager
def _display(console: Console) -> Generator[Report]:
    with bars(console) as display:
        shown: dict[str, TaskID] = {}
        phases: dict[str, str] = {}

        def report(tick: Tick) -> None:
            if phases.get(tick.task) != tick.phase:
                if tick.task in shown:
                    display.remove_task(shown[tick.task])
                phases[tick.task] = tick.phase
                shown[tick.task] = display.add_task(f"{tick.task}: {tick.phase}", total=tick.steps)
            display.update(shown[tick.task], completed=tick.step, total=tick.steps)
            if tick.done:
                display.remove_task(shown.pop(tick.task))
                del phases[tick.task]
                console.print(
                    f"{escape(tick.task)}: {escape(tick.phase)}: {escape(tick.done)}", highlight=False, soft_wrap=True
                )

        yield report


@dataclass(frozen=True)
class _Ended:
    name: str
    paused: str = ""
    error: str = ""


_Ticks: TypeAlias = "multiprocessing.queues.Queue[Tick | _Ended]"


def _run_processes(jobs: Sequence[Job], side_by_side: int, report: Report) -> None:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    ticks: _Ticks = context.Queue()
    waiting, running = list(jobs), dict[str, SpawnProcess]()
    paused, errors = "", list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side and not (paused or errors):
                job = waiting.pop(0)
                process = context.Process(target=_work, args=(job, ticks), name=job.name)
                process.start()
                running[job.name] = process
            paused, errors = _heard(ticks, running, report, paused, errors)
            if (paused or errors) and not running:
                break
    except KeyboardInterrupt:
        # The terminal has sent Ctrl-C to every process of the group; each saves its state and ends.
        for process in running.values():
            process.join()
        raise Paused("stopped; all runs have saved their state") from None
    if errors:
        raise JobFailed("\n".join(errors))
    if paused:
        raise Paused(paused)


def _heard(
    ticks: _Ticks, running: dict[str, SpawnProcess], report: Report, paused: str, errors: list[str]
) -> tuple[str, list[str]]:
    try:
        tick = ticks.get(timeout=0.5)
    except queue.Empty:
        for name, process in list(running.items()):
            if not process.is_alive():
                running.pop(name)
                errors = [
                    *errors,
                    f"{name}: its process ended with code {process.exitcode} (out of memory?); run again",
                ]
        return paused, errors
    if isinstance(tick, Tick):
        report(tick)
        return paused, errors
    running.pop(tick.name).join()
    return paused or tick.paused, [*errors, f"{tick.name}: {tick.error}"] if tick.error else errors


def _work(job: Job, ticks: _Ticks) -> None:
    """The body of a process."""
    try:
        warnings.showwarning = lambda message, *_args, **_kwargs: ticks.put(  # pyright: ignore[reportUnknownLambdaType]
            Tick(job.name, "warning", 1, 1, str(message))
        )
        job.run(ticks.put)
    except KeyboardInterrupt as stop:
        ticks.put(_Ended(job.name, paused=str(stop) or "stopped"))
    except (InUse, OSError, ValueError, RuntimeError) as error:
        ticks.put(_Ended(job.name, error=f"{type(error).__name__}: {error}"))
    except BaseException:
        ticks.put(_Ended(job.name, error=traceback.format_exc()))
        raise
    else:
        ticks.put(_Ended(job.name))
