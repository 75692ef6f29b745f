"""Whether a mask still changes, and so when learning may end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from maskscope.core.learning.schedules import Schedule

UNSETTLED = 3.0
"""A mask that at the end still changes by more than so many times the schedule's ``settled`` is warned of."""

BEGUN = 0.5
"""Below this share of undecided units a mask can have settled. (A pretrained ResNet-20 had 94 %, and samples that computed
nothing, when its mask changed by .4 % between two looks.)"""


class Settling:
    """Looks at the hard mask every 4 % of a schedule (10 steps at least); decides when the learning rate falls at last.

    Examples:
        >>> settling = Settling(Schedule(steps=100, warmup=0.0, decay=0.1, settled=0.5))
        >>> for step in range(1, 31):
        ...     if settling.due(step):
        ...         settling.look(step, torch.tensor([True, True, step < 15]))
        >>> settling.changed, settling.end
        (0.0, 40)
    """

    def __init__(self, schedule: Schedule) -> None:
        """Nothing seen yet."""
        self.schedule = schedule
        self.end = schedule.steps
        """The step after which learning ends."""
        self.changed = float("nan")
        """Units that changed between the last two looks, over those kept or those removed, whichever are fewer."""
        self._last: np.ndarray | None = None
        self.every = max(10, schedule.steps // 25)
        """Steps between two looks."""

    def due(self, step: int) -> bool:
        """Whether to look after a step: every 4 %, until the last fall has begun."""
        return step % self.every == 0 and step <= self.end - self.schedule.decay_steps

    def look(self, step: int, kept: Bool[Tensor, " units"], undecided: float = 0.0, *, may_end: bool = True) -> None:
        """When due: compare with the last look; where little changed, end after the fall of the learning rate.

        Args:
            step: Steps taken.
            kept: The mask as it is now.
            undecided: Share of the units whose keep probability is near neither 0 nor 1.
            may_end: Whether learning may end early at all.
        """
        bits = np.packbits(kept.cpu().numpy())
        if self._last is not None:
            different = int.from_bytes((bits ^ self._last).tobytes(), "big").bit_count()
            count = int.from_bytes(bits.tobytes(), "big").bit_count()
            self.changed = different / max(1, min(count, kept.numel() - count))
            limit, warm = self.schedule.settled, step - self.every >= self.schedule.warmup_steps
            # A mask that keeps everything, or whose units are mostly undecided, has not settled: it has not begun.
            begun = not bool(kept.all()) and undecided < BEGUN
            if may_end and limit is not None and begun and warm and self.changed < limit:
                self.end = min(self.end, step + self.schedule.decay_steps)
        self._last = bits

    @property
    def unsettled(self) -> bool:
        """Whether the mask still changed a lot when the learning rate began to fall."""
        return is_unsettled(self.changed, self.schedule)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs to decide the same."""
        state = {"end": torch.tensor(self.end), "changed": torch.tensor(self.changed, dtype=torch.float64)}
        return state if self._last is None else state | {"looked": torch.from_numpy(self._last)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned."""
        self.end, self.changed = int(state["end"]), float(state["changed"])
        self._last = state["looked"].numpy().copy() if "looked" in state else None


def is_unsettled(changed: float, schedule: Schedule) -> bool:
    """Whether a mask that last changed by so much should have been learned for longer."""
    return schedule.settled is not None and changed > UNSETTLED * schedule.settled
