"""The figures of a report as values: what is drawn, without how; the page and the paper render the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.report.load import Run, SeedRun
from maskscope.runs.results import ALL, HISTOGRAM_BINS
from maskscope.runs.verdict import Verdict, accuracy, reuse_in, sharing

# Okabe and Ito's palette, safe for colour-blind readers; in this order it also differs in lightness.
BLUE, ORANGE, GREEN, PINK, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#222222", "#EDEDED"
COLOURS = (BLACK, BLUE, ORANGE, GREEN, PINK)

Style = Literal["line", "dotted", "steps", "points", "diamonds", "ticks across", "ticks up", "bars", "line and points"]
Axis = Literal["linear", "log", "names"]


@dataclass(frozen=True)
class Series:
    """One name in the legend."""

    name: str
    style: Style
    colour: str
    x: tuple[float | str, ...]
    y: tuple[float | str, ...]
    spread: tuple[float, ...] = ()
    """Standard deviations of y, NaN where there is none; empty: none at all."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x: str
    y: str
    series: tuple[Series, ...]
    title: str = ""
    x_axis: Axis = "linear"
    y_axis: Axis = "linear"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """A figure with its words."""

    name: str
    """As a file name."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    height: int = 380
    """In pixels, on a page."""


def position(named: Sequence[tuple[str, Verdict]]) -> Chart:
    """Where each network's hidden-layer overlap lies between chance and ceiling."""
    names = tuple(name for name, _ in named)
    found = [verdict.reuse.iou for _, verdict in named]
    series = (
        Series(
            "chance: random masks of the same sizes",
            "diamonds",
            ORANGE,
            tuple(placed.chance for placed in found),
            names,
        ),
        Series("the two subtasks", "points", BLUE, tuple(placed.between.mean for placed in found), names),
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
        "Near the chance mark the two subtasks use weights of their own; near the ceiling they use the same ones.",
        (Panel("IoU of the masks in the hidden layers", "", series, y_axis="names", x_range=(-0.02, 1.02)),),
        170 + 60 * len(named),
    )


def across(runs: Sequence[Run]) -> Chart | None:
    """Accuracy and total sharing against what several runs of an experiment differ in: penalty, or size; None for one."""
    penalties = [run.experiment.masking.penalty for run in runs]
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
            series.append(Series(subtask, "line and points", colour, x, _means(values), _stds(values)))
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


def overlap_per_tensor(run: Run) -> Chart:
    """IoU and IoMin in every masked tensor, with chance and ceiling."""
    first, second = run.experiment.data.subtasks[:2]
    tensors = tuple(tensor.parameter for tensor in run.results[0].sizes[0].tensors)
    found = [reuse_in(run.results, first, second, tensor) for tensor in tensors]
    panels: list[Panel] = []
    for title, placed in (("IoU", [item.iou for item in found]), ("IoMin", [item.iomin for item in found])):
        between, ceiling = [item.between for item in placed], [item.ceiling for item in placed]
        series = (
            Series(f"{first} and {second}", "points", BLUE, tensors, _means(between), _stds(between)),
            Series("ceiling: same subtask again", "ticks across", BLACK, tensors, _means(ceiling), _stds(ceiling)),
            Series("chance", "ticks across", ORANGE, tensors, tuple(item.chance for item in placed)),
        )
        panels.append(Panel("tensor", "overlap, in units", series, title, x_axis="names", y_range=(-0.03, 1.03)))
    caption = (
        f"What {first} and {second} share, against random masks of the same sizes (chance) and the same subtask learned "
        "again (ceiling). Error bars: standard deviation over pairs of masks."
    )
    return Chart("overlap-per-tensor", "Overlap per tensor", caption, tuple(panels), 430)


def kept_per_tensor(run: Run) -> Chart:
    """How many weights each mask keeps of every tensor."""
    series: list[Series] = []
    for subtask, colour in zip(run.experiment.subtasks, COLOURS, strict=False):
        sizes = [size for result in run.results for size in result.sizes if size.name.subtask == subtask]
        tensors = tuple(tensor.parameter for tensor in sizes[0].tensors)
        kept = [estimate(float(size.tensors[i].kept_weights) for size in sizes) for i in range(len(tensors))]
        series.append(Series(subtask, "bars", colour, tensors, _means(kept), _stds(kept)))
    panel = Panel("tensor", "kept weights", tuple(series), x_axis="names")
    return Chart("kept-per-tensor", "Kept weights per tensor", "Mean over all masks of a subtask.", (panel,))


def curves(seed: SeedRun) -> Chart:
    """Loss and kept units over the steps of learning, for every mask of a network."""
    subtasks = list(dict.fromkeys(record.name.subtask for record in seed.records))
    losses: list[Series] = []
    sizes: list[Series] = []
    for record in seed.records:
        colour = COLOURS[subtasks.index(record.name.subtask) % len(COLOURS)]
        again = f" (again, {record.name.seed})" if record.name.seed else ""
        style: Style = "dotted" if record.name.seed else "line"
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
            "steps",
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
    """Every chart of one run."""
    seed = run.seeds[0]
    return overlap_per_tensor(run), kept_per_tensor(run), curves(seed), probabilities(seed)


def _means(values: Iterable[Estimate]) -> tuple[float, ...]:
    return tuple(value.mean for value in values)


def _stds(values: Iterable[Estimate]) -> tuple[float, ...]:
    return tuple(value.std for value in values)


def _top(series: Iterable[Series]) -> float:
    """A little above the highest number."""
    return 1.05 * max((float(value) for item in series for value in item.y), default=1.0)
