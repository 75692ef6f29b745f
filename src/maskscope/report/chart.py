"""What a chart is, as a value: what is drawn, without how; the page and the paper render the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from maskscope.analysis.modularity import Estimate

# Okabe and Ito's palette, safe for colour-blind readers; in this order it also differs in lightness.
BLUE, ORANGE, GREEN, PINK, BLACK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#222222", "#EDEDED"
RED, SKY = "#d55e00", "#56b4e9"
COLOURS = (BLACK, BLUE, ORANGE, GREEN, PINK, RED, SKY)

Style = Literal["line", "dotted", "steps", "points", "diamonds", "ticks across", "ticks up", "bars", "line and points"]
Axis = Literal["linear", "whole", "log", "names"]
"""whole: ticks at whole numbers only."""


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
    """Of names, the first one on top; panels beside each other that both have names have the same."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


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
        """Whether a panel has to say the names of its y axis: the one to its left does not."""
        left = self.panels[i - 1] if i else None
        return not (isinstance(left, Panel) and left.y_axis == "names")


def means(values: Iterable[Estimate]) -> tuple[float, ...]:
    """What to draw."""
    return tuple(value.mean for value in values)


def stds(values: Iterable[Estimate]) -> tuple[float, ...]:
    """Its error bars."""
    return tuple(value.std for value in values)
