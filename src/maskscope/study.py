"""What a study file defines: a network, its subtasks, and how masks are to be learned."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from maskscope.core.batches import Batch, Batches, Split
from maskscope.core.gates import Gate, GumbelSigmoid
from maskscope.core.granularity import Granularity, PerWeight
from maskscope.core.groups import Grouping
from maskscope.core.layout import Layout
from maskscope.core.learning.learn import PENALTY
from maskscope.core.learning.schedules import FAST, Schedule
from maskscope.core.objectives import Metric, Objective, accuracy, cross_entropy
from maskscope.core.replacement import Replacement
from maskscope.core.select import Pattern

ALL = "all"
"""All subtasks together: what the control mask is learned on."""


Initial: TypeAlias = Callable[[nn.Module, Layout, Batches, Objective], Tensor]
"""Where each unit's logit begins, (units,), of a network, its layout, the batches of a mask and their objective."""


class Working(NamedTuple):
    """How a step of learning is worked: options of ``learning`` beside what is learned."""

    autocast: torch.dtype | None = None
    split: Split | None = None
    accumulate: int = 1
    low_memory: bool = False


@dataclass(frozen=True)
class Subtask:
    """A function to look for in a network.

    Raises:
        TypeError: Something that is not what it should be; the message says what was given.

    Examples:
        >>> import torch
        >>> batch = (torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> Subtask(learn=[batch], test=[batch]).tests()
        [(tensor([[1., 1.],
                [1., 1.],
                [1., 1.],
                [1., 1.]]), tensor([0, 1, 1, 0]))]
    """

    learn: Batches
    """Batches to learn from: a function of the step, or something to be gone through again and again. Repetitions of a mask go on
    from later steps, so that a function of the step gives them other batches."""
    test: Sequence[Batch] | Callable[[], Sequence[Batch]]
    """Batches to test on, others than those of ``learn``; a function is called when they are needed, and once."""
    objective: Objective = cross_entropy
    """``objective(network, batch)``: the mean loss."""
    metric: Metric = accuracy
    """``metric(network, batch)``: one number per example, from 0 (wrong) to 1 (right)."""

    def __post_init__(self) -> None:
        """Say at once what would fail after an hour."""
        if not callable(self.objective) or not callable(self.metric):
            raise TypeError(
                f"objective and metric are functions of (network, batch), got {self.objective!r}, {self.metric!r}"
            )
        if not callable(self.test) and not isinstance(self.test, Sequence):
            raise TypeError(
                f"test takes a list of batches (each example counts once), or a function that returns one, got "
                f"{type(self.test).__name__}; for a DataLoader: test=lambda: list(loader)"
            )

    def tests(self) -> Sequence[Batch]:
        """The batches to test on.

        Raises:
            ValueError: There are none.
        """
        found = self.test() if callable(self.test) else self.test
        if not len(found):
            raise ValueError("a subtask has no batches to test on")
        return found


