"""What masks share and keep, as tables: overlap, its significance, sharing statistics, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations
from typing import Literal

from maskscope.analysis.intervals import LEVEL, Interval
from maskscope.analysis.modularity import Placed
from maskscope.report.grid import Grid, percent, ratio
from maskscope.report.load import Run
from maskscope.runs.estimates import compared, judged_in, reuse_among, sharing
from maskscope.runs.properties import reused
from maskscope.runs.results import ALL, ENDS, FEW, HIDDEN
from maskscope.runs.significance import significance

PLACED = ("IoU", "chance", "ceiling", "P_reuse", "IoMin", "chance", "ceiling", "P_reuse", "pairs")
"""What is said of an overlap."""


def table_overlap(run: Run) -> Grid | None:
    """Overlap of masks of different subtasks, everywhere, with chance and ceiling; None where there are no two."""
    subtasks = run.experiment.data.subtasks
    if len(subtasks) < 2 or not run.results[0].overlaps:
        return None
    rows: list[tuple[str, ...]] = []
    judged = judged_in(run.results)
    for where in _ordered(item.overlap.where for item in run.results[0].overlaps):
        rows.append((where, *_placed_in(run, where, None)))
        if where == judged and 2 < len(subtasks) <= FEW:
            rows += [
                (f"{where}: {' and '.join(pair)}", *_placed_in(run, where, pair)) for pair in combinations(subtasks, 2)
            ]
    caption = (
        f"IoU and IoMin of the masks of {' and '.join(subtasks) if len(subtasks) == 2 else 'different subtasks'} (mean ± standard deviation over pairs of masks). Chance: "
        "random masks of the same per-tensor sizes. Ceiling: the same subtask learned again. P_reuse: where that lies, from chance "
        f"(0) to ceiling (1), with a {LEVEL:.0%} interval over networks, or, of two subtasks, over the masks of a single one. Pairs: of "
        "masks of different subtasks; empty masks have no overlap and do not count."
    )
    return Grid("Overlap", caption, ("where", *PLACED), tuple(rows))


def _placed_in(run: Run, where: str, pair: tuple[str, str] | None) -> tuple[str, ...]:
    items = compared(run.results, where, pair)
    found, placed = reuse_among(items, where), reused(run.results, where, pair)
    pairs = sum(item.first.subtask != item.second.subtask for item in items)
    known = found.iou.between.n
    return (
        *_placed(found.iou, placed.iou, len(run.seeds)),
        *_placed(found.iomin, placed.iomin, len(run.seeds)),
        f"{known} of {pairs}" if known < pairs else str(pairs),
    )


def _ordered(places: Iterable[str]) -> list[str]:
    """Pooled places first."""
    return sorted(dict.fromkeys(places), key=_places)


def _placed(placed: Placed, position: Interval, seeds: int) -> tuple[str, str, str, str]:
    chance = "–" if math.isnan(placed.chance) else f"{placed.chance:.2f}"
    fewer = f" ({position.of_how_many})" if 0 < position.n < seeds else ""
    return ratio(placed.between), chance, ratio(placed.ceiling), position.short + fewer


def table_significance(run: Run) -> Grid | None:
    """P-values of overlaps against chance and against the ceiling; None where there are no two subtasks, or many."""
    if len(run.experiment.data.subtasks) > FEW:
        return None
    found = significance(run.experiment, run.results)
    if not found:
        return None
    pairs = len({item.pair for item in found}) > 1
    rows = tuple(
        (
            f"{' and '.join(item.pair)}: {item.where}" if pairs else item.where,
            *map(_p_value, (item.chance, item.chance_corrected, item.ceiling, item.ceiling_corrected)),
        )
        for item in sorted(found, key=lambda item: _places(item.where))
    )
    caption = (
        "p-values. Chance: that the first masks of the two subtasks share so much, or so little, if the kept weights of each "
        "tensor lay anywhere in it (exact, two-sided; networks put together by Fisher's method). With many weights nearly "
        "everything differs from chance: how much is what P_reuse says. Ceiling: that masks overlap so little across subtasks if "
        "it did not matter which subtask they were learned for (renaming the masks of each network); a dash where there are too "
        "few masks to tell. Corrected for all rows (Benjamini and Yekutieli)."
    )
    header = ("where", "chance", "corrected", "ceiling", "corrected")
    return Grid("Significance", caption, header, rows)


def _places(where: str) -> int:
    """Pooled places first."""
    pooled = (HIDDEN, ENDS, ALL)
    return pooled.index(where) if where in pooled else len(pooled)


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def table_shares(run: Run) -> Grid | None:
    """The paper's sharing statistics: what other subtasks' masks also keep, and what remains of the control mask."""
    subtasks = run.experiment.data.subtasks
    if not run.results[0].shares:
        return None
    kinds: tuple[Literal["shared"], Literal["remaining"]] = ("shared", "remaining")
    rows = tuple(
        (
            where,
            *(percent(sharing(run.results, s, where, kind)) for kind in kinds for s in subtasks),
        )
        for where in _ordered(item.where for item in run.results[0].shares)
    )
    caption = (
        "In %. Shared: of a mask's units, those that another subtask's mask also keeps. Remaining: of the control mask's "
        "units, those that the subtask's mask keeps. Mean ± standard deviation over masks and network seeds."
    )
    header = ("where", *(f"{s}: shared" for s in subtasks), *(f"{s}: remaining" for s in subtasks))
    return Grid("Shared and remaining", caption, header, rows)


def table_sizes(run: Run) -> Grid | None:
    """Kept weights per tensor, of the first repetition of each mask."""
    sizes = [size for size in run.results[0].sizes if size.name.seed == 0]
    if not sizes:
        return None
    rows = [
        (
            tensor.parameter,
            f"{tensor.weights:,}",
            *(_kept(size.tensors[i].kept_weights, size.tensors[i].weights) for size in sizes),
        )
        for i, tensor in enumerate(sizes[0].tensors)
    ]
    totals = [(sum(t.kept_weights for t in size.tensors), sum(t.weights for t in size.tensors)) for size in sizes]
    rows.append(("all", f"{totals[0][1]:,}", *(_kept(*total) for total in totals)))
    header = ("tensor", "weights", *(size.name.subtask for size in sizes))
    return Grid("Kept weights", "Of the first network seed and the first mask of each subtask.", header, tuple(rows))


def _kept(kept: int, weights: int) -> str:
    return f"{kept:,} ({kept / weights:.1%})"
