"""What a study will cost, from a few steps that are really taken."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median

import torch
from torch import Tensor, nn

from maskscope.analysis.evaluate import evaluate
from maskscope.core.batches import stream
from maskscope.core.device import onto
from maskscope.core.layout import Layout
from maskscope.core.learning.learn import learning
from maskscope.core.modes import evaluating
from maskscope.runs.ablations import tested
from maskscope.runs.about import about
from maskscope.runs.experiment import Experiment
from maskscope.runs.own import OwnData, OwnNetwork
from maskscope.runs.results import FEW

_WARM, _TIMED = 2, 5
"""Steps; the first ones compile and allocate."""


@dataclass(frozen=True)
class Cost:
    """Of one network of a study."""

    masks: int
    steps: int
    """Of each, at most."""
    plain: float
    """Seconds of forward and backward of a batch through the network itself: what a training step costs without its optimiser."""
    step: float
    """Seconds of a step of learning a mask."""
    networks: int
    """That are tested: under each mask, without it, and controls."""
    test: float
    """Seconds of testing one of them on every subtask."""
    memory: int
    """Bytes at the highest: the network, its masks' state, and everything in between."""
    weights: int
    """Bytes of the network."""
    loss: float
    """Of the network itself, on the first batch."""
    first: float
    """Of the same batch under the first samples of the mask. Much larger: what they remove at random is too much to learn from."""
    few: bool
    """Whether the subtasks are few enough for controls and removals of shared weights."""
    scores: tuple[float, ...]
    """Of the network itself on each subtask."""

    @property
    def learning(self) -> float:
        """Seconds of learning every mask, if none ends early."""
        return self.masks * self.steps * self.step

    @property
    def testing(self) -> float:
        """Seconds of testing."""
        return self.networks * self.test


def cost(experiment: Experiment, device: torch.device) -> tuple[Layout, Cost]:
    """Take a few steps of the first subtask's mask and one of the others', test the network, and look at the clock.

    Args:
        experiment: Of a study file that has been read.
        device: Where to compute.

    Raises:
        TypeError: Not of a study file.
        ValueError, KeyError: What ``learning`` says of the study's batches and choices.
    """
    data, network, masking = experiment.data, experiment.network, experiment.masking
    if not isinstance(data, OwnData) or not isinstance(network, OwnNetwork) or masking is None:
        raise TypeError(f"{experiment.name} {experiment.variant} is not of a study file")
    model = network.given(0).to(device)
    over, first = experiment.over(model), data.subtasks[0]
    objective, batches = data.objective(first), list(islice(stream(data.learning(first, 0)), _WARM + _TIMED))
    schedule = masking.schedule

    losses: list[Tensor] = []

    def plain() -> None:
        with evaluating(model):
            loss = objective(model, onto(next(turns), device))
            loss.backward()
        losses.append(loss.detach())
        model.zero_grad(set_to_none=True)

    def learn() -> None:
        losses.append(next(states).loss)

    turns = stream(batches)
    states_of = partial(
        learning,
        model,
        layout=over,
        gate=experiment.gate,
        schedule=schedule,
        penalty=masking.penalty,
        density=masking.density,
        replacement=experiment.replacement(model, over),
        **experiment.working._asdict(),
    )
    states = states_of(batches, objective, initial=experiment.initial(model, over, batches, objective))
    timed_plain = _timed([plain] * (_WARM + _TIMED), device)
    itself = float(losses[0])
    losses.clear()
    timed_step = _timed([learn] * min(_WARM + _TIMED, schedule.steps), device)
    states.close()

    for subtask in data.subtasks[1:]:
        with about(f"the mask of {subtask}"):
            next(states_of([next(stream(data.learning(subtask, 0)))], data.objective(subtask)))

    scores: list[float] = []

    def test() -> None:
        for subtask in data.tested:
            with about(f"the test of {subtask}"):
                scores.append(evaluate(model, data.tests("valid", subtask), data.metric(subtask)).value)

    testing = _timed([test], device)
    return over, Cost(
        masks=len(experiment.masks()),
        steps=schedule.steps,
        plain=timed_plain,
        step=timed_step,
        networks=tested(experiment, over),
        test=testing,
        memory=_highest(device),
        weights=_bytes(model),
        loss=itself,
        first=float(losses[0]),
        few=len(data.subtasks) <= FEW,
        scores=tuple(scores),
    )


def _timed(work: Sequence[Callable[[], object]], device: torch.device) -> float:
    """The median of all but the first, if there are more than so many."""
    seconds: list[float] = []
    for call in work:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[_WARM:] or seconds)


def _highest(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
