"""A network, subtasks and choices that a study file defines, as the values a run is made of.

They say in JSON which study they are of, and what a report needs. What they stand for, functions among it, is known where the
file has been read (``runs/study_file.py``); reports are made without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from torch import Tensor, nn

from maskscope.core.batches import Batch, Batches, Split, stream
from maskscope.core.fingerprint import batches_digest
from maskscope.core.gates import Gate
from maskscope.core.layout import Layout, layout
from maskscope.core.objectives import Metric, Network, Objective, weight_of
from maskscope.core.replacement import Replacement
from maskscope.core.seeded import derive, seeded
from maskscope.study import ALL, Study, Working

_KNOWN: dict[str, Study] = {}


def know(source: str, study: Study) -> None:
    """A study of a file has been read."""
    _KNOWN[_key(source, study.name)] = study
    _tests.cache_clear()


def forget() -> None:
    """All of them, as in a process that has read no file."""
    _KNOWN.clear()
    _tests.cache_clear()


def _key(source: str, name: str) -> str:
    return f"{source}/{name}"


def _study(source: str, name: str) -> Study:
    try:
        return _KNOWN[_key(source, name)]
    except KeyError:
        raise LookupError(f"study {name!r} cannot be run here: its file has not been read, or has changed") from None


@dataclass(frozen=True)
class OwnChoice:
    """A gate or a granularity that JSON does not know, by its description."""

    kind: Literal["own"] = "own"
    text: str = ""


@dataclass(frozen=True)
class OwnNetwork:
    """The network of a study: it comes trained, and is not copied into the run's folder."""

    study: str
    """Its name."""
    source: str
    """Digest of the file."""
    ends: tuple[str, ...] = ()
    """Globs over the parameters of its input and output layers."""
    kind: Literal["own"] = "own"

    @property
    def first_half(self) -> tuple[str, ...]:
        """Not known: it is the first half of what is masked."""
        return ()

    @property
    def read_out(self) -> str:
        """Not known."""
        return ""

    def check_seed(self, seed: int) -> None:
        """Look whether there is a network of a seed.

        Raises:
            ValueError: There is none.
        """
        _study(self.source, self.study).check_seed(seed)

    def given(self, seed: int) -> nn.Module:
        """The network."""
        return _study(self.source, self.study).network(seed)

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """The network of seed 0, as it comes."""
        del inputs, outputs
        return self.given(0)

    def over(self, model: nn.Module) -> Layout:
        """The layout of its masks.

        Raises:
            KeyError: ``select`` or ``ends`` match nothing.
        """
        study = _study(self.source, self.study)
        found = layout(model, study.select, granularity=study.granularity)
        found.matching(self.ends)
        return found

    def replacement(self, model: nn.Module, over: Layout) -> Replacement:
        """What removed weights become."""
        make = _study(self.source, self.study).replacement
        return {} if make is None else make(model, over)

    def initial(self, model: nn.Module, over: Layout, batches: Batches, objective: Objective) -> Tensor | None:
        """Where logits begin."""
        make = _study(self.source, self.study).initial
        return None if make is None else make(model, over, batches, objective)

    @property
    def working(self) -> Working:
        """As the study has it; its ``split`` cuts the control mask's batches too."""
        found = _study(self.source, self.study).working
        return found if found.split is None else found._replace(split=partial(_split, found.split))

    @property
    def gate(self) -> Gate:
        """As the study has it."""
        return _study(self.source, self.study).gate


@dataclass(frozen=True)
class Turn:
    """A batch of one of several subtasks."""

    subtask: str
    batch: Batch


def _split(split: Split, batch: Batch, parts: int) -> Sequence[Batch]:
    """By the study's own function, which knows nothing of turns."""
    if isinstance(batch, Turn):
        return [Turn(batch.subtask, piece) for piece in split(batch.batch, parts)]
    return split(batch, parts)


@dataclass(frozen=True)
class _Turns:
    """The objective of the subtask whose turn it is."""

    objectives: Mapping[str, Objective]

    def __call__(self, model: Network, batch: Turn) -> Tensor:
        return self.objectives[batch.subtask](model, batch.batch)

    def weigh(self, batch: Turn) -> float:
        return weight_of(self.objectives[batch.subtask], batch.batch)


@dataclass(frozen=True)
class _Again:
    """Batches in turn from what can only be gone through."""

    learn: Mapping[str, Batches]

    def __iter__(self) -> Iterator[Turn]:
        streams = {name: stream(batches) for name, batches in self.learn.items()}
        while True:
            for name, batches in streams.items():
                yield Turn(name, next(batches))


@dataclass(frozen=True)
class OwnData:
    """The subtasks of a study."""

    study: str
    """Its name."""
    source: str
    """Digest of the file."""
    subtasks: tuple[str, ...]
    chance: float | tuple[float, ...]
    """In every subtask's metric, or in each one's."""
    solved: float
    kind: Literal["own"] = "own"
    full: str = ALL

    inputs = 0
    outputs = 0
    replayable = False

    @property
    def tested(self) -> tuple[str, ...]:
        """Every subtask."""
        return self.subtasks

    def learning(self, subtask: str, first: int) -> Batches:
        """Batches to learn a mask of a subtask, or of all in turn.

        Args:
            subtask: Its name, or that of all.
            first: The step to begin with, where batches are a function of the step.
        """
        learn = {name: item.learn for name, item in self._all().items()}
        if subtask != self.full:
            return _from(learn[subtask], first)
        if any(isinstance(batches, Iterable) for batches in learn.values()):
            return _Again(learn)
        names, functions = list(learn), {name: _function(batches) for name, batches in learn.items()}

        def turn(step: int) -> Turn:
            name = names[step % len(names)]
            return Turn(name, functions[name](step // len(names)))

        return turn

    def batches(self, split: str, batch: int, seed: int, subtask: str) -> Callable[[int], Batch]:
        """As ``learning`` from the first step on, where that is a function: sizes and order are the study's own."""
        del split, batch, seed
        return _function(self.learning(subtask, 0))

    def tests(self, split: str, subtask: str) -> Sequence[Batch]:
        """What a subtask is tested on."""
        del split
        return _tests(self.source, self.study, subtask)

    @property
    def tested_on(self) -> str:
        """Digest of all test batches: the file's code may be the same and its data not."""
        return batches_digest(batch for subtask in self.subtasks for batch in self.tests("", subtask))

    def objective(self, subtask: str) -> Objective:
        """The loss of a subtask, or of the one whose turn it is."""
        objectives = {name: item.objective for name, item in self._all().items()}
        return _Turns(objectives) if subtask == self.full else objectives[subtask]

    def metric(self, subtask: str) -> Metric:
        """The measure of a subtask."""
        return self._all()[subtask].metric

    def _all(self) -> Mapping[str, Any]:
        return _study(self.source, self.study).subtasks


@cache
def _tests(source: str, study: str, subtask: str) -> Sequence[Batch]:
    """Asked for once: reading them may take time. What is drawn or shuffled by torch is so alike each time."""
    with seeded(derive("tests", subtask)):
        return _study(source, study).subtasks[subtask].tests()


def _function(batches: Batches) -> Callable[[int], Batch]:
    if isinstance(batches, Iterable):
        raise TypeError(f"expected a function of the step, got {type(batches).__name__}")
    return batches


def _from(batches: Batches, first: int) -> Batches:
    if isinstance(batches, Iterable) or not first:
        return batches
    return lambda step: batches(first + step)
