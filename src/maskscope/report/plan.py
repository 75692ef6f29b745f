"""What a study will do and cost, on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from maskscope.core.layout import Layout
from maskscope.runs.experiment import Experiment
from maskscope.runs.plan import Cost
from maskscope.runs.results import FEW

_MUCH, _LITTLE = 2, 0.3
"""How many times the network's own loss the first samples may have before it is said, and what difference is none (in nats)."""


def print_plan(item: Experiment, over: Layout, found: Cost, seeds: int, console: Console) -> None:
    """What is masked, and what learning and testing will take.

    Args:
        item: The study.
        over: Of its masks.
        found: Measured for one network.
        seeds: How many networks.
        console: Where to print.
    """
    networks = "" if seeds == 1 else f", for each of {seeds} networks"
    console.print(Text.assemble((item.title, "bold"), f": {item.plan}{networks}"))
    console.print(over.table(), markup=False, highlight=False, soft_wrap=True)
    for line in (
        f"a step: {found.step * 1e3:,.0f} ms; forward and backward of the network itself: {found.plain * 1e3:,.0f} ms",
        f"learning {found.masks} masks: {_time(found.learning * seeds)} at most (masks that settle end earlier)",
        f"testing {found.networks} networks on {len(item.data.tested)} subtasks: {_time(found.testing * seeds)}",
        f"loss of the first batch: {found.loss:.3g}, under the first samples of a mask {found.first:.3g}",
        f"right, the network itself: {_scores(item, found)}",
        f"memory: {found.memory / 1e6:,.0f} MB at the highest so far, the network itself {found.weights / 1e6:,.0f} MB",
        *_notes(item, found),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _scores(item: Experiment, found: Cost) -> str:
    return ", ".join(f"{score:.1%} of {name}" for name, score in zip(item.data.tested, found.scores, strict=True))


def _notes(item: Experiment, found: Cost) -> list[str]:
    notes: list[str] = []
    poor = [name for name, score in zip(item.data.tested, found.scores, strict=True) if not score >= item.data.solved]
    if poor:
        notes.append(
            f"note: the network itself does not reach {item.data.solved:.0%} (the study's solved=) on {', '.join(poor)}; a mask cannot show "
            "what was not learned"
        )
    if found.first > max(_MUCH * found.loss, found.loss + _LITTLE):
        notes.append(
            "note: what the first samples remove at random costs much of the loss, and masks learned from there may serve nothing; "
            "begin with more kept: schedule=replace(schedule, init=5)"
        )
    if not found.few:
        notes.append(f"note: more than {FEW} subtasks: no controls and no removals of shared weights are measured")
    return notes


def _time(seconds: float) -> str:
    """As a person says it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
