"""The paper's experiments as values, by name and preset."""

from __future__ import annotations

from typing import Literal

from maskscope.core.select import nearest
from maskscope.experiments import add_mul, cifar10, double_addition, mathematics, permuted_mnist, planted, scan
from maskscope.runs.continual import Continual
from maskscope.runs.experiment import Experiment

Preset = Literal["quick", "standard", "paper"]

Entry = Experiment | Continual

EXPERIMENTS: dict[str, dict[Preset, tuple[Entry, ...]]] = {
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
    "double-addition-controls": {
        "quick": double_addition.CONTROLS_QUICK,
        "standard": double_addition.CONTROLS_STANDARD,
        "paper": double_addition.CONTROLS_PAPER,
    },
    "add-mul": {"quick": add_mul.QUICK, "standard": add_mul.STANDARD, "paper": add_mul.PAPER},
    "add-mul-penalty": {
        "quick": add_mul.PENALTY_QUICK,
        "standard": add_mul.PENALTY_STANDARD,
        "paper": add_mul.PENALTY_PAPER,
    },
    "scan": {"quick": scan.QUICK, "standard": scan.STANDARD, "paper": scan.PAPER},
    "scan-baseline": {
        "quick": scan.BASELINE_QUICK,
        "standard": scan.BASELINE_STANDARD,
        "paper": scan.BASELINE_PAPER,
    },
    "mathematics": {"quick": mathematics.QUICK, "standard": mathematics.STANDARD, "paper": mathematics.PAPER},
    "cifar10": {"quick": cifar10.QUICK, "standard": cifar10.STANDARD, "paper": cifar10.PAPER},
    "cifar10-pairs": {
        "quick": cifar10.PAIRS_QUICK,
        "standard": cifar10.PAIRS_STANDARD,
        "paper": cifar10.PAIRS_PAPER,
    },
    "permuted-mnist": {
        "quick": permuted_mnist.QUICK,
        "standard": permuted_mnist.STANDARD,
        "paper": permuted_mnist.PAPER,
    },
    "planted": {"quick": planted.QUICK, "standard": planted.STANDARD, "paper": planted.PAPER},
}

SUMMARIES: dict[str, str] = {
    "double-addition": "two pairs of numbers to add: does a network use one adder or two? (Table 1 of the paper)",
    "double-addition-modes": "the LSTM with shared inputs, shared outputs, or both: does it then use one adder?",
    "double-addition-controls": "what masks do on their own: on random weights, and with labels of other examples",
    "add-mul": "one network that adds or multiplies: do the operations share weights, and does it depend on size?",
    "scan": "commands to actions: does a mask learned without some combinations still serve them?",
    "scan-baseline": "the same networks trained from scratch without those combinations",
    "mathematics": "school mathematics: does a mask of the easy level serve the hard one?",
    "cifar10": "images: does a mask learned without a class lose that class, and only that?",
    "cifar10-pairs": "masks of two classes, learned twice: how repeatable are they?",
    "permuted-mnist": "digits with permuted pixels, in turn: what is shared, and what is forgotten?",
    "planted": "networks put together so that it is known what they share: are the numbers right?",
    "add-mul-penalty": "the same masks under many penalties: do accuracy and sharing depend on it?",
}


def experiments(name: str, preset: Preset) -> tuple[Entry, ...]:
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
