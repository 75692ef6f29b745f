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
    """Optimisation steps."""
    learning_rate: float = 1e-1
    """Adam's learning rate, in logits per step."""
    init: float = 2.0
    """Initial logit of every unit: keep probability sigmoid(2) = 0.88."""
    samples: int = 4
    """Mask samples per step; the batch is cut into that many parts, one sample each."""
    strata: bool = True
    """Samples of a step share one draw, moved by k/K each. False: independent samples, as published."""
    slope: Literal["mean", "sampled"] = "mean"
    """Whether a logit's gradient uses the gate's slope averaged over the noise, or that of each sample, as published.
    Both have the same mean where a weight's gradient does not hang on its own gate; averaged has less noise, and costs
    one pass a step instead of one per sample. Gates without a mean in closed form always use the samples'."""
    clip: float = 1.0
    """Largest norm of the whole logit gradient. Source: published code. Differs: there the norm is that of stale weight
    gradients, which scales mask gradients by 0.7-0.8 even though their own norm is small."""

    @property
    def strata_of_step(self) -> int | None:
        """How many strata the samples of a step share; None for independent samples."""
        return self.samples if self.strata else None

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.learning_rate

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("steps", "samples"):
            if getattr(self, name) < 1 or getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


FAST = Schedule()
"""An eighth of the published steps at ten times the learning rate. Same sizes and accuracies on double addition; two
such masks of one subtask agree less (IoU .82-.86) than two published ones (.94)."""

PUBLISHED = Schedule(steps=20_000, learning_rate=1e-2, strata=False, slope="sampled")
"""Csordas et al. 2021: Adam 1e-2, 20,000 steps, 4 independent samples (arithmetic experiments)."""
