"""Tasks learned in turn by one network, each with a mask, weights of earlier masks frozen or not; resumable.

Source: Csordas et al. 2021, permuted MNIST; published code. Added: how well earlier tasks still do after each one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from maskscope.analysis.compare import remaining
from maskscope.analysis.evaluate import evaluate
from maskscope.analysis.number import Number
from maskscope.core.apply import masked
from maskscope.core.device import CPU
from maskscope.core.files import load_tensors, save_tensors
from maskscope.core.gates import GumbelSigmoid
from maskscope.core.layout import Layout, layout
from maskscope.core.learning.joint import Joint, JointSchedule, JointState, learning_jointly
from maskscope.core.mask import Count, Mask
from maskscope.core.objectives import accuracy, cross_entropy
from maskscope.core.seeded import derive, seeded
from maskscope.core.select import by_layer
from maskscope.data.mnist import PermutedMNIST
from maskscope.models.mlp import MLPSettings
from maskscope.runs.environment import at_work
from maskscope.runs.experiment import hashed, without_later
from maskscope.runs.loop import Loop, Note, Report
from maskscope.runs.store import RunFolder, dumped, parsed, read_record, write_record

Protection = Literal["frozen", "none"]

_LATER = {"schedule": {"weight_learning_rate": None}, "": {"first": 2.0}}
"""As of ``Experiment``: older runs stay found."""


@dataclass(frozen=True)
class Continual:
    """Permutations of MNIST learned one after another, weights and mask together.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> Continual("permuted-mnist", "tiny").plan
        '11 tasks of 30,000 steps in turn, weights and mask together, with 8 samples'
    """

    name: str
    variant: str
    kind: Literal["continual"] = "continual"
    data: PermutedMNIST = field(default_factory=PermutedMNIST)
    network: MLPSettings = field(default_factory=lambda: MLPSettings(hidden=(800, 800, 64), start="xavier"))
    schedule: JointSchedule = field(default_factory=JointSchedule)
    gate: GumbelSigmoid = field(default_factory=GumbelSigmoid)
    batch: int = 128
    penalty: float = 1e-5
    """Added to the mean loss per unit of summed logit. Source: the paper's 1.28e-3 over its batch of 128."""
    first: float = 2.0
    """Initial logit of all units in the first task, which finds nothing to use again. Source: published code (``mask_init``)."""
    new: float = 2.0
    """Initial logit of units that no earlier mask keeps."""
    used: float = 2.0
    """Initial logit of units that an earlier mask keeps."""
    protection: Protection = "frozen"
    """frozen: weights that an earlier mask keeps stay as they are, all others begin anew with each task, as published.
    none: every weight goes on learning from where it is."""
    own_first_layer: bool = True
    """Every task has a first layer of its own, as published; here it is also kept for later tests."""
    title: str = ""
    """For reports."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.batch < self.schedule.samples or not self.penalty >= 0:
            raise ValueError(f"a batch must have an example for each sample, a penalty not be negative; got {self}")

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything that changes numbers."""
        values = {name: value for name, value in json.loads(self.to_json()).items() if name != "title"}
        # Older runs began their first task as all others: those in which that makes a difference are not found.
        later = _LATER if self.first == self.new else {"schedule": _LATER["schedule"]}
        return hashed(without_later(values, later))

    def to_json(self) -> str:
        """Indented."""
        return dumped(self)

    @property
    def plan(self) -> str:
        """What is to be done, in words."""
        steps, samples = self.schedule.steps, self.schedule.samples
        return f"{self.data.permutations} tasks of {steps:,} steps in turn, weights and mask together, with {samples} samples"

    @property
    def first_layer(self) -> tuple[str, ...]:
        """Its parameters."""
        return ("layers.0.weight", "layers.0.bias")

    def layout(self) -> Layout:
        """Every parameter, biases too. Source: published code."""
        with torch.device("meta"):
            return layout(self.network.build(self.data.inputs, self.data.outputs), ["*"])


@dataclass(frozen=True)
class TaskResults:
    """One task, right after it was learned."""

    task: int
    seconds: float
    loss: Number
    """Of its last batch."""
    kept: tuple[Count, ...]
    """Of its mask, per tensor."""
    shared: tuple[tuple[str, Number], ...]
    """Per layer: of the units its mask keeps, those that an earlier mask kept and that were frozen or so counted."""
    used: tuple[tuple[str, float], ...]
    """Per layer: share of all units that this or an earlier mask keeps."""
    accuracies: tuple[float, ...]
    """On every task so far, this one last, each under its own mask (and first layer)."""
    examples: int
    """Validation examples each."""


@dataclass(frozen=True)
class ContinualResults:
    """Everything measured with one seed."""

    digest: str
    seed: int
    tasks: tuple[TaskResults, ...]

    def retained(self, task: int = 0) -> float:
        """What is left, after all tasks, of a task's accuracy when it was learned."""
        return self.tasks[-1].accuracies[task] / max(self.tasks[task].accuracies[task], 1e-9)


def union(masks: Sequence[Mask], over: Layout, without: Sequence[str] = ()) -> Mask:
    """What any of some masks keeps, some parameters left out.

    Examples:
        >>> over = layout(nn.Linear(2, 3))
        >>> union([Mask.full(over)], over, ["weight"]).kept_units
        0
    """
    return reduce(or_, masks, Mask.empty(over)) - Mask.of(over, over.covering(without))


