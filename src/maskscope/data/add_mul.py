"""Addition and multiplication: two two-digit numbers and an operation, the result modulo 100."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from maskscope.core.objectives import Network
from maskscope.data.arithmetic import Split, drawn, in_order, random_of

Reading = Literal["once", "last"]

_STEPS = 3


class Problems(NamedTuple):
    """A batch: one-hot digits and operation in, digits of both possible results out (least significant first)."""

    inputs: Float[Tensor, "batch 42"]
    """Two numbers of two digits, ten places each, and two places for the operation."""
    results: Int64[Tensor, "batch operations=2 digits=2"]
    """Sum and product modulo 100, whichever is asked for."""
    asked: Int64[Tensor, " batch"]
    """Which of them: 0 addition, 1 multiplication."""

    @property
    def targets(self) -> Int64[Tensor, "batch digits=2"]:
        """The digits of the result that is asked for."""
        return self.results[torch.arange(len(self.asked), device=self.asked.device), self.asked]


class Digits(NamedTuple):
    """A split, compactly."""

    inputs: UInt8[Tensor, "examples 4"]
    results: UInt8[Tensor, "examples 2 2"]
    asked: UInt8[Tensor, " examples"]

    def problems(self, rows: Int64[Tensor, " batch"] | Bool[Tensor, " examples"] | slice) -> Problems:
        """Some of its examples as a batch."""
        asked = self.asked[rows].long()
        hot = functional.one_hot(self.inputs[rows].long(), 10).flatten(1)
        inputs = torch.cat([hot, functional.one_hot(asked, 2)], 1).float()
        return Problems(inputs, self.results[rows].long(), asked)


def answers(model: Network, inputs: Float[Tensor, "batch 42"], reading: Reading) -> Float[Tensor, "batch 2 10"]:
    """What a network says: the two digits of its result.

    once: one pass (the FNN). last: the same input at each of three steps, output read at the last (the LSTM).

    Source: Csordas et al. 2021, addition and multiplication; published code (task ``addmul``).
    """
    if reading == "once":
        return model(inputs).unflatten(1, (2, 10))
    return model(inputs.unsqueeze(1).expand(-1, _STEPS, -1))[:, -1].unflatten(1, (2, 10))


@dataclass(frozen=True)
class DigitsLoss:
    """Mean cross-entropy over the digits of the result."""

    reading: Reading

    def __call__(self, model: Network, batch: Problems) -> Float[Tensor, ""]:
        """The mean over examples and digits."""
        return functional.cross_entropy(
            answers(model, batch.inputs, self.reading).flatten(0, 1), batch.targets.flatten()
        )


@dataclass(frozen=True)
class ResultRight:
    """Whether both digits of the result are right."""

    reading: Reading

    def __call__(self, model: Network, batch: Problems) -> Float[Tensor, " batch"]:
        """1 for right, 0 for wrong, per example."""
        said = answers(model, batch.inputs, self.reading).argmax(-1)
        return (said == batch.targets).all(1).float()


@dataclass(frozen=True)
class ResultOf:
    """Whether the output is the result of each operation, asked for or not, or of neither.

    Where sum and product agree (modulo 100), an output that equals them is a result of both.

    Source: published code: the columns of its confusion matrix.
    """

    reading: Reading

    def __call__(self, model: Network, batch: Problems) -> Float[Tensor, "batch outcomes=3"]:
        """1 for yes, 0 for no, in the order of ``AddMul.outcomes``."""
        said = answers(model, batch.inputs, self.reading).argmax(-1)
        equal = (said.unsqueeze(1) == batch.results).all(2)
        return torch.cat([equal, ~equal.any(1, keepdim=True)], 1).float()


@dataclass(frozen=True)
class AddMul:
    """The data of the paper's second experiment, and what its subtasks are.

    Only 20,000 problems exist, and nearly all occur in training: validation measures fit, not generalisation.

    Source: Csordas et al. 2021, addition and multiplication; seeds and sizes of the published code.

    Examples:
        >>> data = AddMul("once", train=100, valid=10)
        >>> data.batches("train", 4, seed=0, subtask="+")(0).asked.tolist()
        [0, 0, 0, 0]
    """

    reading: Reading
    """How a network is shown the problem and read."""
    kind: Literal["add-mul"] = "add-mul"
    train: int = 1_000_000
    """Training examples."""
    valid: int = 10_000
    """Validation examples."""

    inputs = 42
    outputs = 20
    full = "both operations"
    subtasks = ("+", "*")
    outcomes = ("result of +", "result of *", "neither")
    """What an output may be."""
    tested = subtasks
    """What accuracy is measured on."""
    solved = 0.95
    """Below this accuracy of the full network a subtask counts as not learned."""
    chance = 0.01
    """Accuracy of guessing two digits."""
    replayable = True
    """Learning does the same with every batch, whatever is in it."""

    def operations(self, subtask: str) -> tuple[int, ...]:
        """The operations a subtask asks for.

        Raises:
            KeyError: No such subtask.
        """
        known = {self.full: (0, 1), "+": (0,), "*": (1,)}
        if subtask not in known:
            raise KeyError(f"add-mul has no subtask {subtask!r}; it has {sorted(known)}")
        return known[subtask]

    def objective(self, subtask: str) -> DigitsLoss:
        """The loss a network or a mask is trained with; the same for all, what differs are the problems."""
        self.operations(subtask)
        return DigitsLoss(self.reading)

    def metric(self, subtask: str) -> ResultRight:
        """Whether both digits are right."""
        self.operations(subtask)
        return ResultRight(self.reading)

    def predictions(self, subtask: str) -> Callable[[Network, Problems], Float[Tensor, "batch 2 10"]]:
        """What a network says of the digits of the result."""
        self.operations(subtask)
        return lambda model, batch: answers(model, batch.inputs, self.reading)

    def outcome(self) -> ResultOf:
        """Which of the outcomes an output is, whatever was asked for; an ambiguous one is two."""
        return ResultOf(self.reading)

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Problems]:
        """Batches of a subtask's problems as a function of the step: sampling with replacement, as in the published loader."""
        digits = self._digits(split, subtask)
        return drawn(digits.problems, len(digits.asked), size, seed)

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Problems]:
        """A subtask's problems of a split in order, in batches."""
        digits = self._digits(split, subtask)
        return in_order(digits.problems, len(digits.asked), size)

    def _digits(self, split: Split, subtask: str | None) -> Digits:
        operations = self.operations(subtask or self.full)
        digits = _digits(split, self.train if split == "train" else self.valid)
        if len(operations) == 2:
            return digits
        return Digits(*(column[digits.asked == operations[0]] for column in digits))


@lru_cache(maxsize=4)
def _digits(split: Split, examples: int) -> Digits:
    """Numbers 0..99 and operations, uniform; every split has its own published seed."""
    random = random_of(split)
    numbers = random.randint(0, 100, size=(examples, 2))
    asked = random.randint(0, 2, size=examples)
    results = np.stack([numbers.sum(1), numbers.prod(1)], 1) % 100
    digits = np.stack([numbers % 10, numbers // 10], -1).reshape(examples, 4)
    places = np.stack([results % 10, results // 10], -1)
    columns = (torch.from_numpy(column.astype(np.uint8)) for column in (digits, places, asked))
    return Digits(*columns)
