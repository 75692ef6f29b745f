"""The figures of a report: overlap, sharing, sizes, learning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.core.select import by_layer, layer
from maskscope.report import calibration, continual, lost_charts, shared_charts, size_charts
from maskscope.report.chart import BLACK, BLUE, COLOURS, ORANGE, Chart, Panel, Series, Style, means, stds
from maskscope.report.load import Found, Run, SeedRun
from maskscope.runs.calibration import Recovered
from maskscope.runs.estimates import accuracy, reuse_in, sharing
from maskscope.runs.results import ALL, ENDS, HIDDEN, HISTOGRAM_BINS
from maskscope.runs.verdict import Verdict, verdict

MANY = 16
"""Tensors above which layers are shown instead."""


def over_all(found: Found, planted: Mapping[str, Sequence[Recovered]]) -> tuple[Chart, ...]:
    """The charts over all runs; ``planted`` as ``calibration.groups`` of them."""
    placed = position([(run.name, verdict(run.experiment, run.results)) for run in found.runs])
    forgotten = continual.forgetting(found.continual) if found.continual else None
    sized = across(found.runs) if found.runs and not planted else None
    return tuple(chart for chart in (calibration.chart(planted), placed, sized, forgotten) if chart is not None)


def position(named: Sequence[tuple[str, Verdict]]) -> Chart | None:
    """Where each network's hidden-layer overlap lies between chance and ceiling; None where sharing is not the question."""
    placed = [(name, said.reuse.iou) for name, said in named if said.reuse is not None]
    if not placed:
        return None
    names, found = tuple(name for name, _ in placed), [iou for _, iou in placed]
    series = (
        Series(
            "chance: random masks of the same sizes",
            "diamonds",
            ORANGE,
            tuple(placed.chance for placed in found),
            names,
        ),
        Series("different subtasks", "points", BLUE, tuple(placed.between.mean for placed in found), names),
        Series(
            "ceiling: the same subtask learned again",
            "ticks up",
            BLACK,
            tuple(placed.ceiling.mean for placed in found),
            names,
        ),
    )
    return Chart(
        "position",
        "Overlap between chance and ceiling",
        "Near the chance mark subtasks use weights of their own; near the ceiling they use the same ones.",
        (
            Panel(
                "IoU of the masks (in hidden layers, where ends are set apart)",
                "",
                series,
                y_axis="names",
                x_range=(-0.02, 1.02),
            ),
        ),
        170 + 60 * len(placed),
    )


def across(runs: Sequence[Run]) -> Chart | None:
    """Accuracy and total sharing against what several runs of an experiment differ in: penalty, or size; None for one."""
    masked = [run for run in runs if run.experiment.masking is not None]
    if len(masked) < len(runs) or len({run.experiment.data.subtasks for run in runs}) > 1:
        return None
    penalties = [run.experiment.masking.penalty for run in masked if run.experiment.masking]
    weights = [float(run.weights) for run in runs]
    same = len({run.experiment.data for run in runs}) == 1
    if len(set(penalties)) > 2:
        label, places = "penalty per unit of summed logit", penalties
    elif same and len(set(weights)) > 1:
        label, places = "masked weights", weights
    else:
        return None
    ordered = sorted(zip(places, runs, strict=True), key=lambda pair: pair[0])
    x = tuple(place for place, _ in ordered)
    own: list[Series] = []
    shared: list[Series] = []
    for subtask, colour in zip(runs[0].experiment.data.subtasks, COLOURS[1:], strict=False):
        accuracies = [accuracy(run.results, "mask", subtask, subtask) for _, run in ordered]
        shares = [sharing(run.results, subtask, ALL) for _, run in ordered]
        for series, values in ((own, accuracies), (shared, shares)):
            series.append(Series(subtask, "line and points", colour, x, means(values), stds(values)))
    bounds = (-0.02, 1.02)
    return Chart(
        "across",
        "From network to network",
        "Left: accuracy under each subtask's own mask. Right: of a mask's weights, those that the other subtask's mask also "
        "keeps, over all layers (total sharing). Error bars: standard deviation over masks and network seeds.",
        (
            Panel(label, "accuracy", tuple(own), "under its own mask", x_axis="log", y_range=bounds),
            Panel(label, "share of the mask's weights", tuple(shared), "total sharing", x_axis="log", y_range=bounds),
        ),
    )


