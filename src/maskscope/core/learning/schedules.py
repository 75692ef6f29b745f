"""Schedules: how long and how fast the logits move, and how many samples see each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Settings of the optimisation over logits. The gate and the penalty are settings of their own.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> Schedule(steps=100, samples=1).learning_rate
        0.1
    """

    kind: Literal["schedule"] = "schedule"
    steps: int = 2500
    """Optimisation steps, at most."""
    learning_rate: float = 0.1
    """Adam's learning rate, in logits per step."""
    betas: tuple[float, float] = (0.9, 0.99)
    """How much of Adam's moments stays each step. The second remembers the large gradients of the beginning for
    1 / (1 - beta) steps, and slows the logits so long: published 1,000 of 20,000 steps, here 100 of 2,500."""
    warmup: float = 0.3
    """Share of the steps over which the learning rate rises, linearly from a tenth. What a mask keeps of several weights
    that could do the same is decided early; decided slowly, it is decided alike each time."""
    decay: float = 0.1
    """Share of the steps over which the learning rate falls to nothing in the end."""
    settled: float | None = 0.01
    """End early (after the decay) once fewer than this share of the kept units (or of the removed ones, if those are fewer)
    changed over 4 % of the steps. None: never."""
    init: float = 2.0
    """Initial logit of every unit: keep probability sigmoid(2) = 0.88."""
    samples: int = 4
    """Mask samples per step; the batch is cut into that many parts, one sample each."""
    strata: bool = True
    """Samples of a step share one draw, moved by k/K each. False: independent samples, as published."""
    slope: Literal["expected", "sampled"] = "expected"
    """Whether a logit's gradient uses the gate's slope averaged over all noise that gives the same gate, or the slope at
    the noise that was drawn, as published. The gradient's mean is the same; averaged has less noise. Gates without an
    average in closed form always use the drawn one."""
    clip: float = 1.0
    """Largest norm of the whole logit gradient. Source: published code. Differs: there the norm is that of stale weight
    gradients, which scales mask gradients by 0.7-0.8 even though their own norm is small."""

    @property
    def strata_of_step(self) -> int | None:
        """How many strata the samples of a step share; None for independent samples."""
        return self.samples if self.strata else None

    @property
    def warmup_steps(self) -> int:
        """How many steps the rise takes."""
        return int(self.warmup * self.steps)

    @property
    def decay_steps(self) -> int:
        """How many steps the fall takes."""
        return int(self.decay * self.steps)

    def rate(self, step: int, end: int | None = None) -> float:
        """The learning rate of a step, from 0, if learning ends after ``end`` steps.

        Examples:
            >>> schedule = Schedule(steps=100, learning_rate=1.0, warmup=0.2)
            >>> [round(schedule.rate(step), 2) for step in (0, 10, 20, 89, 90, 95, 99)]
            [0.1, 0.55, 1.0, 1.0, 1.0, 0.5, 0.1]
        """
        rising, falling = self.warmup_steps, self.decay_steps
        rise = 0.1 + 0.9 * step / rising if step < rising else 1.0
        left = (self.steps if end is None else end) - step
        return self.learning_rate * min(rise, left / falling if left < falling else 1.0)

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("steps", "samples"):
            if getattr(self, name) < 1 or getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)}")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share of the steps, from 0 to 1, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers from 0 to below 1, got {self.betas}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


FAST = Schedule()
"""At most an eighth of the published steps, at 10 times the learning rate, begun slowly. Masks have the published size
and accuracies, and overlap a little less than published ones do with each other: docs/performance.md has by how much."""

PUBLISHED = Schedule(
    steps=20_000,
    learning_rate=1e-2,
    betas=(0.9, 0.999),
    warmup=0.0,
    decay=0.0,
    settled=None,
    strata=False,
    slope="sampled",
)
"""Csordas et al. 2021: Adam 1e-2, 20,000 steps, 4 independent samples (arithmetic experiments)."""
