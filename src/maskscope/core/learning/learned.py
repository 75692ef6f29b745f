"""What learning leaves behind: states on the way, readings of them, and the mask in the end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import torch
from jaxtyping import Float32
from torch import Tensor

from maskscope.core.fingerprint import Fingerprint
from maskscope.core.gates import Gate
from maskscope.core.learning.logits import Logits
from maskscope.core.mask import Mask, Origin


class State(NamedTuple):
    """Where learning stands after a step."""

    step: int
    """Steps taken."""
    steps: int
    """Steps in all."""
    loss: Tensor
    """Mean loss of the step's batch, without the penalty; on the device."""
    logits: Logits
    gate: Gate
    """Decides what of the logits is kept."""


@dataclass(frozen=True)
class Reading:
    """One point of a learning curve."""

    step: int
    loss: float
    kept: int
    """Units that would be kept now."""
    undecided: int
    """Units whose keep probability lies between .05 and .95."""
    expected: float
    """Sum of the keep probabilities: how many units a sample keeps on average."""
    changed: float | None
    """Units that changed over the last 4 % of the schedule, over those kept or removed, whichever are fewer; None before there
    were two looks."""


@dataclass(frozen=True, eq=False, repr=False)
class Learned:
    """A mask with what it was made from. Pass its ``mask`` on to ``masked``, ``iou`` and the rest."""

    mask: Mask
    logits: Float32[Tensor, " units"]
    probability: Float32[Tensor, " units"]
    """Keep probability of every unit."""
    curve: tuple[Reading, ...]
    compile_seconds: float = 0.0
    """What the compiler took of the time, once per process."""

    def __repr__(self) -> str:
        """One line."""
        return f"Learned({self.mask!r})"


def is_reading(step: int, steps: int) -> bool:
    """Whether a step belongs on the learning curve: about 100 points, and the last."""
    return step % max(1, steps // 100) == 0 or step == steps


def read(state: State) -> Reading:
    """One point of the learning curve."""
    logits, gate, changed = state.logits, state.gate, state.logits.settling.changed
    between, expected = 0, 0.0
    for probability in probabilities(logits, gate):
        between += undecided(probability)
        expected += float(probability.sum(dtype=torch.float64))
    kept = int(gate.harden(logits.peek(), logits.layout).sum())
    return Reading(state.step, float(state.loss), kept, between, expected, None if isnan(changed) else changed)


def probabilities(logits: Logits, gate: Gate) -> Iterator[Float32[Tensor, " units"]]:
    """Keep probabilities, one parameter after another: no second copy of everything."""
    for span in logits.layout.spans:
        yield gate.probability(logits.blocks.own(logits.rows, span))


def undecided(probability: Float32[Tensor, " units"]) -> int:
    """How many units learning has not decided on: keep probability between .05 and .95.

    Examples:
        >>> import torch
        >>> undecided(torch.tensor([0.01, 0.5, 0.99]))
        1
    """
    return int(((probability > 0.05) & (probability < 0.95)).sum())


def origin_of(
    *, gate: Gate, steps: int, penalty: float, seed: int, subtask: str, model: Fingerprint | None, replaced: str = ""
) -> Origin:
    """What a mask file says of how the mask was learned."""
    return Origin(subtask, subtask, seed, repr(gate), gate.threshold, penalty, steps, model, replaced)


def finish(logits: Logits, gate: Gate, origin: Origin, curve: Sequence[Reading]) -> Learned:
    """Harden the logits; a mask that ends empty, full or unsettled is a warning."""
    values = logits.values.cpu()
    mask = Mask.of(logits.layout, gate.harden(values, logits.layout), origin)
    what = f"the mask of {origin.subtask or 'this subtask'}"
    if mask.is_empty:
        warnings.warn(f"{what} is empty: the penalty {origin.penalty:.3g} removed everything; lower it", stacklevel=3)
    if mask.is_full:
        warnings.warn(
            f"{what} keeps everything: too few steps ({origin.steps}) or too small a penalty ({origin.penalty:.3g})",
            stacklevel=3,
        )
    settling = logits.settling
    if settling.unsettled and not mask.is_empty:
        warnings.warn(
            f"{what} is not settled: {settling.changed:.0%} of its units changed over the last "
            f"{settling.every} steps at the full learning rate; more steps than {logits.schedule.steps} "
            "would give a more repeatable mask",
            stacklevel=3,
        )
    return Learned(mask, values, gate.probability(values), tuple(curve), logits.compile_seconds)
