"""What tasks learned in turn share and forget: tables, charts, and the sentence above them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle

from rich.console import Console, Group
from rich.panel import Panel as Frame
from rich.text import Text

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.report.chart import COLOURS, Chart, Heat, Panel, Series, Style, means, stds
from maskscope.report.grid import Grid, percent, rich_table
from maskscope.report.load import ContinualRun
from maskscope.runs.continual import Protection
from maskscope.runs.verdict import Verdict

REMEMBERS_ABOVE = 0.95
"""Share of its accuracy from which the first task counts as not forgotten. A convention."""


def right(run: ContinualRun, task: int, after: int) -> Estimate:
    """Accuracy on a task after another was learned."""
    return estimate(result.tasks[after].accuracies[task] for result in run.results)


def new(run: ContinualRun) -> Estimate:
    """Accuracy on a task right after it was learned, over tasks and seeds."""
    return estimate(task.accuracies[-1] for result in run.results for task in result.tasks)


def old(run: ContinualRun, after: int | None = None) -> Estimate:
    """Accuracy after a task (default: after all), over all tasks before it and seeds."""
    last = run.tasks - 1 if after is None else after
    return estimate(value for result in run.results for value in result.tasks[last].accuracies[:-1])


def retained(run: ContinualRun) -> Estimate:
    """What is left of the first task's accuracy after all."""
    return estimate(result.retained() for result in run.results)


def shared(run: ContinualRun, task: int, where: str) -> Estimate:
    """Of the units that a task's mask keeps, those that earlier masks kept."""
    return estimate(dict(result.tasks[task].shared)[where] for result in run.results)


def used(run: ContinualRun, task: int, where: str) -> Estimate:
    """Share of units that any mask keeps after a task."""
    return estimate(dict(result.tasks[task].used)[where] for result in run.results)


def used_before(run: ContinualRun, task: int, where: str) -> Estimate:
    """Share of units that any mask keeps before a task: what a random mask of it would share."""
    return used(run, task - 1, where) if task else estimate([0.0 for _ in run.results])


def used_together(run: ContinualRun, task: int) -> Estimate:
    """Share of the units of all layers that tasks can share that any mask keeps after a task."""
    units = dict.fromkeys(sharable(run), 0)
    for count in run.results[0].tasks[0].kept:
        if count.layer in units:
            units[count.layer] += count.units
    return estimate(
        sum(units[where] * share for where, share in result.tasks[task].used if where in units) / sum(units.values())
        for result in run.results
    )


def places(run: ContinualRun) -> tuple[str, ...]:
    """Layers, and all of them."""
    return tuple(where for where, _ in run.results[0].tasks[0].shared)


def sharable(run: ContinualRun) -> tuple[str, ...]:
    """Layers that tasks can share: not the first, where each has one of its own."""
    layers = places(run)[:-1]
    return layers[1:] if run.experiment.own_first_layer else layers


def verdict(run: ContinualRun) -> Verdict:
    """The sentence."""
    left, first, last = retained(run), right(run, 0, 0), right(run, 0, run.tasks - 1)
    remembers = left.mean >= REMEMBERS_ABOVE
    headline = "The first task is not forgotten" if remembers else "The first task is forgotten"
    overlap = (
        f"After {run.tasks} tasks {percent(left)}% of its accuracy is left ({percent(first)}% right at first, "
        f"{percent(last)}% in the end)."
    )
    ends = {where: shared(run, run.tasks - 1, where) for where in sharable(run)}
    empty = " and ".join(where for where, share in ends.items() if not share.n)
    layered = ", ".join(
        f"{percent(share)}% in {where} ({percent(used_before(run, run.tasks - 1, where))}% of all units there)"
        for where, share in ends.items()
        if share.n
    )
    text = (
        f"New tasks are learned to {percent(new(run))}%. Of the units that the last one keeps, earlier masks keep {layered or 'none'}; "
        f"together {percent(used_together(run, max(0, run.tasks - 2)))}% of these layers."
        f"{f' It keeps nothing of {empty}.' if empty else ''}"
    )
    return Verdict("nothing forgotten" if remembers else "forgets", headline, overlap, text, None)


