r"""P_specialize: how much of what the removal of a subtask's weights destroys is that subtask alone.

With a(x, j) the accuracy of network x on subtask j, chance c_j and the full network F, what is left of j is

    left(x, j) = (a(x, j) - c_j) / (a(F, j) - c_j),        damage(x, j) = 1 - left(x, j).

For a mask M_i of subtask i and its complement C_i:

    necessity    N_i = damage(C_i, i)                    1: without these weights the subtask is at chance
    sufficiency  S_i = left(M_i, i)                      1: these weights alone do it as well as the network
    specificity  1 - mean over j != i of damage(C_i, j)  1: without them the others work as before
    P_specialize 1 - mean over j != i of damage(C_i, j) / N_i

These need a network that has learned the subtask. Two more do not, and so can be compared with a network that has not (a mask
can create a function in random weights, which its removal then does not cost):

    cost         (a(F, i) - a(C_i, i)) / (1 - c_i)       1: removal takes a perfect network to chance; 0: it takes nothing
    alone        (a(M_i, i) - c_i) / (1 - c_i)           1: the mask alone is perfect; 0: at chance

P_specialize is 1 where removal destroys its own subtask only, 0 where it harms the others as much (values below 0: more). It
is undefined (NaN) where removal hardly harms its own, N_i < 1/5: a mask that is not necessary says nothing.

Source: the property of Csordas et al. 2021, which argues from the same accuracies without a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from maskscope.analysis.number import Number

NEEDED = 0.2
"""Damage of its own subtask from which a removal says anything."""

LEARNED = 0.1
"""Accuracy above chance from which a subtask can be lost."""


@dataclass(frozen=True)
class Specialization:
    """One subtask under one mask; numbers are 1 at best, and may leave [0, 1] by noise."""

    necessity: Number
    sufficiency: Number
    specificity: Number
    p_specialize: Number
    worst_other: str
    """The other subtask that removal harms most."""
    cost: Number
    """Of removal, in accuracy, of all there could be above chance."""
    alone: Number
    """Accuracy under the mask, of all there could be above chance."""


def left(accuracy: float, full: float, chance: float) -> float:
    """What is left of a subtask: 1 as the full network, 0 at chance; NaN where the network never learned it.

    Examples:
        >>> round(left(0.55, full=1.0, chance=0.1), 6)
        0.5
        >>> left(0.1, full=0.12, chance=0.1)
        nan
    """
    return (accuracy - chance) / (full - chance) if full - chance >= LEARNED else math.nan


def specialization(
    subtask: str,
    *,
    full: Mapping[str, float],
    mask: Mapping[str, float],
    complement: Mapping[str, float],
    chance: Mapping[str, float],
) -> Specialization:
    """The numbers of one mask, from accuracies by subtask.

    Args:
        subtask: Whose mask it is.
        full: Accuracies of the network.
        mask: Under the mask.
        complement: Without it.
        chance: Of guessing.

    Raises:
        KeyError: Accuracies of the subtask are missing.

    Examples:
        >>> chance = {"add": 0.0, "mul": 0.0}
        >>> found = specialization(
        ...     "add", full={"add": 1.0, "mul": 1.0}, mask={"add": 1.0, "mul": 0.0}, complement={"add": 0.0, "mul": 0.9},
        ...     chance=chance,
        ... )
        >>> round(found.p_specialize, 3), found.worst_other
        (0.9, 'mul')
    """
    missing = [
        what for what, values in (("full", full), ("mask", mask), ("complement", complement)) if subtask not in values
    ]
    if missing:
        raise KeyError(f"no accuracy of {subtask!r} in {missing}; there are {sorted(full)}")
    damage = {name: 1 - left(complement[name], full[name], chance[name]) for name in full}
    others = {name: value for name, value in damage.items() if name != subtask and not math.isnan(value)}
    harmed = sum(others.values()) / len(others) if others else math.nan
    necessity = damage[subtask]
    needed = not math.isnan(necessity) and necessity >= NEEDED
    room = 1 - chance[subtask]
    return Specialization(
        necessity,
        left(mask[subtask], full[subtask], chance[subtask]),
        1 - harmed,
        1 - harmed / necessity if needed else math.nan,
        max(others, key=lambda name: others[name]) if others else "",
        (full[subtask] - complement[subtask]) / room,
        (mask[subtask] - chance[subtask]) / room,
    )
