"""Problems for networks whose answer is known: two subtasks, each with four differences to tell by inputs of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from maskscope.core.objectives import Network
from maskscope.data.arithmetic import Split

_SUBTASKS, _PROBLEMS, _DIGITS = 2, 4, 4

_SPLITS = {"train": 0, "test": 1, "valid": 2}


class Differences(NamedTuple):
    """A batch: digits one-hot in the inputs of the subtask that is asked, zeros in the other's."""

    inputs: Float[Tensor, "batch inputs=64"]
    """Subtask, problem, first or second digit, place."""
    targets: Int64[Tensor, "batch problems=4"]
    """First minus second digit, modulo 4."""
    asked: Int64[Tensor, " batch"]
    """Which subtask."""

    def answers(self, model: Network) -> Float[Tensor, "batch problems=4 digits=4"]:
        """What a network says in the outputs of the subtask that is asked."""
        said = model(self.inputs).unflatten(1, (_SUBTASKS, _PROBLEMS, _DIGITS))
        return said[torch.arange(len(self.asked), device=said.device), self.asked]


@dataclass(frozen=True)
class DifferencesLoss:
    """Mean cross-entropy over problems."""

    def __call__(self, model: Network, batch: Differences) -> Float[Tensor, ""]:
        """The mean over examples and problems."""
        return functional.cross_entropy(batch.answers(model).flatten(0, 1), batch.targets.flatten())


@dataclass(frozen=True)
class DifferencesRight:
    """The share of an example's problems that are answered right."""

    def __call__(self, model: Network, batch: Differences) -> Float[Tensor, " batch"]:
        """From 0 to 1, per example."""
        return (batch.answers(model).argmax(-1) == batch.targets).float().mean(1)


@dataclass(frozen=True)
class Planted:
    """Two subtasks of four problems.

    Examples:
        >>> Planted().batches("train", 3, seed=0, subtask="second")(0).asked.tolist()
        [1, 1, 1]
    """

    valid: int = 2000
    """Validation examples of each subtask."""
    kind: Literal["planted"] = "planted"

    inputs = _SUBTASKS * _PROBLEMS * 2 * _DIGITS
    outputs = _SUBTASKS * _PROBLEMS * _DIGITS
    full = "both subtasks"
    subtasks = ("first", "second")
    tested = subtasks
    """What accuracy is measured on."""
    solved = 0.99
    """Below this accuracy of the full network a subtask counts as not learned."""
    chance = 1 / _DIGITS
    """Accuracy of guessing."""
    replayable = True
    """Learning does the same with every batch, whatever is in it."""

    def objective(self, subtask: str) -> DifferencesLoss:
        """The loss a mask is learned with."""
        self._asked(subtask)
        return DifferencesLoss()

    def metric(self, subtask: str) -> DifferencesRight:
        """The share of problems that are right."""
        self._asked(subtask)
        return DifferencesRight()

    def predictions(self, subtask: str) -> Callable[[Network, Differences], Float[Tensor, "batch problems=4 digits=4"]]:
        """What a network says of the differences."""
        self._asked(subtask)
        return lambda model, batch: batch.answers(model)

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Differences]:
        """Batches as a function of the step: all random."""
        asked = self._asked(subtask or self.full)

        def batch(step: int) -> Differences:
            return _drawn(np.random.default_rng([_SPLITS[split], seed, step]), size, asked)

        return batch

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Differences]:
        """A subtask's problems of a split, in batches."""
        starts = range(0, self.valid, size)
        return [self.batches(split, min(size, self.valid - start), 0, subtask)(start // size) for start in starts]

    def _asked(self, subtask: str) -> tuple[int, ...]:
        known = {self.full: (0, 1), **{name: (i,) for i, name in enumerate(self.subtasks)}}
        if subtask not in known:
            raise KeyError(f"planted networks have no subtask {subtask!r}; they have {sorted(known)}")
        return known[subtask]


def _drawn(random: np.random.Generator, size: int, asked: tuple[int, ...]) -> Differences:
    which = torch.from_numpy(random.choice(asked, size=size))
    digits = torch.from_numpy(random.integers(_DIGITS, size=(size, _PROBLEMS, 2)))
    inputs = torch.zeros(size, _SUBTASKS, _PROBLEMS, 2, _DIGITS)
    inputs[torch.arange(size), which] = functional.one_hot(digits, _DIGITS).float()
    return Differences(inputs.flatten(1), (digits[..., 0] - digits[..., 1]) % _DIGITS, which)