@dataclass(frozen=True)
class ContinualRunner:
    """Runs one seed in its folder: task after task, skipping what is done, resuming what is begun.

    Raises (from ``run``):
        InUse: Another process owns the folder.
        Paused: Ctrl-C; run again to go on.
        OSError: The folder cannot be written to.
    """

    experiment: Continual
    seed: int
    folder: RunFolder
    report: Report
    threads: int = 1
    device: torch.device = CPU
    checkpoint_seconds: float = 15.0
    tell_seconds: float = 0.1

    def run(self) -> ContinualResults:
        """Do what is not done yet, and return the results."""
        experiment = self.experiment
        with at_work(self.folder, experiment.to_json(), self.threads, self.device):
            model, over, masks = self._fresh("network"), experiment.layout(), list[Mask]()
            tasks = list[TaskResults]()
            for task in range(experiment.data.permutations):
                if not self._done(task):
                    self._learn(task, model, over, masks)
                model.load_state_dict(load_tensors(self._weights(task)).tensors)
                masks.append(Mask.load(self._mask(task)))
                tasks.append(read_record(self._record(task), TaskResults))
            results = ContinualResults(experiment.digest, self.seed, tuple(tasks))
            write_record(self.folder.results, results)
            return results

    def _weights(self, task: int) -> Path:
        """The network after a task."""
        return self.folder.path / "tasks" / f"{task}.safetensors"

    def _record(self, task: int) -> Path:
        return self.folder.path / "tasks" / f"{task}.json"

    def _mask(self, task: int) -> Path:
        return self.folder.mask(f"permutation {task}", 0)

    def _done(self, task: int) -> bool:
        return all(path.exists() for path in (self._weights(task), self._record(task), self._mask(task)))

    def _fresh(self, *purpose: str | int) -> nn.Module:
        with seeded(derive(self.seed, *purpose)):
            built = self.experiment.network.build(self.experiment.data.inputs, self.experiment.data.outputs)
        return built.to(self.device)

    def _learn(self, task: int, model: nn.Module, over: Layout, masks: Sequence[Mask]) -> None:
        """Learn a task, the network being as the task before left it."""
        experiment = self.experiment
        seen = union(masks, over, experiment.first_layer if experiment.own_first_layer else ())
        frozen = seen if experiment.protection == "frozen" else Mask.empty(over)
        if task and experiment.protection == "frozen":
            _begin_anew(model, self._fresh("network", task), frozen)
        if task and experiment.own_first_layer:
            _begin_anew(model, self._fresh("first layer", task), ~Mask.of(over, over.covering(experiment.first_layer)))
        new = experiment.new if task else experiment.first
        logits = torch.where(seen.kept, experiment.used, new)
        joint = Joint(model, over, logits, frozen, experiment.schedule)
        loop = self._loop(f"permutation {task}")
        before = loop.resume(joint.restore)
        states = learning_jointly(
            joint,
            experiment.data.batches("train", experiment.batch, derive(self.seed, "batches", task), task),
            cross_entropy,
            gate=experiment.gate,
            penalty=experiment.penalty,
            seed=derive(self.seed, "mask", task),
        )
        seconds = loop.run(states, joint.state, _reading, before)
        mask = joint.mask(experiment.gate)
        mask.save(self._mask(task))
        save_tensors(self._weights(task), model.state_dict(), {"experiment": experiment.digest, "task": task})
        readings, layers = loop.readings(), {**by_layer(over.names), "all layers": over.names}
        record = TaskResults(
            task,
            seconds,
            float(readings[-1]["loss"]) if readings else float("nan"),
            mask.counts(),
            tuple((where, remaining(seen, mask, names)) for where, names in layers.items()),
            tuple((where, _density(union([*masks, mask], over), names)) for where, names in layers.items()),
            tuple(self._accuracies(model, [*masks, mask])),
            sum(len(batch[1]) for batch in experiment.data.tests("valid", task)),
        )
        write_record(self._record(task), record)
        told = f"{mask.kept_units:,} units kept, {record.accuracies[-1]:.1%} right, the first task {record.accuracies[0]:.1%}"
        loop.finish(experiment.schedule.steps, f"{told}, in {seconds:.0f} s")

    def _accuracies(self, model: nn.Module, masks: Sequence[Mask]) -> Iterator[float]:
        """On every task so far, with the network as it is now."""
        now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for task, mask in enumerate(masks):
            if self.experiment.own_first_layer:
                then = load_tensors(self._weights(task)).tensors
                model.load_state_dict(now | {name: then[name] for name in self.experiment.first_layer})
            yield evaluate(masked(model, mask), self.experiment.data.tests("valid", task), accuracy).value
        model.load_state_dict(now)

    def _loop(self, phase: str) -> Loop:
        task = f"{self.experiment.variant} seed {self.seed}"
        return Loop(self.folder, task, phase, self.report, self.checkpoint_seconds, self.tell_seconds)


def _begin_anew(model: nn.Module, fresh: nn.Module, except_: Mask) -> None:
    """Take weights from a fresh network, but for some."""
    new = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.where(except_.parameter(name).to(weight.device), weight, new[name]))


def _density(mask: Mask, names: Sequence[str]) -> float:
    here = mask.layout.covering(names)
    return int((mask.kept & here).sum()) / int(here.sum())


def _reading(state: JointState) -> Note:
    kept: Tensor = state.joint.logits > 0
    return {"step": state.step, "loss": float(state.loss), "kept": int(kept.sum())}


def is_continual(config: str) -> bool:
    """Whether a configuration is of this kind of run, not of an ``Experiment``."""
    values = json.loads(config)
    return isinstance(values, dict) and values.get("kind") == "continual"


def continual_from_json(text: str) -> Continual:
    """A configuration back from JSON.

    Raises:
        pydantic.ValidationError: With the path of every wrong field.
    """
    return parsed(text, Continual)
