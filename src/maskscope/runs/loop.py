"""A long loop in a run's folder: readings, signs of life, checkpoints; stopped and resumed at any step."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from maskscope.core.files import Damaged, load_tensors, save_tensors
from maskscope.core.interrupts import deferred
from maskscope.core.learning.learned import is_reading
from maskscope.runs.store import RunFolder


class Tick(NamedTuple):
    """A sign of life from a run."""

    task: str
    """Which run."""
    phase: str
    """What it is doing."""
    step: int
    steps: int
    done: str = ""
    """When the phase has ended: one line on how it went."""


Report = Callable[[Tick], None]

Note = Mapping[str, float | int]
"""One line of the metrics: a step and what was read at it."""


class Paused(KeyboardInterrupt):
    """Ctrl-C; everything up to the last step is on disk."""


class Step(Protocol):
    """What a loop yields."""

    @property
    def step(self) -> int:
        """Steps taken."""
        ...

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...


S = TypeVar("S", bound=Step)


@dataclass(frozen=True)
class Loop:
    """One phase of a run: training, or learning one mask."""

    folder: RunFolder
    task: str
    phase: str
    report: Report
    checkpoint_seconds: float
    """How often the state is written."""
    tell_seconds: float
    """How often progress is told."""

    def resume(self, restore: Callable[[Mapping[str, Tensor]], None]) -> float:
        """Restore this phase's checkpoint if there is one; returns the seconds already spent."""
        self.folder.mend_metrics()
        path = self.folder.checkpoint
        try:
            saved = load_tensors(path) if path.exists() else None
        except Damaged as damage:
            warnings.warn(f"starting {self.phase} from its beginning: {damage}", stacklevel=2)
            saved = None
        if saved is None or saved.header["phase"] != self.phase:
            return 0.0
        try:
            restore(saved.tensors)
        except Damaged as damage:
            warnings.warn(f"starting {self.phase} from its beginning: {damage}", stacklevel=2)
            return 0.0
        self.folder.cut_metrics(int(saved.header["metrics"]))
        return float(saved.header["seconds"])

    def run(
        self,
        states: Generator[S],
        tensors: Callable[[], Mapping[str, Tensor]],
        reading: Callable[[S], Note],
        seconds_before: float,
    ) -> float:
        """Run to the end; returns the seconds spent in all.

        Ctrl-C waits for the end of the step, so that a checkpoint never holds half of one.

        Args:
            states: The loop.
            tensors: Everything needed to go on, as tensors.
            reading: What to note of a state.
            seconds_before: What ``resume`` returned.

        Raises:
            Paused: Ctrl-C; the state is on disk.
        """
        start = saved = told = time.monotonic()

        def spent() -> float:
            return seconds_before + time.monotonic() - start

        with closing(states), deferred() as interrupts:
            for state in states:
                now = time.monotonic()
                if is_reading(state.step, state.steps):
                    self.folder.append_metrics({"phase": self.phase, **reading(state)})
                if now - told >= self.tell_seconds:
                    self.report(Tick(self.task, self.phase, state.step, state.steps))
                    told = now
                if interrupts.pressed or now - saved >= self.checkpoint_seconds:
                    header = {"phase": self.phase, "metrics": self.folder.metrics_size(), "seconds": spent()}
                    save_tensors(self.folder.checkpoint, tensors(), header)
                    saved = now
                if interrupts.pressed:
                    raise Paused(f"stopped in {self.phase} after step {state.step} of {state.steps}")
        return spent()

    def readings(self) -> list[dict[str, Any]]:
        """The readings of this phase in order; of a step done twice (after a kill) the later one."""
        points: dict[int, dict[str, Any]] = {}
        for line in self.folder.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # a line cut short by a power failure; its step is done again
                continue
            if record.pop("phase") == self.phase:
                points[record["step"]] = record
        return [points[step] for step in sorted(points)]

    def finish(self, steps: int, line: str) -> None:
        """Once the results are on disk: drop the checkpoint and say how it went."""
        self.folder.checkpoint.unlink(missing_ok=True)
        self.report(Tick(self.task, self.phase, steps, steps, line))
