r"""Intervals that hold at a handful of seeds.

A percentile bootstrap of three values at nominal 90 % covers 60 %: three values do not know their own spread. Student's t
does, and is what is used here throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy import stats

from maskscope.analysis.number import Number

LEVEL = 0.9
"""Share of such intervals that hold the true mean."""

Over = Literal["networks", "masks", "nothing"]


@dataclass(frozen=True)
class Interval:
    """A mean with its uncertainty."""

    mean: Number
    low: Number
    """NaN where there are fewer than two values."""
    high: Number
    n: int
    """Independent values behind it: networks, or masks of the only network. Those that have no value do not count."""
    over: Over
    """What they are; an interval over masks speaks of one network only."""
    error: Number = math.nan
    """Standard error of the mean."""
    level: float = LEVEL
    asked: int = 0
    """Values there would be if none were undefined; 0 where nobody counted."""

    def __str__(self) -> str:
        """For a person.

        Examples:
            >>> print(Interval(0.5, 0.4, 0.6, 3, "networks"))
            0.50 [0.40, 0.60] (n=3 networks)
        """
        return f"{self.short} (n={self.of_how_many})"

    @property
    def of_how_many(self) -> str:
        """N, and of what.

        Examples:
            >>> nested([[0.5], [0.3], [math.nan]]).of_how_many
            '2 of 3 networks'
        """
        if self.over == "nothing":
            return "0"
        return f"{self.n} of {self.asked} {self.over}" if self.asked > self.n else f"{self.n} {self.over}"

    @property
    def short(self) -> str:
        """Without n, which a table has elsewhere.

        Examples:
            >>> Interval(0.5, 0.4, 0.6, 3, "networks").short
            '0.50 [0.40, 0.60]'
        """
        value = "–" if math.isnan(self.mean) else f"{self.mean:.2f}"
        return value if math.isnan(self.low) else f"{value} [{self.low:.2f}, {self.high:.2f}]"

    def within(self, low: float, high: float) -> bool:
        """Whether all of it lies there; False where it has no ends.

        Examples:
            >>> Interval(0.5, 0.4, 0.6, 3, "networks").within(0.0, 1.0)
            True
        """
        return self.low >= low and self.high <= high


NOTHING = Interval(math.nan, math.nan, math.nan, 0, "nothing")


def student(mean: float, error: float, freedom: float, n: int, over: Over, level: float = LEVEL) -> Interval:
    """An interval of Student's t.

    Args:
        mean: The estimate.
        error: Its standard error.
        freedom: Degrees of freedom of the error.
        n: Values behind it.
        over: What they are.
        level: Share of such intervals that hold the true value.

    Examples:
        >>> print(student(0.5, 0.1, 2.0, 3, "networks"))
        0.50 [0.21, 0.79] (n=3 networks)
    """
    if math.isnan(mean) or math.isnan(error) or not freedom > 0:
        return Interval(mean, math.nan, math.nan, n, over, error, level)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Interval(mean, mean - reach, mean + reach, n, over, error, level)


def nested(networks: Sequence[Sequence[float]], level: float = LEVEL) -> Interval:
    """The mean of values nested in networks: over networks where there are several, else over the masks of the one.

    With several networks each counts once, with the mean of its masks: masks of one network are not independent of each other. Where
    only one of several has a value there is no interval: its masks do not speak for the others.

    Args:
        networks: For each network seed, a value for each of its masks; NaN values do not count.
        level: Share of such intervals that hold the true mean.

    Examples:
        >>> print(nested([[0.1, 0.2], [0.3]]))
        0.23 [-0.25, 0.70] (n=2 networks)
        >>> print(nested([[0.1, 0.2]]))
        0.15 [-0.17, 0.47] (n=2 masks)
        >>> print(nested([[0.1]]))
        0.10 (n=1 networks)
        >>> print(nested([[0.1, 0.2], [math.nan]]))
        0.15 (n=1 of 2 networks)
    """
    kept = [[value for value in values if not math.isnan(value)] for values in networks]
    over: Over = "networks"
    values, asked = [float(np.mean(values)) for values in kept if values], len(networks)
    if len(networks) == 1 and len(networks[0]) > 1:
        over, values, asked = "masks", kept[0], len(networks[0])
    n = len(values)
    if not n:
        return NOTHING
    error = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return replace(student(float(np.mean(values)), error, float(n - 1), n, over, level), asked=asked)


def crossed(table: Float64[np.ndarray, "first second"], level: float = LEVEL) -> Interval:
    r"""The mean of a value of every pair (mask of one subtask, mask of another), all of one network.

    Pairs that share a mask are not independent. With rows i and columns j, row means r_i and column means c_j, the variance
    of the mean is estimated by var(r) / n + var(c) / m, with the degrees of freedom of Welch and Satterthwaite.

    Args:
        table: A row for each mask of the first subtask, a column for each of the second.
        level: Share of such intervals that hold the true mean.

    Examples:
        >>> print(crossed(np.array([[0.1, 0.2], [0.2, 0.3]])))
        0.20 [-0.01, 0.41] (n=4 masks)
    """
    rows, columns = table.shape
    if min(rows, columns) < 2:
        return Interval(
            float(table.mean()) if table.size else math.nan, math.nan, math.nan, rows + columns, "masks", level=level
        )
    parts = [(float(np.var(means, ddof=1)) / len(means), len(means) - 1) for means in (table.mean(1), table.mean(0))]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread > 0 else float(min(rows, columns) - 1)
    return student(float(table.mean()), math.sqrt(variance), freedom, rows + columns, "masks", level)
