"""What a chart is, as a value: what is drawn, without how; the page and the paper render the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from maskscope.analysis.modularity import Estimate

# Okabe and Ito's palette, safe for colour-blind readers; in this order it also differs in lightness.
BLUE, ORANGE, GREEN, PINK, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#222222", "#EDEDED"
RED, SKY = "#D55E00", "#56B4E9"
COLOURS = (BLACK, BLUE, ORANGE, GREEN, PINK, RED, SKY)
ONE_WAY, BOTH_WAYS = ("#FFFFFF", SKY), (ORANGE, "#FFFFFF", SKY)
"""Of cells, from the lowest value to the highest: all so light that the number in a cell can be read in black."""

Style = Literal[
    "line",
    "dashed",
    "dotted",
    "steps",
    "dashed steps",
    "line and points",
    "points",
    "diamonds",
    "ticks across",
    "ticks up",
    "bars",
]
Axis = Literal["linear", "whole", "log", "names"]
"""whole: ticks at whole numbers only."""

LINES: tuple[Style, ...] = ("line", "dashed", "dotted", "steps", "dashed steps")
"""Styles without a mark at each point."""


@dataclass(frozen=True)
class Series:
    """One name in the legend."""

    name: str
    style: Style
    colour: str
    x: tuple[float | str, ...]
    y: tuple[float | str, ...]
    spread: tuple[float, ...] = ()
    """Standard deviations of what is not a name, NaN where there is none; empty: none at all."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x: str
    y: str
    series: tuple[Series, ...]
    title: str = ""
    x_axis: Axis = "linear"
    y_axis: Axis = "linear"
    """Of names, the first one on top."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """The names on the y axis, from above; of numbers, none."""
        named = self.series if self.y_axis == "names" else ()
        return tuple(dict.fromkeys(str(name) for series in named for name in series.y))


@dataclass(frozen=True)
class Heat:
    """A table as coloured cells, its first row on top, with the number in each cell."""

    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """Row by row; NaN stays blank."""
    low: float
    high: float
    """Values of the first and the last colour."""
    title: str = ""
    both_ways: bool = False
    """Two colours, white at zero."""


@dataclass(frozen=True)
class Chart:
    """A figure with its words."""

    name: str
    """As a file name."""
    title: str
    caption: str
    panels: tuple[Panel | Heat, ...]
    height: int = 380
    """In pixels, on a page."""

    def tells_names(self, i: int) -> bool:
        """Whether a panel has to say the names of its rows: the one to its left has no others."""
        return i == 0 or self.panels[i - 1].rows != self.panels[i].rows


def means(values: Iterable[Estimate]) -> tuple[float, ...]:
    """What to draw."""
    return tuple(value.mean for value in values)


def stds(values: Iterable[Estimate]) -> tuple[float, ...]:
    """Its error bars."""
    return tuple(value.std for value in values)
