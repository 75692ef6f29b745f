"""The charts of a report as files for a paper: PDF, SVG and PNG, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from maskscope.report import calibration, charts, continual
from maskscope.report.chart import BLACK, BOTH_WAYS, LINES, ONE_WAY, Chart, Heat, Panel, Series
from maskscope.report.load import Found
from maskscope.runs.store import segment

FORMATS = ("pdf", "svg", "png")

_DASHES = {"dotted": ":", "dashed": "--", "dashed steps": "--"}
_MARKS = {"points": "o", "diamonds": "D", "ticks across": "_", "ticks up": "|", "line and points": "o"}
_INCH = 130
"""Pixels of a page that become an inch on paper."""
_SHORT = 3
"""Letters of a name that is not turned."""
_LINE = 130
"""Letters of a legend's line."""


def write_figures(found: Found, folder: Path) -> tuple[Path, ...]:
    """Draw every chart of some runs, and those over all of them, in every format.

    Args:
        found: What to draw.
        folder: Where; made if it is not there. Charts of a run lie in a folder of its variant's name.

    Returns:
        What was written.

    Raises:
        ValueError: Nothing is finished yet.
        OSError: The folder cannot be written to.
    """
    if found.is_empty:
        raise ValueError(f"nothing to draw yet: {'; '.join(found.unfinished) or 'no run'}")
    written: list[Path] = []
    for inside, chart in _charts(found):
        (folder / inside).mkdir(parents=True, exist_ok=True)
        figure = drawn(chart)
        for suffix in FORMATS:
            path = folder / inside / f"{chart.name}.{suffix}"
            figure.savefig(path, dpi=200, bbox_inches="tight")
            written.append(path)
    return tuple(written)


def _charts(found: Found) -> Iterator[tuple[str, Chart]]:
    for chart in charts.over_all(found, calibration.groups(found.runs)):
        yield "", chart
    for run in found.runs:
        for chart in charts.of_run(run):
            yield segment(run.experiment.variant), chart
    for run in found.continual:
        for chart in continual.charts(run):
            yield segment(run.experiment.variant), chart


_TABLES = 2
"""Tables of numbers in a row: more are too narrow to be read."""


def drawn(chart: Chart) -> Figure:
    """A chart as a matplotlib figure, its panels side by side (tables two in a row), one legend above."""
    columns = min(
        len(chart.panels), _TABLES if any(isinstance(panel, Heat) for panel in chart.panels) else len(chart.panels)
    )
    rows = -(-len(chart.panels) // columns)
    figure = Figure(figsize=(7.0, max(2.0, rows * chart.height / _INCH)), layout="constrained")
    FigureCanvasAgg(figure)
    names: dict[str, Artist] = {}
    for i, panel in enumerate(chart.panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        if isinstance(panel, Heat):
            _heat(axes, panel)
            continue
        _fill(axes, panel, named=chart.tells_names(i))
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            names.setdefault(name, handle)
    if names:
        figure.legend(
            list(names.values()),
            list(names),
            loc="outside upper center",
            ncols=max(1, min(3, _LINE // max(map(len, names)))),
            frameon=False,
            fontsize="small",
        )
    return figure


def _heat(axes: Axes, panel: Heat) -> None:
    colours = LinearSegmentedColormap.from_list("", BOTH_WAYS if panel.both_ways else ONE_WAY)
    axes.imshow(np.array(panel.values), cmap=colours, vmin=panel.low, vmax=panel.high, aspect="auto")
    size = "small" if len(panel.columns) <= 10 and len(panel.rows) <= 12 else "x-small"
    for i, row in enumerate(panel.values):
        for j, value in enumerate(row):
            if not math.isnan(value):
                axes.text(j, i, f"{value:z.0f}", ha="center", va="center", fontsize=size, color=BLACK)
    axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=30, ha="right", fontsize="small")
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize="small")
    axes.set(xlabel=panel.x, ylabel=panel.y)
    axes.set_title(panel.title, fontsize="medium")


def _fill(axes: Axes, panel: Panel, *, named: bool) -> None:
    bars = [series for series in panel.series if series.style == "bars"]
    across = panel.y_axis == "names"
    for series in panel.series:
        if series.style == "bars":
            _bars(axes, series, bars.index(series), len(bars), across=across)
        else:
            _plot(axes, series, across=across)
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    for scale, kind in ((axes.set_xscale, panel.x_axis), (axes.set_yscale, panel.y_axis)):
        if kind == "log":
            scale("log")
    _names(axes, panel, named=named)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    if panel.y_range:
        axes.set_ylim(*panel.y_range)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _names(axes: Axes, panel: Panel, *, named: bool) -> None:
    """Axes with names, or with whole numbers only."""
    if panel.x_axis == "names" and any(len(label.get_text()) > _SHORT for label in axes.get_xticklabels()):
        axes.tick_params(axis="x", rotation=30)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    if panel.y_axis == "names":
        axes.invert_yaxis()
        axes.margins(y=0.5 if len(panel.series[0].y) < 5 else 0.02)
        axes.tick_params(axis="y", labelsize="small", labelleft=named)
    if panel.x_axis == "whole":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot(axes: Axes, series: Series, *, across: bool) -> None:
    if series.style in LINES:
        axes.plot(
            series.x,
            series.y,
            color=series.colour,
            label=series.name,
            linewidth=1.2,
            linestyle=_DASHES.get(series.style, "-"),
            drawstyle="steps-mid" if "steps" in series.style else "default",
        )
        return
    axes.errorbar(
        series.x,
        series.y,
        xerr=_spread(series) if across else None,
        yerr=None if across else _spread(series),
        color=series.colour,
        label=series.name,
        elinewidth=1,
        capsize=2,
        marker=_MARKS[series.style],
        markersize=7,
        markeredgewidth=1.6,
        fillstyle="none" if series.style == "diamonds" else "full",
        linestyle="-" if series.style == "line and points" else "none",
    )


def _bars(axes: Axes, series: Series, which: int, count: int, *, across: bool) -> None:
    names = [str(name) for name in (series.y if across else series.x)]
    places, width = np.arange(len(names)), 0.8 / count
    at = places + (which - (count - 1) / 2) * width
    if across:
        axes.barh(at, series.x, width, xerr=_spread(series), color=series.colour, label=series.name)
        axes.set_yticks(places, names)
    else:
        axes.bar(at, series.y, width, yerr=_spread(series), color=series.colour, label=series.name)
        axes.set_xticks(places, names)


def _spread(series: Series) -> list[float] | None:
    return [0.0 if math.isnan(value) else value for value in series.spread] or None