def overlap_per_tensor(run: Run) -> Chart | None:
    """IoU and IoMin in every masked tensor, or layer under many subtasks, with chance and ceiling; None where they were not kept."""
    subtasks = run.experiment.data.subtasks
    every = tuple(t.parameter for t in run.results[0].sizes[0].tensors) if run.results[0].sizes else ()
    compared = {item.overlap.where for item in run.results[0].overlaps}
    part, tensors = ("tensor", every) if compared >= {*every} else ("layer", tuple(by_layer(every)))
    if not compared >= {*tensors}:  # units that lie over several tensors
        whole = {item.overlap.where: None for item in run.results[0].overlaps}
        tensors = tuple(where for where in whole if where not in (HIDDEN, ENDS, ALL))
    if len(subtasks) < 2 or not tensors:
        return None
    named = " and ".join(subtasks) if len(subtasks) == 2 else "different subtasks"
    found = [reuse_in(run.results, tensor) for tensor in tensors]
    panels: list[Panel] = []
    for title, placed in (("IoU", [item.iou for item in found]), ("IoMin", [item.iomin for item in found])):
        between, ceiling = [item.between for item in placed], [item.ceiling for item in placed]
        chance = [Estimate(item.chance, math.nan, 1) for item in placed]
        values: list[tuple[str, Mark, str, list[Estimate]]] = [
            (named, "points", BLUE, between),
            ("ceiling: same subtask again", "ticks", BLACK, ceiling),
            ("chance", "ticks", ORANGE, chance),
        ]
        panels.append(_per_part(part, "overlap, in units", tensors, values, title))
    caption = (
        f"What {named} share, against random masks of the same sizes (chance) and the same subtask learned "
        "again (ceiling). Error bars: standard deviation over pairs of masks."
    )
    return Chart("overlap-per-tensor", f"Overlap per {part}", caption, tuple(panels), _height(tensors, 430))


def kept_per_layer(run: Run) -> Chart | None:
    """How many weights each mask keeps of every tensor, or of every layer where there are many tensors."""
    if not run.results[0].sizes:
        return None
    tensors = [tensor.parameter for tensor in run.results[0].sizes[0].tensors]
    part = "tensor" if len(tensors) <= MANY else "layer"
    parts = tuple(dict.fromkeys(name if part == "tensor" else layer(name) for name in tensors))
    few = len(run.experiment.subtasks) <= len(COLOURS)
    groups = (
        {s: (s,) for s in run.experiment.subtasks}
        if few
        else {
            run.experiment.data.full: (run.experiment.data.full,),
            "mean of the subtasks": run.experiment.data.subtasks,
        }
    )
    values: list[tuple[str, Mark, str, list[Estimate]]] = []
    for (name, subtasks), colour in zip(groups.items(), COLOURS, strict=False):
        sizes = [size for result in run.results for size in result.sizes if size.name.subtask in subtasks]
        kept = [
            estimate(
                float(sum(t.kept_weights for t in size.tensors if where in (t.parameter, layer(t.parameter))))
                for size in sizes
            )
            for where in parts
        ]
        values.append((name, "bars", colour, kept))
    panel = _per_part(part, "kept weights", parts, values)
    caption = "Mean over all masks of a subtask."
    return Chart("kept-per-tensor", f"Kept weights per {part}", caption, (panel,), _height(parts, 380))


Mark = Literal["points", "ticks", "bars"]
_BESIDE: dict[Mark, Style] = {"points": "points", "ticks": "ticks across", "bars": "bars"}
_LISTED: dict[Mark, Style] = {"points": "points", "ticks": "ticks up", "bars": "points"}


