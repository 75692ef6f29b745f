"""CIFAR-10: what a mask loses when a class is left out, and whether masks of two classes come out alike twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskscope.core.objectives import CrossEntropy, Metric, Network, accuracy, cross_entropy
from maskscope.data.arithmetic import Split
from maskscope.data.cifar10_archive import CLASSES
from maskscope.data.cifar10_batches import Labelled, Pictures, Scales, Validation

_WITHOUT = "without "

_ORDERED_PAIRS = len(CLASSES) * (len(CLASSES) - 1)


def predicted_class(model: Network, batch: Labelled) -> Float[Tensor, "batch classes=10"]:
    """1 for the class an image is taken for, 0 for the others.

    Examples:
        >>> import torch
        >>> predicted_class(lambda x: torch.eye(10)[:1], (torch.zeros(1, 3, 32, 32), torch.tensor([3])))
        tensor([[1., 0., 0., 0., 0., 0., 0., 0., 0., 0.]])
    """
    return functional.one_hot(model(batch[0]).argmax(-1), len(CLASSES)).float()


@dataclass(frozen=True)
class ClassRemoval:
    """The data of the paper's CIFAR-10 experiment: masks that are learned without one class.

    Source: Csordas et al. 2021, CIFAR-10 class removal; splits, scaling and augmentation of the published code.

    Examples:
        >>> data = ClassRemoval()
        >>> data.subtasks[0], len(data.classes("without airplane")), data.classes("bird")
        ('without airplane', 9, (2,))
    """

    kind: Literal["cifar10"] = "cifar10"
    validation: Validation = "split"
    """What validation images are."""
    augmented: bool = False
    """Whether training images are cropped at random, with 4 pixels of border, and mirrored."""
    scaling: Scales = "dataset"
    """What is taken off the channels, and what they are divided by."""

    inputs = 3
    outputs = len(CLASSES)
    full = "all classes"
    subtasks = tuple(f"{_WITHOUT}{name}" for name in CLASSES)
    """A mask of each is learned on the images of the other nine classes."""
    tested = CLASSES
    """Each on its own images."""
    outcomes = CLASSES
    """What an image may be taken for."""
    answers = CLASSES
    """What the rows of the last matrix write."""
    solved = 0.5
    """Below this accuracy of the full network a class counts as not learned."""
    chance = 0.1
    """Accuracy of guessing a class."""
    replayable = True
    """Learning does the same with every batch, whatever is in it."""

    def classes(self, subtask: str) -> tuple[int, ...]:
        """The labels of a class, of all classes, or of all but one.

        Raises:
            KeyError: No such subtask.
        """
        every = range(len(CLASSES))
        known = {self.full: tuple(every)} | {name: (label,) for label, name in enumerate(CLASSES)}
        known |= {f"{_WITHOUT}{CLASSES[label]}": tuple(other for other in every if other != label) for label in every}
        if subtask not in known:
            raise KeyError(f"CIFAR-10 has no subtask {subtask!r}; it has {sorted(known)}")
        return known[subtask]

    def held_out(self, subtask: str) -> str:
        """The class a subtask leaves out."""
        (label,) = set(self.classes(self.full)) - set(self.classes(subtask))
        return CLASSES[label]

    def besides(self, subtask: str) -> tuple[str, ...]:
        """All other classes."""
        return tuple(CLASSES[label] for label in self.classes(subtask))

    def objective(self, subtask: str) -> CrossEntropy:
        """The loss a network or a mask is trained with; the same for all, what differs are the images."""
        self.classes(subtask)
        return cross_entropy

    def metric(self, subtask: str) -> Metric:
        """Whether the class is right, of all ten."""
        self.classes(subtask)
        return accuracy

    def outcome(self) -> Metric:
        """Which class an image is taken for: with the classes tested, the rows of a confusion matrix."""
        return predicted_class

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Labelled]:
        """Batches of a subtask's images as a function of the step."""
        return self._pictures().batches(split, size, seed, self.classes(subtask or self.full))

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Labelled]:
        """A subtask's images of a split in order, in batches."""
        return self._pictures().tests(split, size, self.classes(subtask or self.full))

    def _pictures(self) -> Pictures:
        return Pictures(self.validation, self.augmented, self.scaling)


@dataclass(frozen=True)
class ClassPairs:
    """The data of the mask-stability test: masks that are learned on two classes only, each more than once.

    A pair and the same pair the other way round may both be drawn; they have the same images.

    Source: Csordas et al. 2021, mask stability; published code (task ``cifar10_mask_stability``), its way of drawing
    from the 90 ordered pairs. Differs: the draw has a seed.

    Raises:
        ValueError: More pairs than there are.

    Examples:
        >>> ClassPairs(count=2).subtasks
        ('airplane, bird', 'automobile, cat')
    """

    kind: Literal["cifar10-pairs"] = "cifar10-pairs"
    count: int = 10
    """How many pairs."""
    seed: int = 0
    """Of the draw of pairs."""
    validation: Validation = "split"
    """What validation images are."""
    augmented: bool = False
    """Whether training images are cropped at random, with 4 pixels of border, and mirrored."""
    scaling: Scales = "dataset"
    """What is taken off the channels, and what they are divided by."""

    inputs = 3
    outputs = len(CLASSES)
    full = "all classes"
    solved = 0.5
    """Below this accuracy of the full network a pair counts as not learned."""
    chance = 0.1
    """Accuracy of guessing a class, of ten."""
    replayable = True
    """Learning does the same with every batch, whatever is in it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 1 <= self.count <= _ORDERED_PAIRS:
            raise ValueError(f"count must be 1 to {_ORDERED_PAIRS}, got {self.count}")

    @property
    def subtasks(self) -> tuple[str, ...]:
        """Pairs of class names."""
        drawn_pairs = np.random.RandomState(self.seed).choice(_ORDERED_PAIRS, self.count, replace=False).tolist()
        pairs = ((code // 10 + int(code % 10 <= code // 10), code % 10) for code in drawn_pairs)
        return tuple(f"{CLASSES[first]}, {CLASSES[second]}" for first, second in pairs)

    @property
    def tested(self) -> tuple[str, ...]:
        """The pairs, and all classes."""
        return (*self.subtasks, self.full)

    def classes(self, subtask: str) -> tuple[int, ...]:
        """The labels of a pair, or of all classes.

        Raises:
            KeyError: No such subtask.
        """
        if subtask == self.full:
            return tuple(range(len(CLASSES)))
        if subtask not in self.subtasks:
            raise KeyError(f"no subtask {subtask!r}; the pairs drawn are {self.subtasks}, all are {self.full!r}")
        return tuple(CLASSES.index(name) for name in subtask.split(", "))

    def objective(self, subtask: str) -> CrossEntropy:
        """The loss a network or a mask is trained with; the same for all, what differs are the images."""
        self.classes(subtask)
        return cross_entropy

    def metric(self, subtask: str) -> Metric:
        """Whether the class is right, of all ten."""
        self.classes(subtask)
        return accuracy

    def batches(self, split: Split, size: int, seed: int, subtask: str | None = None) -> Callable[[int], Labelled]:
        """Batches of a subtask's images as a function of the step."""
        return self._pictures().batches(split, size, seed, self.classes(subtask or self.full))

    def tests(self, split: Split = "valid", subtask: str | None = None, size: int = 1000) -> list[Labelled]:
        """A subtask's images of a split in order, in batches."""
        return self._pictures().tests(split, size, self.classes(subtask or self.full))

    def _pictures(self) -> Pictures:
        return Pictures(self.validation, self.augmented, self.scaling)
