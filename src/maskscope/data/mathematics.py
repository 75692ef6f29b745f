"""Five tasks of the Mathematics Dataset: a question in characters, its answer in characters, levels of difficulty."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from maskscope.core.objectives import Metric, Objective
from maskscope.data.arithmetic import Split, drawn, in_order
from maskscope.data.mathematics_cache import Collection, Part, cached, read
from maskscope.data.mathematics_generation import TRAINED, Level, Task, levels_of
from maskscope.data.sequences import END, PAD, Sentences, sentences_loss, sentences_right

CHARACTERS = " " + string.ascii_letters + string.digits + string.punctuation
"""All printable ASCII, numbered from 1 in this order, whichever of them a task uses; the five use 53 together.

Source: ``mathematics_dataset.generate_settings``; the published vocabulary is that of the whole dataset as well.
"""

_FILL = 255
"""``PAD`` in a byte."""


class Texts(NamedTuple):
    """Questions and answers, compactly: numbered, each ended by ``END`` and filled up."""

    questions: UInt8[Tensor, "examples longest_question"]
    answers: UInt8[Tensor, "examples longest_answer"]

    def sentences(self, rows: Int64[Tensor, " batch"] | slice) -> Sentences:
        """Some of its examples as a batch, as long as the longest of them."""
        return Sentences(_unpacked(self.questions[rows]), _unpacked(self.answers[rows]))


def _unpacked(packed: UInt8[Tensor, "batch longest"]) -> Int64[Tensor, "batch length"]:
    filled = packed == _FILL
    length = int((~filled).sum(1).max()) if len(packed) else 0
    return packed[:, :length].long().masked_fill(filled[:, :length], PAD)


def numbered(texts: Sequence[str]) -> UInt8[Tensor, "texts longest"]:
    """Texts under each other, a byte for a character.

    Raises:
        ValueError: A character that has no number.

    Examples:
        >>> numbered(["a 1", "b"]).tolist()
        [[2, 1, 55, 0], [3, 0, 255, 255]]
    """
    if unknown := sorted(set("".join(texts)).difference(CHARACTERS)):
        example = next(text for text in texts if unknown[0] in text)
        raise ValueError(f"{example!r} has characters {unknown}; expected printable ASCII: {CHARACTERS!r}")
    numbers = np.full(128, END, dtype=np.uint8)
    numbers[[ord(character) for character in CHARACTERS]] = np.arange(1, len(CHARACTERS) + 1)
    joined = numbers[np.frombuffer("".join(f"{text}\n" for text in texts).encode("ascii"), dtype=np.uint8)]
    lengths = np.diff(np.flatnonzero(joined == END), prepend=-1)
    packed = np.full((len(texts), lengths.max(initial=0)), _FILL, dtype=np.uint8)
    packed[np.arange(packed.shape[1]) < lengths[:, None]] = joined
    return torch.from_numpy(packed)


def encode(text: str) -> Int64[Tensor, " length"]:
    """A text as numbers, ended by ``END``.

    Raises:
        ValueError: A character that has no number.

    Examples:
        >>> encode("a 1").tolist()
        [2, 1, 55, 0]
    """
    return numbered([text])[0].long()


def decode(numbers: Int64[Tensor, " length"]) -> str:
    """The text up to ``END``, or to the end.

    Raises:
        ValueError: A number that has no character.

    Examples:
        >>> decode(torch.tensor([2, 1, 55, 0, -100]))
        'a 1'
    """
    listed = [int(number) for number in numbers]
    listed = listed[: listed.index(END)] if END in listed else listed
    if wrong := [number for number in listed if not 1 <= number <= len(CHARACTERS)]:
        raise ValueError(f"no characters for {wrong}; expected 1 to {len(CHARACTERS)}, or {END} for the end")
    return "".join(CHARACTERS[number - 1] for number in listed)


@dataclass(frozen=True)
class Mathematics:
    """The data of the paper's fourth experiment: a network learns three levels of a task, a mask the easy one.

    Questions are different in all levels and splits. The first use generates them, with the package
    ``mathematics_dataset`` (minutes; an hour for ``calculus__differentiate``; what was stopped goes on), and keeps them in the
    user's cache folder. Of every level ``valid`` questions are held out; splits ``valid`` and ``test`` are the same.

    Source: Csordas et al. 2021, Mathematics Dataset; Saxton et al. 2019; levels, filter and splits of published code.
    Differs: generated, where published code reads 666,666 questions per level of release 1.0 and holds out 10,000;
    ``extrapolate`` reads questions of that level, where published code reads ``interpolate`` again.

    Examples:
        >>> data = Mathematics("comparison__sort")
        >>> data.tested
        ('easy', 'medium', 'hard', 'interpolate', 'extrapolate')
        >>> data.inputs
        96
    """

    task: Task
    """Which task."""
    kind: Literal["mathematics"] = "mathematics"
    train: int = 100_000
    """Training questions per level; a level that has not as many different ones has fewer."""
    valid: int = 2_000
    """Held-out questions per level; likewise."""
    seed: int = 0
    """Of the questions."""

    characters = CHARACTERS
    inputs = len(CHARACTERS) + 1
    outputs = inputs
    full = "all levels"
    subtasks = ("easy",)
    """Levels that masks are learned for. Source: published code: its stage named "hard" trains on the easy level."""
    solved = 0.9
    """Below this accuracy of the full network a level counts as not learned."""
    chance = 0.0
    """Accuracy of guessing a whole answer."""
    replayable = False
    """Answers have lengths, and each its own work."""

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.train < 1 or self.valid < 1 or self.seed < 0:
            raise ValueError(
                f"train={self.train}, valid={self.valid}, seed={self.seed}: expected at least one question to train on "
                "and one held out per level, and a seed that is not negative"
            )

    @property
    def tested(self) -> tuple[Level, ...]:
        """The levels that have held-out questions."""
        return levels_of(self.task)

    def held_out(self, subtask: str) -> str:
        """What a mask of the easy level is tested on in the end."""
        self.levels(subtask)
        return "hard"

    def besides(self, subtask: str) -> tuple[str, ...]:
        """The levels of the subtask; tests of interpolation and extrapolation have all levels in them, or none."""
        return tuple(str(level) for level in self.levels(subtask))

    def levels(self, subtask: str) -> tuple[Level, ...]:
        """The levels of a subtask; every level that is tested counts as one.

        Raises:
            KeyError: No such subtask.
        """
        known: dict[str, tuple[Level, ...]] = {self.full: TRAINED, **{level: (level,) for level in self.tested}}
        if subtask not in known:
            raise KeyError(f"{self.task} has no subtask {subtask!r}; it has {list(known)}")
        return known[subtask]

    def objective(self, subtask: str) -> Objective:
        """The loss a network or a mask is trained with; the same for all, what differs are the questions."""
        self.levels(subtask)
        return sentences_loss

    def metric(self, subtask: str) -> Metric:
        """Whether the whole answer is right."""
        self.levels(subtask)
        return sentences_right

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Sentences]:
        """Batches of a subtask's questions as a function of the step: sampling with replacement, as published.

        Raises:
            ValueError: The split has none: of levels that are only tested there are none to train on.
        """
        texts = self._texts(split, subtask or self.full)
        return drawn(texts.sentences, len(texts.questions), size, seed)

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Sentences]:
        """A subtask's questions of a split in batches, those with the shortest answers first, so that decoding is short.

        Validation and test are the same: the held-out questions.
        """
        texts = self._texts(split, subtask or self.full)
        by_length = (texts.answers != _FILL).sum(1).argsort(stable=True)
        return in_order(lambda some: texts.sentences(by_length[some]), len(by_length), size)

    def _texts(self, split: Split, subtask: str) -> Texts:
        levels = self.levels(subtask)
        whole, ranges = _texts(cached(Collection(self.task, self.train, self.valid, self.seed)))
        part = "train" if split == "train" else "valid"
        found = [ranges[part, level] for level in levels if (part, level) in ranges]
        if not found:
            raise ValueError(
                f"{self.task} has no {split} questions of {subtask!r}; levels to train on are {TRAINED}, and where a "
                f"level gave none, ask for more than train={self.train}, valid={self.valid}"
            )
        rows = slice(found[0].start, found[-1].stop)  # levels of a split follow each other
        return Texts(whole.questions[rows], whole.answers[rows])


@lru_cache(maxsize=2)
def _texts(path: Path) -> tuple[Texts, dict[Part, slice]]:
    """A file, and where its parts are."""
    parts = read(path)
    both = [question for part in parts.values() for question in part]
    ranges: dict[Part, slice] = {}
    for part, questions in parts.items():
        start = max((rows.stop for rows in ranges.values()), default=0)
        ranges[part] = slice(start, start + len(questions))
    return Texts(numbered([question for question, _ in both]), numbered([answer for _, answer in both])), ranges
