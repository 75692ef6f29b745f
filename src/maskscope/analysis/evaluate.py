"""How well a network, or a network under a mask, does."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn

from maskscope.core.apply import Masked
from maskscope.core.batches import Batch
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
        batches: Finite; every example counts once.
        metric: One number per example.

    Raises:
        ValueError: No examples, or the metric is not one number per example.

    Examples:
        >>> from maskscope.core.objectives import accuracy
        >>> evaluate(nn.Identity(), [(torch.eye(2), torch.tensor([0, 0]))], accuracy)
        Score(value=0.5, examples=2)
    """
    if callable(batches):
        raise TypeError(
            "evaluate goes through its batches once, so it takes a list or a loader, not a function of the step"
        )
    module = network.model if isinstance(network, Masked) else network
    total, examples = 0.0, 0
    with evaluating(module) if isinstance(module, nn.Module) else nullcontext(), torch.no_grad():
        for batch in batches:
            values = metric(network, batch)
            if values.ndim != 1:
                raise ValueError(f"a metric returns one number per example, got shape {tuple(values.shape)}")
            total += float(values.double().sum())
            examples += values.shape[0]
    if not examples:
        raise ValueError("nothing to evaluate on: there are no batches (an iterator that was used up?)")
    return Score(total / examples, examples)
