"""Double addition: two pairs of two-digit numbers, each to be added modulo 100."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from maskscope.core.objectives import Network
from maskscope.data.arithmetic import Split, drawn, in_order, random_of

Mode = Literal["separate", "together", "forced", "only-one", "same-input", "same-output", "same-io"]

_IN_TURN = ("forced", "only-one", "same-input", "same-io")
"""Pair 1 is shown on steps 1 to 3, pair 2 on steps 4 to 6; otherwise both on all six."""
_READ_IN_TURN = ("forced", "same-output", "same-io")
"""Pair i is read at step 3i; otherwise both at the last."""
_SAME_INPUT = ("same-input", "same-io")
"""Both pairs come in through the same inputs."""
_SAME_OUTPUT = ("same-output", "same-io")
"""Both sums go out through the same outputs."""

_STEPS_PER_PAIR = 3


class Problems(NamedTuple):
    """A batch: one-hot digits in, digits of the two sums out (least significant first)."""

    inputs: Float[Tensor, "batch 80"]
    """Two pairs of two numbers of two digits, ten places each."""
    sums: Int64[Tensor, "batch pairs=2 digits=2"]

    def of(self, pairs: tuple[int, ...]) -> Int64[Tensor, "batch pairs digits=2"]:
        """The sums of some pairs."""
        return torch.stack([self.sums[:, pair] for pair in pairs], 1)


class Digits(NamedTuple):
    """A split, compactly."""

    inputs: UInt8[Tensor, "examples 8"]
    sums: UInt8[Tensor, "examples 2 2"]

    def problems(self, rows: Int64[Tensor, " batch"] | slice) -> Problems:
        """Some of its examples as a batch."""
        hot = functional.one_hot(self.inputs[rows].long(), 10).flatten(1).float()
        return Problems(hot, self.sums[rows].long())


@dataclass(frozen=True)
class PairsLoss:
    """Mean cross-entropy over the digits of some pairs' sums."""

    mode: Mode
    pairs: tuple[int, ...]
    """Which pairs count, 0 or 1."""
    hide_others: bool = False
    """Zero the input of the pairs that do not count. Source: masks of the published LSTM are learned so."""

    def __call__(self, model: Network, batch: Problems) -> Float[Tensor, ""]:
        """The mean over examples, pairs and digits."""
        outputs = answers(model, batch.inputs, self.mode, self.pairs, hide_others=self.hide_others)
        return functional.cross_entropy(outputs.flatten(0, -2), batch.of(self.pairs).flatten())


@dataclass(frozen=True)
class PairsRight:
    """Whether every digit of some pairs' sums is right; all inputs are shown."""

    mode: Mode
    pairs: tuple[int, ...]

    def __call__(self, model: Network, batch: Problems) -> Float[Tensor, " batch"]:
        """1 for right, 0 for wrong, per example."""
        outputs = answers(model, batch.inputs, self.mode, self.pairs)
        return (outputs.argmax(-1) == batch.of(self.pairs)).flatten(1).all(1).float()


def answers(
    model: Network,
    inputs: Float[Tensor, "batch 80"],
    mode: Mode,
    pairs: tuple[int, ...],
    *,
    hide_others: bool = False,
) -> Float[Tensor, "batch pairs 2 10"]:
    """What a network says of some pairs' sums, in the way of a mode.

    | mode | pairs are shown | through | sums are read | from |
    | --- | --- | --- | --- | --- |
    | separate | in two passes, the other zeroed (the FNN) | their own inputs | of their own pass | their own outputs |
    | together | on all six steps | their own inputs | at the last step | their own outputs |
    | forced | in turn, three steps each | their own inputs | at the end of their steps | their own outputs |
    | only-one | in turn | their own inputs | at the last step | their own outputs |
    | same-input | in turn | the same inputs | at the last step | their own outputs |
    | same-output | on all six steps | their own inputs | at the third and last step | the same outputs |
    | same-io | in turn | the same inputs | at the end of their steps | the same outputs |

    Args:
        model: A network from 80 inputs (40 where they are the same) to 40 outputs (20), per step in all modes but the first.
        inputs: One-hot digits.
        mode: How they are shown and read.
        pairs: Which pairs to answer.
        hide_others: Zero the input of the other pairs.

    Source: Csordas et al. 2021, double addition; published code (task ``tuple``, all its modes).
    """
    shown = torch.stack([_only(inputs, pair) for pair in pairs]).sum(0) if hide_others else inputs
    if mode == "separate":
        return torch.stack([_blocks(model(_only(shown, pair)))[:, pair] for pair in pairs], 1)
    if mode in _IN_TURN:
        each = (
            shown.unflatten(1, (2, 40)).unbind(1) if mode in _SAME_INPUT else [_only(shown, pair) for pair in range(2)]
        )
        steps = torch.stack(each, 1).repeat_interleave(_STEPS_PER_PAIR, 1)
    else:
        steps = shown.unsqueeze(1).expand(-1, 2 * _STEPS_PER_PAIR, -1)
    outputs = model(steps)
    at = [_STEPS_PER_PAIR * (pair + 1) - 1 if mode in _READ_IN_TURN else -1 for pair in pairs]
    if mode in _SAME_OUTPUT:
        return torch.stack([outputs[:, step].unflatten(1, (2, 10)) for step in at], 1)
    return torch.stack([_blocks(outputs[:, step])[:, pair] for pair, step in zip(pairs, at, strict=True)], 1)


