"""Experiments as values: they print, compare, hash, go to JSON and come back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from maskscope.core.batches import Batches
from maskscope.core.channels import PerChannel
from maskscope.core.gates import Gate, GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerBlock, PerInput, PerOutput, PerTensor, PerWeight
from maskscope.core.groups import PerHead, PerLayer, PerNeuron
from maskscope.core.layout import Layout, layout
from maskscope.core.learning.learn import PENALTY
from maskscope.core.learning.schedules import FAST, Schedule
from maskscope.core.objectives import Objective
from maskscope.core.replacement import Replacement
from maskscope.data.add_mul import AddMul
from maskscope.data.cifar10 import ClassPairs, ClassRemoval
from maskscope.data.double_addition import DoubleAddition
from maskscope.data.mathematics import Mathematics
from maskscope.data.planted import Planted
from maskscope.data.scan import Scan
from maskscope.models.cnn import CNNSettings
from maskscope.models.encoder_decoder import EncoderDecoderSettings
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.planted import PlantedSettings
from maskscope.models.resnet import PretrainedResNetSettings, ResNetSettings
from maskscope.models.transformer import TransformerSettings
from maskscope.models.twin import CopySecondHalf
from maskscope.runs.own import OwnChoice, OwnData, OwnNetwork
from maskscope.runs.store import dumped, parsed
from maskscope.study import Working

FORMAT = 3
"""Raised when the same configuration gives other numbers than before; part of every run's hash."""

