"""Tables of text: numbers with their spread, for the terminal and the page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from maskscope.analysis.modularity import Estimate


@dataclass(frozen=True)
class Grid:
    """A table of text."""

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def words(self) -> tuple[bool, ...]:
        """Of each column, whether it has names in it, not numbers."""
        return words(self.rows, len(self.header))


def words(rows: Sequence[Sequence[str]], columns: int) -> tuple[bool, ...]:
    """Of each column, whether it has names in it: such columns stand left, numbers stand right.

    Examples:
        >>> words((("a", "+", "-1.0"), ("c", "–", "–")), 3)
        (True, True, False)
    """
    return tuple(i == 0 or any(row[i][:1] not in _NUMERIC for row in rows) for i in range(columns))


_NUMERIC = ("", *"0123456789.-–<")
"""What a number begins with, or what stands where there is none."""


def percent(value: Estimate) -> str:
    """A mean share as percent, with its standard deviation where there is one.

    Examples:
        >>> percent(Estimate(0.5, math.nan, 1)), percent(Estimate(0.5, 0.012, 3))
        ('50.0', '50.0 ± 1.2')
    """
    return _spread(value.mean * 100, value.std * 100, 1)


def ratio(value: Estimate) -> str:
    """A mean with its standard deviation, to two places."""
    return _spread(value.mean, value.std, 2)


def _spread(mean: float, std: float, places: int) -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.{places}f}" + ("" if math.isnan(std) else f" ± {std:.{places}f}")


_WIDE = 10
"""Columns that a page has room for."""


def narrow(grid: Grid) -> Grid:
    """For a page: turned where there are many columns and rather fewer rows."""
    columns, rows = len(grid.header), len(grid.rows) + 1
    return turned(grid) if columns > _WIDE and rows < 0.75 * columns else grid


def turned(grid: Grid) -> Grid:
    """Rows as columns: narrow enough for a terminal of 80 columns."""
    cells = [grid.header, *grid.rows]
    (_, *header), *rows = zip(*cells, strict=True)
    return Grid(grid.title, grid.caption.replace("Columns:", "Rows:"), ("", *header), tuple(rows))


def rich_table(grid: Grid) -> Table:
    """A grid for the terminal."""
    table = Table(title=Text(grid.title), title_justify="left", caption=Text(grid.caption) if grid.caption else None)
    for name, left in zip(grid.header, grid.words, strict=True):
        table.add_column(Text(name), justify="left" if left else "right")
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def short(grid: Grid, columns: int, rows: int) -> Grid:
    """The first of both, without a caption: for a terminal."""
    return Grid(grid.title, "", grid.header[:columns], tuple(row[:columns] for row in grid.rows[:rows]))
