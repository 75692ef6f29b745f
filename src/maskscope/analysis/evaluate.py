"""How well a network, or a network under a mask, does."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskscope.core.apply import module_of
from maskscope.core.batches import Batch
from maskscope.core.device import device_of, onto
from maskscope.core.modes import evaluating
from maskscope.core.objectives import Metric, Network


class Score(NamedTuple):
    """The mean of a metric."""

    value: float
    examples: int


def evaluate(network: Network, batches: Iterable[Batch], metric: Metric) -> Score:
    """The mean of a metric over all examples, in evaluation mode; every module's own mode is restored.

    Args:
        network: A module, ``masked(model, mask)``, or any callable.
        batches: Finite; every example counts once. Brought to the network's device from the CPU.
        metric: One number per example.

    Raises:
        ValueError: No examples, or the metric is not one number per example.

    Examples:
        >>> from maskscope.core.objectives import accuracy
        >>> evaluate(torch.nn.Identity(), [(torch.eye(2), torch.tensor([0, 0]))], accuracy)
        Score(value=0.5, examples=2)
    """
    (score,) = _means(network, batches, lambda model, batch: _column(metric(model, batch)))
    return score


def evaluate_each(network: Network, batches: Iterable[Batch], metrics: Metric) -> tuple[Score, ...]:
    """The means of several metrics that are found together, in one pass of the network.

    Args:
        network: As for ``evaluate``.
        batches: Finite; every example counts once.
        metrics: Several numbers per example, (examples, metrics).

    Raises:
        ValueError: No examples, or the metrics are not so many numbers per example.

    Examples:
        >>> evaluate_each(torch.nn.Identity(), [torch.tensor([[1.0, 0.0], [1.0, 1.0]])], lambda model, batch: model(batch))
        (Score(value=1.0, examples=2), Score(value=0.5, examples=2))
    """
    return _means(network, batches, metrics)


def _means(network: Network, batches: Any, metrics: Metric) -> tuple[Score, ...]:
    if callable(batches):
        raise TypeError(
            "evaluate goes through its batches once, so it takes a list or a loader, not a function of the step"
        )
    module = module_of(network)
    place = None if module is None else device_of(module)
    total, examples = torch.zeros(()).double(), 0
    with nullcontext() if module is None else evaluating(module), torch.no_grad():
        for batch in batches:
            values = metrics(network, onto(batch, place))
            if values.ndim != 2:
                raise ValueError(
                    f"several metrics return a row of numbers per example, got shape {tuple(values.shape)}"
                )
            total = total + values.double().sum(0).cpu()
            examples += values.shape[0]
    if not examples:
        raise ValueError("nothing to evaluate on: there are no batches (an iterator that was used up?)")
    if total.isnan().any():
        warnings.warn(
            f"the metric is NaN for some of {examples:,} examples, and so is its mean; does the network give NaN there?",
            stacklevel=3,
        )
    return tuple(Score(value / examples, examples) for value in total.tolist())


def _column(values: Tensor) -> Tensor:
    if values.ndim != 1:
        raise ValueError(f"a metric returns one number per example, got shape {tuple(values.shape)}")
    return values.unsqueeze(1)
