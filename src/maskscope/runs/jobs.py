"""Several runs one after another or side by side, with one display of their progress."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import queue
import signal
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TypeAlias

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from maskscope.core.device import CPU
from maskscope.progress import bars
from maskscope.runs.about import said
from maskscope.runs.continual import Continual, ContinualRunner
from maskscope.runs.experiment import Experiment
from maskscope.runs.loop import Paused, Report, Tick
from maskscope.runs.pipeline import Runner
from maskscope.runs.store import InUse, folder_of
from maskscope.runs.study_file import read_once


@dataclass(frozen=True)
class Job:
    """One seed of one experiment."""

    experiment: Experiment | Continual
    seed: int
    root: Path
    threads: int
    device: torch.device = CPU
    file: Path | None = None
    """The study file it comes from, if any: a process that is to run it reads it first."""

    @property
    def name(self) -> str:
        """What progress calls it."""
        return f"{self.experiment.variant} seed {self.seed}"

    def run(self, report: Report) -> None:
        """Do it, or what is left of it."""
        if self.file is not None:
            read_once(self.file)
        folder = folder_of(self.root, self.experiment, self.seed)
        if isinstance(self.experiment, Continual):
            ContinualRunner(self.experiment, self.seed, folder, report, self.threads, self.device).run()
        else:
            Runner(self.experiment, self.seed, folder, report, self.threads, self.device).run()


class JobFailed(RuntimeError):  # noqa: N818 - says what happened
    """A job that ran in its own process failed; the message has its error."""


def run_jobs(jobs: Sequence[Job], side_by_side: int, console: Console) -> None:
    """Run jobs to their end, showing progress; what is already done costs nothing.

    Args:
        jobs: In the order to start them.
        side_by_side: How many processes; 1 runs them here.
        console: Where progress goes; off a terminal a line per finished step, and one now and then.

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


class _Crew:
    """Processes at work, and what they say."""

    def __init__(self, report: Report) -> None:
        # Spawned, not forked: torch's threads do not survive a fork.
        self._context = multiprocessing.get_context("spawn")
        self._ticks: _Ticks = self._context.Queue()
        self._stopping = self._context.Event()
        self._report = report
        self.running: dict[str, SpawnProcess] = {}
        self.paused = ""
        self.errors: list[str] = []

    def start(self, job: Job) -> None:
        # Daemons end (politely, saving their state) with the process that started them.
        arguments = (job, self._ticks, self._stopping)
        process = self._context.Process(target=_work, args=arguments, name=job.name, daemon=True)
        # While it starts (seconds of imports) it ignores Ctrl-C; then it looks whether to stop at all.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        self.running[job.name] = process

    def hear(self) -> None:
        """Wait a moment for the next sign of life."""
        try:
            tick = self._ticks.get(timeout=0.5)
        except queue.Empty:
            for name, process in [(n, p) for n, p in self.running.items() if not p.is_alive()]:
                del self.running[name]
                if not self.paused:
                    code = process.exitcode
                    self.errors.append(f"{name}: its process ended with code {code} (out of memory?); run again")
            return
        if isinstance(tick, Tick):
            self._report(tick)
            return
        self.running.pop(tick.name).join()
        self.paused = self.paused or tick.paused
        if tick.error:
            self.errors.append(f"{tick.name}: {tick.error}")

    def stop(self) -> None:
        """Ask all to save their state and end."""
        self.paused = "stopped; every run has saved its state"
        self._stopping.set()
        for process in self.running.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)


def _run_processes(jobs: Sequence[Job], side_by_side: int, report: Report) -> None:
    crew, waiting = _Crew(report), list(jobs)
    while crew.running or (waiting and not crew.paused and not crew.errors):
        try:
            while waiting and len(crew.running) < side_by_side and not crew.paused and not crew.errors:
                crew.start(waiting.pop(0))
            crew.hear()
        except KeyboardInterrupt:
            if crew.paused:  # a second time: do not wait
                raise
            crew.stop()
    if crew.errors:
        raise JobFailed("\n".join(crew.errors))
    if crew.paused:
        raise Paused(crew.paused)


def _work(job: Job, ticks: _Ticks, stopping: Event) -> None:
    """The body of a process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if stopping.is_set():
        ticks.put(_Ended(job.name, paused="stopped before it began"))
        return
    try:
        warnings.showwarning = lambda message, *_args, **_kwargs: ticks.put(  # pyright: ignore[reportUnknownLambdaType]
            Tick(job.name, "warning", 1, 1, str(message))
        )
        job.run(ticks.put)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ticks.put(_Ended(job.name, paused=str(stop) or "stopped"))
    except (InUse, OSError, ValueError, RuntimeError) as error:
        ticks.put(_Ended(job.name, error=f"{type(error).__name__}: {said(error)}"))
    except BaseException:
        ticks.put(_Ended(job.name, error=traceback.format_exc()))
        raise
    else:
        ticks.put(_Ended(job.name))
