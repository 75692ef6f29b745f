"""What a run found out, as records that go to JSON and come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from maskscope.analysis.compare import Overlap
from maskscope.analysis.faithfulness import Curve, Predictions
from maskscope.analysis.gradients import Similarity
from maskscope.analysis.number import Number
from maskscope.analysis.serving import Serving
from maskscope.core.learning.learned import Reading
from maskscope.core.mask import Count
from maskscope.core.objectives import Metric

HISTOGRAM_BINS = 50
"""Equal bins of keep probability from 0 to 1."""

FEW = 3
"""With more subtasks than this, overlaps are kept for layers and pooled parts only, and outcomes for masks only."""

WITHOUT_RANDOM = "complement of random mask"
"""The network without as many random units of each tensor as a mask keeps: whether losing so many is harm enough."""

HIDDEN, ENDS, ALL = "hidden layers", "input and output layers", "all layers"


@runtime_checkable
class Confusable(Protocol):
    """Data that say what an output may be, besides right and wrong."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def outcome(self) -> Metric:
        """For each example and outcome, whether it is that."""
        ...


@runtime_checkable
class Predicting(Protocol):
    """Data that know what in a network's outputs is a prediction."""

    def predictions(self, subtask: str) -> Predictions:
        """What a network says of a subtask's problems, as logarithms of probabilities."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """Data whose subtasks are trained without something that is then tested."""

    def held_out(self, subtask: str) -> str:
        """What of ``tested`` a subtask's training leaves out."""
        ...

    def besides(self, subtask: str) -> tuple[str, ...]:
        """What of ``tested`` has nothing in it that the subtask's training leaves out."""
        ...


@runtime_checkable
class Answering(Protocol):
    """Data that name a network's outputs, one for each row of its last matrix."""

    @property
    def answers(self) -> tuple[str, ...]:
        """The names."""
        ...


@dataclass(frozen=True)
class MaskName:
    """A mask of a run: of which subtask, and which of its repetitions."""

    subtask: str
    seed: int


@dataclass(frozen=True)
class MaskRecord:
    """How learning a mask went; beside each mask file."""

    name: MaskName
    seconds: float
    undecided: int
    """Units whose keep probability ended between .05 and .95."""
    expected_units: Number
    """Sum of all keep probabilities: the size of an average sample."""
    histogram: tuple[int, ...]
    """Units per bin of keep probability."""
    curve: tuple[Reading, ...]
    faithfulness: Curve | None = None
    """By size, of the units that the mask would keep first; of first masks of subtasks that are tested themselves."""


@dataclass(frozen=True)
class MaskSize:
    """How much a mask keeps, tensor by tensor."""

    name: MaskName
    tensors: tuple[Count, ...]


@dataclass(frozen=True)
class Accuracy:
    """A network on a subtask."""

    network: str
    """full network, mask, complement, complement with ends open, first half masked, second half masked, random mask, complement of
    random mask, or one of ``analysis.controls``."""
    mask: MaskName | None
    subtask: str
    """What was tested."""
    value: float
    examples: int


@dataclass(frozen=True)
class PairAccuracy:
    """The network without what two masks share, or without what one keeps and the other does not, on a subtask."""

    removed: str
    """shared, first alone, second alone."""
    first: MaskName
    second: MaskName
    weights: int
    """How many are removed."""
    subtask: str
    """What was tested."""
    value: float
    examples: int


@dataclass(frozen=True)
class Outcome:
    """How often a network's output on a subtask's problems is one thing or another; shares may add up to more than 1."""

    network: str
    mask: MaskName | None
    subtask: str
    outcome: str
    value: float
    examples: int


@dataclass(frozen=True)
class PairOverlap:
    """Two masks, in some part of the network."""

    first: MaskName
    second: MaskName
    overlap: Overlap


@dataclass(frozen=True)
class Share:
    """The paper's sharing statistics of a subtask's mask in a tensor."""

    name: MaskName
    where: str
    shared: Number
    """Share of its units that another subtask's mask also keeps; NaN where there is no other."""
    remaining: Number
    """Share of the control mask's units that it keeps."""


@dataclass(frozen=True)
class Removed:
    """What a mask leaves out of the control mask, in the row of the last matrix that writes one output."""

    name: MaskName
    answer: str
    """The output."""
    control: int
    """Weights that the control mask keeps there."""
    removed: Number
    """Share of them that this mask does not keep."""


@dataclass(frozen=True)
class SeedResults:
    """Everything measured on one trained network."""

    digest: str
    """Of the experiment."""
    seed: int
    accuracies: tuple[Accuracy, ...]
    outcomes: tuple[Outcome, ...]
    """Where the data say what an output may be: a confusion matrix for each network."""
    sizes: tuple[MaskSize, ...]
    overlaps: tuple[PairOverlap, ...]
    shares: tuple[Share, ...]
    warnings: tuple[str, ...]
    removed: tuple[Removed, ...] = ()
    """Where the data name the outputs."""
    pairs: tuple[PairAccuracy, ...] = ()
    """Where there are few subtasks, each with a test of its own."""
    gradients: tuple[Similarity, ...] = ()
    """Under the first subtask's mask, where the experiment asks for them."""
    serving: tuple[Serving, ...] = ()
    """Of the first masks of all subtasks; none where there is a single one."""
    likeness: tuple[Accuracy, ...] = ()
    """Not how often first masks and their complements are right, but how like the network's predictions theirs are."""
    tied: tuple[tuple[str, ...], ...] = ()
    """Parameters that share their units, where a unit lies over several."""
    tested_on: str = ""
    """Digest of the test batches of a study; data of our own are known by the experiment."""

    @property
    def spans(self) -> dict[str, tuple[str, ...]]:
        """The parameters of each run of units, by the first of them; nothing where there are no masks."""
        tied = {names[0]: names for names in self.tied}
        others = {name for names in self.tied for name in names[1:]}
        masked = [tensor.parameter for size in self.sizes[:1] for tensor in size.tensors]
        return {name: tied.get(name, (name,)) for name in masked if name not in others}
