"""The paper's experiments as values, by name and preset."""

from __future__ import annotations

from typing import Literal

from maskscope.core.select import nearest
from maskscope.experiments import add_mul, double_addition
from maskscope.runs.study import Experiment

Preset = Literal["quick", "standard", "paper"]

EXPERIMENTS: dict[str, dict[Preset, tuple[Experiment, ...]]] = {
    "double-addition": {
        "quick": double_addition.QUICK,
        "standard": double_addition.STANDARD,
        "paper": double_addition.PAPER,
    },
    "double-addition-modes": {
        "quick": double_addition.MODES_QUICK,
        "standard": double_addition.MODES_STANDARD,
        "paper": double_addition.MODES_PAPER,
    },
    "add-mul": {"quick": add_mul.QUICK, "standard": add_mul.STANDARD, "paper": add_mul.PAPER},
    "add-mul-penalty": {
        "quick": add_mul.PENALTY_QUICK,
        "standard": add_mul.PENALTY_STANDARD,
        "paper": add_mul.PENALTY_PAPER,
    },
}

SUMMARIES: dict[str, str] = {
    "double-addition": "two pairs of numbers to add: does a network use one adder or two? (Table 1 of the paper)",
    "double-addition-modes": "the LSTM with shared inputs, shared outputs, or both: does it then use one adder?",
    "add-mul": "one network that adds or multiplies: do the operations share weights, and does it depend on size?",
    "add-mul-penalty": "the same masks under many penalties: do accuracy and sharing depend on it?",
}


def experiments(name: str, preset: Preset) -> tuple[Experiment, ...]:
    """The variants of an experiment.

    Raises:
        KeyError: No such experiment; the message has the nearest names.

    Examples:
        >>> [experiment.variant for experiment in experiments("double-addition", "quick")]
        ['fnn', 'lstm', 'fnn-copied']
    """
    if name not in EXPERIMENTS:
        raise KeyError(
            f"no experiment {name!r}; nearest: {nearest(name, EXPERIMENTS)}; there are {sorted(EXPERIMENTS)}"
        )
    return EXPERIMENTS[name][preset]