def _only(inputs: Float[Tensor, "batch 80"], pair: int) -> Float[Tensor, "batch 80"]:
    shown = torch.zeros_like(inputs)
    shown[:, 40 * pair : 40 * (pair + 1)] = inputs[:, 40 * pair : 40 * (pair + 1)]
    return shown


def _blocks(outputs: Float[Tensor, "batch 40"]) -> Float[Tensor, "batch 2 2 10"]:
    return outputs.unflatten(1, (2, 2, 10))


@dataclass(frozen=True)
class DoubleAddition:
    """The data of the paper's first experiment, and what its subtasks are.

    Source: Csordas et al. 2021, double addition; seeds and sizes of the published code.

    Examples:
        >>> data = DoubleAddition("separate", train=100, valid=10)
        >>> data.batches("train", 4, seed=0)(0).inputs.shape
        torch.Size([4, 80])
    """

    mode: Mode
    """How a network is shown the pairs and read."""
    kind: Literal["double-addition"] = "double-addition"
    train: int = 1_000_000
    """Training examples."""
    valid: int = 10_000
    """Validation examples."""

    full = "both pairs"
    subtasks = ("pair 1", "pair 2")
    tested = subtasks
    """What accuracy is measured on."""
    solved = 0.95
    """Below this accuracy of the full network a subtask counts as not learned."""
    chance = 0.01
    """Accuracy of guessing two digits."""
    replayable = True
    """Learning does the same with every batch, whatever is in it."""

    @property
    def inputs(self) -> int:
        """What a network is shown at once: four digits of ten places for each pair, or for both in turn."""
        return 40 if self.mode in _SAME_INPUT else 80

    @property
    def outputs(self) -> int:
        """What it answers: two digits for each pair, or for both in turn."""
        return 20 if self.mode in _SAME_OUTPUT else 40

    def pairs(self, subtask: str) -> tuple[int, ...]:
        """The pairs a subtask counts.

        Raises:
            KeyError: No such subtask.
        """
        known = {self.full: (0, 1), "pair 1": (0,), "pair 2": (1,)}
        if subtask not in known:
            raise KeyError(f"double addition has no subtask {subtask!r}; it has {sorted(known)}")
        return known[subtask]

    def objective(self, subtask: str) -> PairsLoss:
        """The loss a network or a mask is trained with."""
        pairs = self.pairs(subtask)
        return PairsLoss(self.mode, pairs, hide_others=self.mode != "separate" and len(pairs) == 1)

    def metric(self, subtask: str) -> PairsRight:
        """Whether both digits are right, every input shown."""
        return PairsRight(self.mode, self.pairs(subtask))

    def predictions(self, subtask: str) -> Callable[[Network, Problems], Float[Tensor, "batch pairs 2 10"]]:
        """What a network says of a subtask's digits."""
        pairs = self.pairs(subtask)
        return lambda model, batch: answers(model, batch.inputs, self.mode, pairs)

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Problems]:
        """Batches as a function of the step: sampling with replacement, as in the published loader.

        Every subtask has the same: what differs is what its objective looks at.
        """
        self.pairs(subtask or self.full)
        digits = _digits(split, self._examples(split))
        return drawn(digits.problems, len(digits.sums), size, seed)

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Problems]:
        """A whole split in order, in batches; the same for every subtask."""
        self.pairs(subtask or self.full)
        examples = self._examples(split)
        digits = _digits(split, examples)
        return in_order(digits.problems, examples, size)

    def _examples(self, split: Split) -> int:
        return self.train if split == "train" else self.valid


@lru_cache(maxsize=4)
def _digits(split: Split, examples: int) -> Digits:
    """Numbers 0..99, uniform; every split has its own published seed."""
    random = random_of(split)
    numbers = random.randint(0, 100, size=(examples, 2, 2))  # example, pair, number
    sums = numbers.sum(2) % 100
    digits = np.stack([numbers % 10, numbers // 10], -1).reshape(examples, 8)
    places = np.stack([sums % 10, sums // 10], -1)
    return Digits(torch.from_numpy(digits.astype(np.uint8)), torch.from_numpy(places.astype(np.uint8)))