def _per_part(
    part: str,
    label: str,
    names: tuple[str, ...],
    values: Iterable[tuple[str, Mark, str, Sequence[Estimate]]],
    title: str = "",
) -> Panel:
    """Values of every part of a network: side by side, or, where there are many, one under the other."""
    many = len(names) > MANY
    series: list[Series] = []
    for name, mark, colour, found in values:
        style = (_LISTED if many else _BESIDE)[mark]
        numbers, spread = means(found), stds(found)
        x, y = (numbers, names) if many else (names, numbers)
        series.append(Series(name, style, colour, x, y, spread))
    bounds = (-0.03, 1.03) if title else None
    if many:
        return Panel(label, "", tuple(series), title, y_axis="names", x_range=bounds)
    return Panel(part, label, tuple(series), title, x_axis="names", y_range=bounds)


def _height(names: Sequence[str], few: int) -> int:
    """In pixels."""
    return few if len(names) <= MANY else 150 + 17 * len(names)


def curves(seed: SeedRun) -> Chart:
    """Loss and kept units over the steps of learning, for every mask of a network."""
    subtasks = list(dict.fromkeys(record.name.subtask for record in seed.records))
    losses: list[Series] = []
    sizes: list[Series] = []
    for record in seed.records:
        colour = COLOURS[subtasks.index(record.name.subtask) % len(COLOURS)]
        again = f" (again, {record.name.seed})" if record.name.seed else ""
        style: Style = "dotted" if record.name.seed else _line(subtasks.index(record.name.subtask))
        x = tuple(float(point.step) for point in record.curve)
        for series, y in (
            (losses, tuple(point.loss for point in record.curve)),
            (sizes, tuple(float(point.kept) for point in record.curve)),
        ):
            series.append(Series(record.name.subtask + again, style, colour, x, y))
    panels = (
        Panel("optimisation step", "cross-entropy (nats)", tuple(losses), "loss under sampled masks", y_axis="log"),
        Panel("optimisation step", "units", tuple(sizes), "kept units", y_range=(0.0, _top(sizes))),
    )
    caption = f"Network seed {seed.seed}. Flat ends mean that the masks have settled."
    return Chart("learning-curves", "Learning curves", caption, panels)


def probabilities(seed: SeedRun) -> Chart:
    """Histogram of the keep probabilities that learning ended with."""
    centres = tuple(((np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_BINS).tolist())
    first = [record for record in seed.records if record.name.seed == 0]
    series = tuple(
        Series(
            record.name.subtask,
            "steps" if i < len(COLOURS) else "dashed steps",
            COLOURS[i % len(COLOURS)],
            centres,
            tuple(float(count) if count else np.nan for count in record.histogram),
        )
        for i, record in enumerate(first)
    )
    panel = Panel(
        "keep probability (settled masks have all units near 0 or 1)",
        "units per bin of 0.02",
        series,
        y_axis="log",
        x_range=(0.0, 1.0),
    )
    caption = f"Network seed {seed.seed}, first mask of each subtask. Units in the middle are undecided."
    return Chart("keep-probabilities", "Keep probabilities", caption, (panel,), 360)


def of_run(run: Run) -> tuple[Chart, ...]:
    """Every chart of one run that has something to show."""
    seed = run.seeds[0]
    found = [*lost_charts.of_run(run), *shared_charts.of_run(run), overlap_per_tensor(run), kept_per_layer(run)]
    found.append(size_charts.faithfulness(run))
    if any(record.curve for record in seed.records):
        found.append(curves(seed))
    if seed.records:
        found.append(probabilities(seed))
    return tuple(chart for chart in found if chart is not None)


def _line(i: int) -> Style:
    """That of the first colours, or, where they come again, another."""
    return "line" if i < len(COLOURS) else "dashed"


def _top(series: Iterable[Series]) -> float:
    """A little above the highest number."""
    return 1.05 * max((float(value) for item in series for value in item.y), default=1.0)