Gates = Annotated[GumbelSigmoid | HardConcrete | Sigmoid | TopK | OwnChoice, Field(discriminator="kind")]
Granularity = Annotated[
    PerWeight | PerOutput | PerInput | PerTensor | PerBlock | PerChannel | PerHead | PerNeuron | PerLayer | OwnChoice,
    Field(discriminator="kind"),
]
Data = Annotated[
    DoubleAddition | AddMul | Scan | Mathematics | ClassRemoval | ClassPairs | Planted | OwnData,
    Field(discriminator="kind"),
]
NetworkSettings = Annotated[
    MLPSettings
    | LSTMSettings
    | EncoderDecoderSettings
    | TransformerSettings
    | CNNSettings
    | ResNetSettings
    | PretrainedResNetSettings
    | PlantedSettings
    | OwnNetwork,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class Adam:
    """Adam. Source of the defaults: the paper's arithmetic experiments (torch's own)."""

    kind: Literal["adam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def over(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.Adam(parameters, lr=learning_rate, betas=self.betas, eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent. Source of the defaults: the paper's ResNet-110."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def over(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )


Optimizer = Annotated[Adam | SGD, Field(discriminator="kind")]


@dataclass(frozen=True)
class Training:
    """How a network is trained on the full task.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> [Training(learning_rate=0.1, warmup=4, milestones=(8,)).rate(step) for step in (0, 3, 7, 8)]
        [0.025, 0.1, 0.1, 0.01]
    """

    kind: Literal["training"] = "training"
    steps: int = 20_000
    """Optimisation steps; 0 for a network that comes trained. Source: the paper's arithmetic experiments."""
    learning_rate: float = 1e-3
    batch: int = 128
    """Examples per step, drawn with replacement."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: any."""
    optimizer: Optimizer = field(default_factory=Adam)
    warmup: int = 0
    """Steps in which the learning rate grows from 0."""
    milestones: tuple[int, ...] = ()
    """Steps at which the learning rate falls to a tenth."""

    def __post_init__(self) -> None:
        """Check ranges."""
        clips = self.clip is None or self.clip > 0
        if self.steps < 0 or self.batch < 1 or not self.learning_rate > 0 or not clips or self.warmup < 0:
            raise ValueError(f"training needs positive numbers, got {self}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.learning_rate * warm / 10**passed


@dataclass(frozen=True)
class Masking:
    """How masks are learned on the trained network.

    Raises:
        ValueError: A number out of its range.
    """

    kind: Literal["masking"] = "masking"
    gate: Gates = field(default_factory=GumbelSigmoid)
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
    from_control: tuple[str, ...] = ()
    """Parameters in which subtasks' masks are the control mask, not learned. Source: the paper's CIFAR-10 (output layer)."""
    shuffled_labels: bool = False
    """A control: each example has another's labels."""
    density: float | None = None
    """Share of the units to keep; None: as many as the penalty leaves."""
    initial: str = ""
    """Where logits begin, if not all at ``schedule.init``: what a study has for it, in words."""

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
    masking: Masking | None = field(default_factory=Masking)
    """None: the network is trained and tested only."""
    halves: tuple[tuple[str, ...], ...] = ()
    """Parameters that are masked alone in the half-mask test, one test for each; empty: the network's first half."""
    gradients: tuple[tuple[str, ...], ...] = ()
    """Groups of parameters that are masked one after another, to compare gradients; empty: they are not compared."""
    surgery: CopySecondHalf | None = None
    """What is done to the network after training."""
    title: str = ""
    """For reports."""

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything that changes numbers."""
        return hashed(_values(dataclasses.replace(self, title="")))

    @property
    def network_digest(self) -> str:
        """The same over what training depends on: experiments that agree in it may share the network, but for surgery."""
        values = _values(self)
        return hashed({name: values[name] for name in ("data", "network", "training")})

    def remasked(self, **changes: Any) -> Experiment:
        """The same with other settings of its masks, named as in ``Masking``.

        Examples:
            >>> from maskscope.data.add_mul import AddMul
            >>> Experiment("add-mul", "fnn", AddMul("once"), MLPSettings()).remasked(repeats=3).masking.repeats
            3
        """
        return dataclasses.replace(self, masking=dataclasses.replace(self.masking or Masking(), **changes))

    @property
    def plan(self) -> str:
        """What is to be done, in words."""
        trained = f"train {self.training.steps:,} steps" if self.training.steps else "take the network as it comes"
        if self.masking is None:
            return trained
        schedule = self.masking.schedule
        return f"{trained}, then learn {len(self.masks())} masks of {schedule.steps:,} steps with {schedule.samples} samples each"

    @property
    def subtasks(self) -> tuple[str, ...]:
        """The full task (its mask is the control) and the subtasks."""
        return (self.data.full, *self.data.subtasks)

    def layout(self) -> Layout:
        """The layout that its masks have; default settings where it learns none.

        Examples:
            >>> Experiment("double-addition", "fnn", DoubleAddition("separate"), MLPSettings()).layout().weights
            12240000
        """
        if isinstance(self.network, OwnNetwork):
            return self.over(self.network.given(0))
        with torch.device("meta"):
            return self.over(self.network.build(self.data.inputs, self.data.outputs))

    def over(self, model: nn.Module, select: Sequence[str] = ()) -> Layout:
        """The layout of its masks over a network; default settings where it learns none.

        Args:
            model: The network.
            select: Which parameters. Default: those of the experiment.
        """
        if isinstance(self.network, OwnNetwork):
            return self.network.over(model)
        masking = self.masking or Masking()
        if isinstance(masking.granularity, OwnChoice):
            raise TypeError(f"{masking.granularity.text} is known to its study file only")
        return layout(model, select or masking.select or None, granularity=masking.granularity)

    def replacement(self, model: nn.Module, over: Layout) -> Replacement:
        """What removed weights become: zero, unless a study says otherwise."""
        return self.network.replacement(model, over) if isinstance(self.network, OwnNetwork) else {}

    def chance(self, subtask: str) -> float:
        """What guessing gives on a subtask."""
        found = self.data.chance
        return found[self.data.subtasks.index(subtask)] if isinstance(found, tuple) else found

    def initial(self, model: nn.Module, over: Layout, batches: Batches, objective: Objective) -> Tensor | None:
        """Where logits begin: all at the schedule's, unless a study says otherwise."""
        if isinstance(self.network, OwnNetwork):
            return self.network.initial(model, over, batches, objective)
        return None

    @property
    def working(self) -> Working:
        """How steps of learning are worked."""
        return self.network.working if isinstance(self.network, OwnNetwork) else Working()

    @property
    def tested_on(self) -> str:
        """Digest of a study's test batches; empty where the experiment says what they are."""
        return self.data.tested_on if isinstance(self.data, OwnData) else ""

    @property
    def gate(self) -> Gate:
        """Of its masks; the default where it learns none."""
        if isinstance(self.network, OwnNetwork):
            return self.network.gate
        gate = (self.masking or Masking()).gate
        if isinstance(gate, OwnChoice):
            raise TypeError(f"{gate.text} is known to its study file only")
        return gate

    def masks(self) -> tuple[tuple[str, int], ...]:
        """Every mask to learn, as (subtask, mask seed): the control once, each subtask ``repeats`` times."""
        if self.masking is None:
            return ()
        repeats = range(self.masking.repeats)
        return ((self.data.full, 0), *((subtask, seed) for seed in repeats for subtask in self.data.subtasks))


_LATER: dict[str, dict[str, object]] = {
    "": {"gradients": []},
    "training": {"optimizer": json.loads(dumped(Adam())), "warmup": 0, "milestones": []},
    "masking": {"from_control": [], "shuffled_labels": False, "density": None, "initial": ""},
    "network": {"start": "torch"},
}
"""Settings that came after ``FORMAT``: while they hold these values they are no part of a hash, so that older runs stay found."""


def _values(experiment: Experiment) -> dict[str, Any]:
    """What is hashed."""
    return without_later(json.loads(to_json(experiment)), _LATER)


def without_later(values: dict[str, Any], later: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """Settings as they were before some came: without these, where they hold their first value.

    Args:
        values: A configuration; changed in place.
        later: By part of it ("" is the whole), the settings that came later, with the value that means as before.

    Examples:
        >>> without_later({"steps": 3, "schedule": {"rate": None, "clip": 1.0}}, {"schedule": {"rate": None}})
        {'steps': 3, 'schedule': {'clip': 1.0}}
    """
    for part, settings in later.items():
        here = values[part] if part else values
        for name, value in settings.items():
            if here is not None and here.get(name) == value:
                del here[name]
    return values


def hashed(values: dict[str, Any]) -> str:
    """Eight hexadecimal digits over some settings."""
    text = json.dumps([FORMAT, values], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def to_json(experiment: Experiment) -> str:
    """An experiment as indented JSON."""
    return dumped(experiment)


def from_json(text: str) -> Experiment:
    """An experiment back from JSON.

    Raises:
        pydantic.ValidationError: With the path of every wrong field.
    """
    return parsed(text, Experiment)
