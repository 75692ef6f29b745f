"""Experiments as values: they print, compare, hash, go to JSON and come back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter

from maskscope.core.gates import GumbelSigmoid
from maskscope.core.granularity import PerInput, PerOutput, PerTensor, PerWeight
from maskscope.core.layout import Layout
from maskscope.core.layout import layout as lay_out
from maskscope.core.learning.learn import PENALTY
from maskscope.core.learning.schedules import FAST, Schedule
from maskscope.data.add_mul import AddMul
from maskscope.data.double_addition import DoubleAddition
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.twin import CopySecondHalf

FORMAT = 3
"""Raised when the same configuration gives other numbers than before; part of every run's hash."""

Granularity = Annotated[PerWeight | PerOutput | PerInput | PerTensor, Field(discriminator="kind")]
Data = Annotated[DoubleAddition | AddMul, Field(discriminator="kind")]
NetworkSettings = Annotated[MLPSettings | LSTMSettings, Field(discriminator="kind")]


@dataclass(frozen=True)
class Training:
    """How a network is trained: Adam on the full task.

    Raises:
        ValueError: A number out of its range.
    """

    kind: Literal["training"] = "training"
    steps: int = 20_000
    """Optimisation steps. Source: the paper's arithmetic experiments."""
    learning_rate: float = 1e-3
    batch: int = 128
    """Examples per step, drawn with replacement."""
    clip: float = 1.0
    """Largest norm of the gradient."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps < 1 or self.batch < 1 or not self.learning_rate > 0 or not self.clip > 0:
            raise ValueError(f"training needs positive numbers, got {self}")


@dataclass(frozen=True)
class Masking:
    """How masks are learned on the trained network.

    Raises:
        ValueError: A number out of its range.
    """

    kind: Literal["masking"] = "masking"
    gate: GumbelSigmoid = field(default_factory=GumbelSigmoid)
    schedule: Schedule = FAST
    penalty: float = PENALTY
    """Added to the mean loss per unit of summed logit, no other scaling. Source: the paper's beta / batch."""
    batch: int = 128
    """Examples per step, cut into ``schedule.samples`` parts."""
    granularity: Granularity = field(default_factory=PerWeight)
    select: tuple[str, ...] = ()
    """Which parameters; empty: every weight, not embeddings, nor biases outside normalisation layers."""
    repeats: int = 2
    """Masks per subtask, each with its own seed; two or more give the ceiling."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")
        if self.batch < self.schedule.samples:
            raise ValueError(f"a mask batch of {self.batch} cannot be cut into {self.schedule.samples} samples")


@dataclass(frozen=True)
class Experiment:
    """A network to train, the subtasks to look for in it, and how.

    Examples:
        >>> experiment = Experiment("double-addition", "fnn", DoubleAddition("separate"), MLPSettings(hidden=(8,)))
        >>> from_json(to_json(experiment)) == experiment
        True
    """

    name: str
    """The family, such as ``double-addition``."""
    variant: str
    """This member of it, such as ``lstm``."""
    data: Data
    network: NetworkSettings
    training: Training = Training()
    masking: Masking = Masking()
    halves: tuple[tuple[str, ...], ...] = ()
    """Parameters that are masked alone in the half-mask test, one test for each; empty: the network's first half."""
    surgery: CopySecondHalf | None = None
    """What is done to the network after training."""
    title: str = ""
    """For reports."""

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything that changes numbers."""
        return _digest(json.loads(to_json(dataclasses.replace(self, title=""))))

    @property
    def network_digest(self) -> str:
        """The same over what the trained network depends on: experiments that agree in it may share the network."""
        values = json.loads(to_json(self))
        return _digest({name: values[name] for name in ("data", "network", "training", "surgery")})

    @property
    def subtasks(self) -> tuple[str, ...]:
        """The full task (its mask is the control) and the subtasks."""
        return (self.data.full, *self.data.subtasks)

    def masks(self) -> tuple[tuple[str, int], ...]:
        """Every mask to learn, as (subtask, mask seed): the control once, each subtask ``repeats`` times."""
        repeats = range(self.masking.repeats)
        return ((self.data.full, 0), *((subtask, seed) for seed in repeats for subtask in self.data.subtasks))


def _digest(values: dict[str, object]) -> str:
    text = json.dumps([FORMAT, values], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def to_json(experiment: Experiment) -> str:
    """An experiment as indented JSON."""
    return TypeAdapter(Experiment).dump_json(experiment, indent=1).decode()


def from_json(text: str) -> Experiment:
    """An experiment back from JSON.

    Raises:
        pydantic.ValidationError: With the path of every wrong field.
    """
    return TypeAdapter(Experiment).validate_json(text)


def layout_of(experiment: Experiment) -> Layout:
    """The layout that its masks will have.

    Examples:
        >>> experiment = Experiment("double-addition", "fnn", DoubleAddition("separate"), MLPSettings())
        >>> layout_of(experiment).weights
        12240000
    """
    with torch.device("meta"):
        network = experiment.network.build(experiment.data.inputs, experiment.data.outputs)
    return lay_out(network, experiment.masking.select or None, granularity=experiment.masking.granularity)
