"""A penalty that is turned until a mask has the size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from maskscope.core.learning.schedules import Schedule

_BEGIN, _ARRIVE = 0.1, 0.5
"""Shares of the steps between which the aim falls from the size there is to the size that is asked for."""

_GAIN = 0.15
"""How much of a difference in size (of logarithms) goes into the penalty's logarithm at each look, at most."""

_GAIN_PER_MOVE = 0.1
"""The same for each unit that logits can move between two looks: where they move slowly, the penalty is turned slowly."""

_CLOSE = 0.05
"""Within this of the size that is asked for, learning may end early."""


class Sizing:
    """Looks at the expected size every 1 % of the steps, and says what the penalty is to be multiplied with.

    Examples:
        >>> from maskscope.core.learning.schedules import Schedule
        >>> sizing = Sizing(0.05, Schedule(steps=1000))
        >>> for step in range(1, 1001):
        ...     sizing.look(step, 0.5)
        >>> sizing.factor > 100, sizing.arrived  # far too large to the end: turned up and up
        (True, False)
    """

    def __init__(self, density: float, schedule: Schedule) -> None:
        """Aim for so many of all units.

        Raises:
            ValueError: No such share.
        """
        if not 0 < density < 1:
            raise ValueError(f"density is the share of units to keep, between 0 and 1, got {density}")
        self.density = density
        self.steps = schedule.steps
        self.factor = 1.0
        """What the penalty is multiplied with."""
        self.arrived = False
        """Whether the size was that asked for, at the last look."""
        self._every = max(1, schedule.steps // 100)
        self._gain = min(_GAIN, _GAIN_PER_MOVE * schedule.learning_rate * self._every)
        self._from = math.nan

    def due(self, step: int) -> bool:
        """Whether to look after a step."""
        return step % self._every == 0 and step >= _BEGIN * self.steps

    def look(self, step: int, expected: float) -> None:
        """When due: turn the penalty.

        Args:
            step: Steps taken.
            expected: Share of units that a sample keeps on average.
        """
        if not self.due(step):
            return
        size, goal = math.log(max(expected, 1e-9)), math.log(self.density)
        if math.isnan(self._from):
            self._from = size
        way = min(1.0, (step / self.steps - _BEGIN) / (_ARRIVE - _BEGIN))
        self.factor *= math.exp(self._gain * (size - self._from - way * (goal - self._from)))
        self.arrived = way == 1.0 and abs(size - goal) < _CLOSE

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        values = [self.density, self.factor, self._from, float(self.arrived)]
        return {"sizing": torch.tensor(values, dtype=torch.float64)}

    @staticmethod
    def restored(state: Mapping[str, Tensor], schedule: Schedule) -> Sizing | None:
        """From what ``state`` returned; None if there was none."""
        if "sizing" not in state:
            return None
        density, factor, begun, arrived = state["sizing"].tolist()
        sizing = Sizing(density, schedule)
        sizing.factor, sizing._from, sizing.arrived = factor, begun, bool(arrived)
        return sizing
