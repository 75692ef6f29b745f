"""Objectives and metrics: functions of a callable network and a batch.

A metric returns one number per example; an objective returns the mean loss of a batch. Any function of that form
will do; these are the common ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from maskscope.core.batches import Batch

IGNORED = -100
"""Label of positions that do not count: torch's own default."""

Network = Callable[..., Any]
"""A network, or a network under a mask: anything with its call signature."""

Objective = Callable[[Network, Batch], Tensor]
"""The mean loss of a network on a batch, a scalar."""

Metric = Callable[[Network, Batch], Tensor]
"""One number per example, of shape (examples,)."""


@runtime_checkable
class Weighed(Protocol):
    """An objective whose mean is not over examples says over what, so that parts of a batch are weighted rightly."""

    def __call__(self, model: Network, batch: Batch, /) -> Tensor:
        """The mean loss."""
        ...

    def weigh(self, batch: Batch) -> float:
        """What a batch's mean loss counts for."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy over all labels of batches ``(inputs, targets)``.

    Outputs have the classes last: (batch, classes) for labels (batch,), or (batch, positions, classes) for labels
    (batch, positions); labels equal to ``ignore`` do not count.

    Examples:
        >>> import torch
        >>> outputs = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> round(float(cross_entropy(lambda x: outputs, (None, torch.tensor([0, 1])))), 4)
        0.6931
    """

    kind: Literal["cross-entropy"] = "cross-entropy"
    ignore: int = IGNORED
    """Label of positions that do not count."""

    def __call__(self, model: Network, batch: tuple[Any, Int[Tensor, "batch *positions"]]) -> Float[Tensor, ""]:
        """The mean over all labels that count."""
        inputs, targets = _pair(batch)
        outputs = model(inputs)
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=self.ignore)

    def weigh(self, batch: tuple[Any, Int[Tensor, "batch *positions"]]) -> float:
        """The number of labels that count."""
        return float((_pair(batch)[1] != self.ignore).sum())


def _pair(batch: object) -> tuple[Any, Tensor]:
    if isinstance(batch, Sequence) and len(cast("Sequence[Any]", batch)) == 2:
        return cast("tuple[Any, Tensor]", batch)
    raise TypeError(
        f"expected a batch (inputs, targets), got {type(batch).__name__}; for another kind write your own objective, "
        "such as lambda network, batch: network(**batch).loss"
    )


cross_entropy = CrossEntropy()
"""``CrossEntropy`` with its defaults."""


def accuracy(model: Network, batch: tuple[Any, Int[Tensor, "batch *positions"]]) -> Shaped[Tensor, " batch"]:
    """1 for every example whose labels are all predicted, else 0; labels of -100 do not count.

    Examples:
        >>> import torch
        >>> accuracy(lambda x: torch.eye(3), (None, torch.tensor([0, 1, 1])))
        tensor([1., 1., 0.])
    """
    inputs, targets = _pair(batch)
    right = (model(inputs).argmax(-1) == targets) | (targets == IGNORED)
    return right.flatten(1).all(1).float() if right.ndim > 1 else right.float()


def first_of(network: Network, batch: Any) -> Tensor:
    """What a network says of the first part of a batch, such as the inputs of ``(inputs, targets)``."""
    return network(batch[0])


@dataclass(frozen=True)
class Distillation:
    """Mean Kullback-Leibler divergence, in nats, of what the masked network says from what the network itself says.

    No labels are needed: the subtask is whatever the network does on these inputs, its mistakes too. Source: the objective of
    Conmy et al. 2023 and Bhaskar et al. 2024, on masks of weights.

    Examples:
        >>> import torch
        >>> model, batch = (lambda x: x), (torch.tensor([[1.0, 2.0], [0.0, 0.0]]), None)
        >>> float(Distillation(model)(model, batch))
        0.0
        >>> round(float(Distillation(model)(lambda x: 0 * x, batch)), 4)  # uniform, from (.27, .73) and uniform
        0.0555
    """

    reference: Network
    """The network itself; it is seen without a mask, and gets no gradient."""
    outputs: Callable[[Network, Any], Tensor] = first_of
    """What to compare: unnormalised logarithms of probabilities, (..., classes), from a network and a batch."""

    def __call__(self, model: Network, batch: Any) -> Float[Tensor, ""]:
        """The mean over everything but the classes."""
        with torch.no_grad():
            meant = functional.log_softmax(self.outputs(self.reference, batch).flatten(0, -2), -1)
        said = functional.log_softmax(self.outputs(model, batch).flatten(0, -2), -1)
        return functional.kl_div(said, meant, reduction="batchmean", log_target=True)
