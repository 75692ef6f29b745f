"""SCAN: commands such as ``walk left twice`` to sequences of actions, and splits that hold combinations back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from maskscope.core.objectives import Network
from maskscope.data.arithmetic import Split, drawn, in_order
from maskscope.data.scan_grammar import DIRECTIONS, SPLITS, VERBS, SplitName, commands, halves
from maskscope.data.sequences import END, PAD, Sentences, sentences_loss, sentences_right

WORDS_IN = ("<end>", *VERBS, "turn", *DIRECTIONS, "opposite", "around", "twice", "thrice", "and", "after")
"""The words of commands by their tokens."""

WORDS_OUT = ("<end>", *(f"I_{verb.upper()}" for verb in VERBS), *(f"I_TURN_{way.upper()}" for way in DIRECTIONS))
"""The actions by their tokens."""


class Commands(NamedTuple):
    """Every command and its actions as tokens, compactly, and how long they are with their ``END``."""

    source: Int8[Tensor, "examples 10"]
    target: Int8[Tensor, "examples 49"]
    source_lengths: Int64[Tensor, " examples"]
    target_lengths: Int64[Tensor, " examples"]

    def sentences(self, rows: Int64[Tensor, " batch"]) -> Sentences:
        """Some of them as a batch, no longer than its longest."""
        length, steps = int(self.source_lengths[rows].max()), int(self.target_lengths[rows].max())
        return Sentences(self.source[rows, :length].long(), self.target[rows, :steps].long())


@dataclass(frozen=True)
class Scan:
    """The data of the paper's third experiment, and what its subtasks are.

    A network learns a split's training file. A mask is then learned on another split's, in which some combinations do
    not occur, and tested on them: what the mask removes was not needed for the rest.

    Source: Csordas et al. 2021, SCAN; published code (tasks ``scan`` and ``trafo_scan``).

    Raises:
        ValueError: A number out of its range, or a split twice.

    Examples:
        >>> data = Scan()
        >>> batch = data.batches("train", 4, seed=0)(0)
        >>> len(batch.source), len(batch.target)
        (4, 4)
        >>> sum(len(batch.target) for batch in data.tests("valid", "turn left"))
        1208
    """

    kind: Literal["scan"] = "scan"
    learned: SplitName = "simple"
    """The split whose training file the network learns."""
    masked: tuple[SplitName, ...] = ("jump", "length", "turn left")
    """The splits whose training files masks are learned on, beside ``learned``, whose mask is the control."""
    forcing: float = 1.0
    """Share of training batches in which a network is shown the right token before each step, not its own. Source:
    published code: 0.5 for the LSTM, drawn per batch, 1 for the Transformer."""

    inputs = len(WORDS_IN)
    outputs = len(WORDS_OUT)
    words_in = WORDS_IN
    words_out = WORDS_OUT
    answers = WORDS_OUT
    """What the rows of a network's read-out say."""
    tested = SPLITS
    """The splits on whose tests accuracy is measured."""
    solved = 0.95
    """Below this accuracy of the full network a subtask counts as not learned."""
    chance = 0.0
    """Accuracy of guessing a whole sequence."""
    replayable = False
    """Answers have lengths, and each its own work."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.forcing <= 1:
            raise ValueError(f"forcing is a share of batches, 0 to 1, got {self.forcing}")
        splits = (self.learned, *self.masked)
        if len(set(splits)) < len(splits):
            raise ValueError(f"masks are learned once on each split, learned included, got {splits}")

    @property
    def full(self) -> SplitName:
        """What the network learns."""
        return self.learned

    @property
    def subtasks(self) -> tuple[SplitName, ...]:
        """What masks are learned on."""
        return self.masked

    def held_out(self, subtask: str) -> str:
        """The split whose test has what a subtask's training file leaves out: its own."""
        return _named(subtask)

    def besides(self, subtask: str) -> tuple[str, ...]:
        """Nothing: every other split's test has commands of the kind that a split leaves out, 2 to 40 % of it."""
        _named(subtask)
        return ()

    def objective(self, subtask: str) -> Callable[[Network, Sentences], Float[Tensor, ""]]:
        """The loss a network or a mask is trained with; the same for all, what differs are the commands."""
        _named(subtask)
        return sentences_loss

    def metric(self, subtask: str) -> Callable[[Network, Sentences], Float[Tensor, " batch"]]:
        """Whether the whole sequence of actions is right, greedily decoded."""
        _named(subtask)
        return sentences_right

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Sentences]:
        """Batches of a split's commands as a function of the step: sampling with replacement, as in the published loader."""
        rows = _rows(split, _named(subtask or self.full))
        batch = drawn(lambda some: _tokens().sentences(rows[some]), len(rows), size, seed)
        return lambda step: batch(step)._replace(forced=bool(_coin(seed, step) < self.forcing))

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Sentences]:
        """A split's commands in batches, those with the fewest actions first: a batch is decoded as long as its longest.

        Validation and test are the same: the split's test file.
        """
        rows = _rows(split, _named(subtask or self.full))
        by_length = rows[_tokens().target_lengths[rows].argsort(stable=True)]
        return in_order(lambda some: _tokens().sentences(by_length[some]), len(rows), size)


def _named(subtask: str) -> SplitName:
    for split in SPLITS:
        if split == subtask:
            return split
    raise KeyError(f"SCAN has no subtask {subtask!r}; it has {sorted(SPLITS)}")


def _coin(seed: int, step: int) -> float:
    """A number from 0 to 1, not the generator's that draws the batch."""
    return np.random.default_rng([seed, step, 1]).random()


@lru_cache(maxsize=8)
def _rows(split: Split, subtask: SplitName) -> Int64[Tensor, " examples"]:
    found = halves(subtask)
    return torch.tensor(found.train if split == "train" else found.test)


@lru_cache(maxsize=1)
def _tokens() -> Commands:
    columns: list[Tensor] = []
    for words, sentences in zip((WORDS_IN, WORDS_OUT), zip(*commands(), strict=True), strict=True):
        number = {word: token for token, word in enumerate(words)}
        rows = [[*(number[word] for word in sentence.split()), END] for sentence in sentences]
        filled = torch.tensor(list(zip_longest(*rows, fillvalue=PAD)), dtype=torch.int8)
        columns += [filled.T.contiguous(), torch.tensor([len(row) for row in rows])]
    source, source_lengths, target, target_lengths = columns
    return Commands(source, target, source_lengths, target_lengths)