@dataclass(frozen=True)
class Study:
    """A network, its subtasks, and how their masks are learned: ``maskscope study FILE.py`` does the rest.

    A control mask of all subtasks together is learned as well, from their batches in turn.

    Raises:
        ValueError: No subtask, a name that is taken, or a number out of its range.

    Examples:
        >>> import torch
        >>> batch = (torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> study = Study("toy", nn.Linear(2, 2), {"ones": Subtask([batch], [batch])})
        >>> study.network(seed=0)
        Linear(in_features=2, out_features=2, bias=True)
    """

    name: str
    """Of the folder of its runs."""
    model: nn.Module | Callable[[int], nn.Module] | Callable[[], nn.Module]
    """A trained network, or a function that returns one, of the network seed if there are several; called only when needed."""
    subtasks: Mapping[str, Subtask]
    """By name."""
    title: str = ""
    """For the report. Default: the name."""
    select: Sequence[Pattern] | None = None
    """Which parameters; as for ``layout``."""
    granularity: Granularity | Grouping = field(default_factory=PerWeight)
    """What a unit is."""
    gate: Gate = field(default_factory=GumbelSigmoid)
    """How a unit is sampled."""
    schedule: Schedule = FAST
    """Steps, learning rate, samples."""
    penalty: float = PENALTY
    """As for ``learn_mask``."""
    density: float | None = None
    """As for ``learn_mask``: share of the units to keep."""
    initial: Initial | None = None
    """Where logits begin: such as ``maskscope.analysis.scores.InTurn()``. Default: all at ``schedule.init``."""
    replacement: Callable[[nn.Module, Layout], Replacement] | None = None
    """What removed weights become, in learning and in tests, from the network and the layout: such as
    ``maskscope.core.replacement.means``. Default: zero."""
    autocast: torch.dtype | None = None
    """As for ``learn_mask``."""
    split: Split | None = None
    """As for ``learn_mask``: how to cut a batch whose first dimension is not the batch."""
    accumulate: int = 1
    """As for ``learn_mask``: pieces of each part, where a part does not fit into memory."""
    low_memory: bool = False
    """As for ``learn_mask``."""
    repeats: int = 2
    """Masks of each subtask; two or more give the ceiling."""
    ends: Sequence[str] = ()
    """Parameters of the input and output layers, as globs: overlap there is reported apart, and they are left open in one test."""
    chance: float | Mapping[str, float] = 0.0
    """What guessing gives, in every subtask's metric; a mapping, such as ``{"colour": 0.1, "even": 0.5}``: in each one's."""
    solved: float = 0.9
    """Below it, the report warns that the network does not do a subtask itself."""

    def __post_init__(self) -> None:
        """Check what can be checked without the network."""
        if not self.name or not self.subtasks or ALL in self.subtasks:
            raise ValueError(
                f"a study needs a name and subtasks, none of which is called {ALL!r} (that is the control mask's), got "
                f"name={self.name!r}, subtasks={list(self.subtasks)}"
            )
        for name, subtask in self.subtasks.items():
            if not isinstance(subtask, Subtask):
                raise TypeError(f"subtask {name!r} is a {type(subtask).__name__}, expected ms.Subtask(learn=, test=)")
        if isinstance(self.chance, Mapping) and set(self.chance) != set(self.subtasks):
            raise ValueError(f"chance of each of {list(self.subtasks)} is needed, got {dict(self.chance)}")
        chances = self.chance.values() if isinstance(self.chance, Mapping) else [self.chance]
        if self.repeats < 1 or not all(0 <= chance < 1 for chance in chances):
            raise ValueError(f"repeats must be at least 1 and chance in [0, 1), got {self.repeats=}, {self.chance=}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")
        if self.initial is not None and not callable(self.initial):
            raise TypeError(
                f"initial takes a function (network, layout, batches, objective) -> logits, such as "
                f"InTurn() (from maskscope.analysis.scores import InTurn), got {type(self.initial).__name__}"
            )
        if not isinstance(self.model, nn.Module) and not callable(self.model):
            raise TypeError(f"model takes a network or a function of a seed, got {type(self.model).__name__}")

    @property
    def working(self) -> Working:
        """How its steps are worked."""
        return Working(self.autocast, self.split, self.accumulate, self.low_memory)

    def check_seed(self, seed: int) -> None:
        """Look whether there is a network of a seed.

        Raises:
            ValueError: A seed other than 0 where one network was given.
        """
        if seed and not self._has_seeds:
            raise ValueError(
                f"study {self.name!r} has one network, so its only seed is 0, got {seed}; for several give a function: "
                "model=lambda seed: ..."
            )

    @property
    def _has_seeds(self) -> bool:
        return not isinstance(self.model, nn.Module) and _wants_a_seed(self.model)

    def network(self, seed: int) -> nn.Module:
        """The network of a seed.

        Raises:
            ValueError: There is none.
            TypeError: The function returned something else.
        """
        self.check_seed(seed)
        if isinstance(self.model, nn.Module):
            return self.model
        found = self.model(seed) if self._has_seeds else self.model()  # pyright: ignore[reportCallIssue]
        if not isinstance(found, nn.Module):
            raise TypeError(f"model of study {self.name!r} returned {type(found).__name__}, expected an nn.Module")
        return found


def _wants_a_seed(make: Callable[..., nn.Module]) -> bool:
    """Whether a function has to be given something: parameters with defaults are its own affair."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(make).parameters.values()
    return any(item.kind in kinds and (item.default is item.empty or item.name == "seed") for item in parameters)
