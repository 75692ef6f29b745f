"""Charts of what many subtasks share: matrices, groups, and which weights serve how many."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from jaxtyping import Float64

from maskscope.analysis.compare import symmetric
from maskscope.analysis.modularity import estimate
from maskscope.analysis.serving import clusters
from maskscope.report.chart import BLUE, Chart, Heat, Panel, Series
from maskscope.report.grid import Grid
from maskscope.report.load import Run
from maskscope.runs.estimates import compared, judged_in, reuse_in
from maskscope.runs.properties import damage, reused

_BARS = 12
"""Sets of subtasks that are drawn."""

_WIDE = 44
"""Characters of a line beside a bar."""


def of_run(run: Run) -> Iterator[Chart]:
    """Every one that has something to show."""
    if run.results[0].serving:
        yield served(run)
    if _many(run):
        yield matrices(run)


def _many(run: Run) -> bool:
    known = {name.subtask for item in run.results[0].overlaps for name in (item.first, item.second)}
    return run.experiment.masking is not None and known >= {*run.experiment.data.subtasks} and len(known) > 2


def served(run: Run) -> Chart:
    """How many subtasks weights serve, and which, as in an UpSet plot; of the first network."""
    where = judged_in(run.results)
    found = next((item for item in run.results[0].serving if item.where == where), run.results[0].serving[-1])
    degrees = found.degrees[1:]
    counts = Series(
        found.where, "bars", BLUE, tuple(str(i + 1) for i in range(len(degrees))), tuple(map(float, degrees))
    )
    shown = found.sets[:_BARS]
    sets = Series(
        found.where,
        "bars",
        BLUE,
        tuple(float(item.units) for item in shown),
        tuple(_told(item.subtasks, tuple(run.experiment.data.subtasks)) for item in shown),
    )
    caption = (
        f"Units of the {found.where} that the first masks of the subtasks keep, network seed {run.results[0].seed}. Left: by "
        f"exactly which masks keep them{' (the largest sets)' if len(found.sets) > _BARS else ''}. Right: by how many."
    )
    panels = (
        Panel("units", "", (sets,), y_axis="names"),
        Panel("subtasks served", "units", (counts,), x_axis="names"),
    )
    return Chart("serving", "Which weights serve how many subtasks", caption, panels, 420)


def _told(some: tuple[str, ...], every: tuple[str, ...]) -> str:
    """Some subtasks in as few words as say exactly which."""
    if len(some) == len(every):
        return f"all {len(every)}" if len(every) > 2 else "both"
    others = [name for name in every if name not in some]
    text = f"all but: {', '.join(others)}" if len(others) < len(some) - 1 else " + ".join(some)
    return textwrap.fill(text, _WIDE)


def matrices(run: Run) -> Chart:
    """IoU, IoMin and P_reuse of every two subtasks, and damage of removal, like subtasks beside each other."""
    names, where = list(run.experiment.data.subtasks), judged_in(run.results)
    iou, iomin, position = _tables(run)
    known = not np.isnan(position).all()
    order = list(clusters(position if known else iou).order)
    again = [[item.overlap for item in compared(run.results, where, (name, name))] for name in names]
    np.fill_diagonal(iou, [estimate(overlap.iou for overlap in own).mean for own in again])
    np.fill_diagonal(iomin, [estimate(overlap.iomin for overlap in own).mean for own in again])
    labels = tuple(names[i] for i in order)
    panels = [
        _heat(title, "", labels, table[np.ix_(order, order)])
        for title, table in (("IoU", iou), ("IoMin", iomin), *((("P_reuse by IoU", position),) if known else ()))
    ]
    if set(names) <= set(run.experiment.data.tested):
        lost = np.array([[damage(run.experiment, run.results, a, b).mean for b in names] for a in names])
        panels.append(_heat("damage", "", labels, lost[np.ix_(order, order)]))
    caption = (
        f"In %, {where}, mean over masks and networks; subtasks in the order of a hierarchical clustering by "
        f"{'P_reuse' if known else 'IoU'}. On the "
        "diagonal of IoU and IoMin: masks of one subtask, learned again. Damage: what removing the row's "
        "mask takes from the column's subtask: 100 to chance, 0 nothing."
    )
    return Chart("matrices", "Every two subtasks", caption, tuple(panels), 170 + 34 * len(names))


def table_groups(run: Run) -> Grid | None:
    """Which subtasks share most, and how groups of them join; None for two."""
    if not _many(run):
        return None
    names = list(run.experiment.data.subtasks)
    position = _tables(run)[2]
    if np.isnan(position).all():
        return None
    found = clusters(position)
    rows = tuple(
        (
            ", ".join(names[i] for i in join.first),
            ", ".join(names[i] for i in join.second),
            "–" if math.isnan(join.likeness) else f"{join.likeness:.2f}",
        )
        for join in found.joins
    )
    caption = f"Hierarchical clustering of the subtasks by P_reuse in {judged_in(run.results)} (IoU), mean over pairs; the most alike first."
    return Grid("Groups of subtasks", caption, ("group", "joins", "P_reuse"), rows)


def _tables(run: Run) -> tuple[Float64[np.ndarray, "n n"], ...]:
    """IoU, IoMin and P_reuse of every two subtasks, where the verdict is about."""
    names, where = list(run.experiment.data.subtasks), judged_in(run.results)
    pairs = list(combinations(names, 2))
    overlaps = {pair: reuse_in(run.results, where, pair) for pair in pairs}
    return (
        symmetric({pair: item.iou.between.mean for pair, item in overlaps.items()}, names),
        symmetric({pair: item.iomin.between.mean for pair, item in overlaps.items()}, names),
        symmetric({pair: reused(run.results, where, pair).iou.mean for pair in pairs}, names),
    )


def _heat(title: str, axis: str, labels: tuple[str, ...], values: Float64[np.ndarray, "n n"]) -> Heat:
    rows = tuple(tuple(100 * float(value) for value in row) for row in values)
    return Heat(axis, axis, labels, labels, rows, 0.0, 100.0, title)