def table_tasks(run: ContinualRun) -> Grid:
    """Task by task: how well it is learned, what it shares, what earlier ones still can."""
    layers = sharable(run)
    rows = tuple(
        (
            str(task),
            percent(right(run, task, task)),
            percent(right(run, task, run.tasks - 1)),
            percent(right(run, 0, task)),
            *((percent(shared(run, task, where)) if task else "–") for where in layers),
            percent(used_together(run, task)),
        )
        for task in range(run.tasks)
    )
    header = (
        "permutation",
        "when learned",
        "in the end",
        "first by then",
        *(f"shared, {w}" for w in layers),
        "used",
    )
    caption = (
        f"In %. Accuracy on {run.results[0].tasks[0].examples:,} validation images under a permutation's own mask; of the "
        "units its mask keeps, those that earlier masks kept; units of the layers that can be shared that any mask so far keeps. "
        "Mean ± standard deviation "
        f"over {len(run.seeds)} seed{'' if len(run.seeds) == 1 else 's'}."
    )
    return Grid("Permutation by permutation", caption, header, rows)


def forgetting(runs: Sequence[ContinualRun]) -> Chart:
    """Accuracy on the first task, and on new ones, while others are learned."""
    first: list[Series] = []
    fresh: list[Series] = []
    styles: dict[Protection, Style] = {"frozen": "line and points", "none": "dashed"}
    colours: dict[Protection, Iterator[str]] = {"frozen": cycle(COLOURS), "none": cycle(reversed(COLOURS))}
    kinds: list[Protection] = [run.experiment.protection for run in runs]
    for run, kind in zip(runs, kinds, strict=True):
        style, colour = styles[kind], next(colours[kind])
        x = tuple(float(task) for task in range(run.tasks))
        for series, values in (
            (first, [right(run, 0, task) for task in range(run.tasks)]),
            (fresh, [right(run, task, task) for task in range(run.tasks)]),
        ):
            series.append(Series(run.name, style, colour, x, means(values), stds(values)))
    bounds = (-0.02, 1.02)
    panels = (
        Panel("permutation just learned", "accuracy", tuple(first), "on the first one", "whole", y_range=bounds),
        Panel("permutation", "accuracy", tuple(fresh), "on each, when it is learned", "whole", y_range=bounds),
    )
    caption = (
        f"{'Dashed: nothing is frozen. ' if 'none' in kinds else ''}"
        f"{'What is frozen is not forgotten: those lines lie on each other on the left. ' if kinds.count('frozen') > 1 else ''}"
        "Chance is 10%. Error bars: over seeds."
    )
    return Chart("forgetting", "What is forgotten", caption, panels, 460)


def remembered(run: ContinualRun) -> Chart:
    """Accuracy on every earlier task after each one."""
    tasks = range(run.tasks)
    rows = [[right(run, task, after).mean if task <= after else math.nan for after in tasks] for task in tasks]
    rows.append([old(run, after).mean if after else math.nan for after in tasks])
    names = tuple(map(str, tasks))
    cells = tuple(tuple(100 * value for value in row) for row in rows)
    heat = Heat(
        "permutation just learned", "accuracy on permutation, in %", names, (*names, "all earlier"), cells, 0.0, 100.0
    )
    caption = (
        "Each row is a permutation, under its own mask, from when it was learned on; the last row is the mean over all that were "
        "learned before. Means over seeds."
    )
    return Chart("remembered", "Every permutation after each later one", caption, (heat,), 430)


def sharing(run: ContinualRun) -> Chart:
    """What each new task shares with earlier ones, by layer.

    Source: Csordas et al. 2021, permuted MNIST: sharing per layer and task.
    """
    x = tuple(float(task) for task in range(1, run.tasks))
    series: list[Series] = []
    chance: list[Series] = []
    for where, colour in zip(sharable(run), COLOURS[1:], strict=False):
        values = [shared(run, task, where) for task in range(1, run.tasks)]
        series.append(Series(where, "line and points", colour, x, means(values), stds(values)))
        before = means(used_before(run, task, where) for task in range(1, run.tasks))
        chance.append(Series(f"{where}: units used before", "dotted", colour, x, before))
    caption = (
        "Of the units that a permutation's mask keeps, those that an earlier one kept. Dotted: the share of units that earlier "
        "masks keep, which a random mask would share."
    )
    panel = Panel("permutation", "share of its units", (*series, *chance), x_axis="whole", y_range=(-0.02, 1.02))
    return Chart("sharing", "Sharing with earlier permutations", caption, (panel,), 420)


def charts(run: ContinualRun) -> tuple[Chart, ...]:
    """What is drawn of each."""
    return remembered(run), sharing(run)


def print_continual(runs: Sequence[ContinualRun], console: Console) -> None:
    """What each says, and its table."""
    for run in runs:
        said = verdict(run)
        words = Text.assemble((f"{said.finding.upper()}  ", "cyan"), (f"{said.headline}.", "bold"))
        group = Group(words, Text(f"{said.overlap} {said.ablations}"), Text(""), rich_table(table_tasks(run)))
        console.print(Frame(group, title=Text(run.name), title_align="left", border_style="cyan"))
