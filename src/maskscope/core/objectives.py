"""Objectives and metrics: functions of a callable network and a batch.

A metric returns one number per example; an objective returns the mean loss of a batch. Any function of that form
will do; these are the common ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from maskscope.core.batches import Batch, Batches, size, stream

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
        """The mean over all labels that count.

        Raises:
            ValueError: The labels are not one class index for each position.
        """
        inputs, targets = _pair(batch)
        outputs = model(inputs)
        _check_labels(outputs, targets, fits=targets.numel() == outputs[..., 0].numel())
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), ignore_index=self.ignore)

    def weigh(self, batch: tuple[Any, Int[Tensor, "batch *positions"]]) -> float:
        """The number of labels that count."""
        return float((_pair(batch)[1] != self.ignore).sum())


def _pair(batch: object) -> tuple[Any, Tensor]:
    if isinstance(batch, Sequence) and len(cast("Sequence[Any]", batch)) == 2:
        return cast("tuple[Any, Tensor]", batch)
    raise TypeError(
        f"expected a batch (inputs, targets), got {type(batch).__name__}; for another kind write your own objective, "
        "or take ms.ModelLoss() where the network computes its loss from a mapping"
    )


def _check_labels(outputs: Tensor, targets: Tensor, *, fits: bool) -> None:
    if not fits:
        raise ValueError(
            f"labels of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}: expected one class index "
            f"for each position, {tuple(outputs.shape[:-1])} (of one-hot labels: labels.argmax(-1))"
        )


cross_entropy = CrossEntropy()
"""``CrossEntropy`` with its defaults."""


def accuracy(model: Network, batch: tuple[Any, Int[Tensor, "batch *positions"]]) -> Shaped[Tensor, " batch"]:
    """1 for every example whose labels are all predicted, else 0; labels of -100 do not count, NaN predicts nothing.

    Raises:
        ValueError: The labels are not one class index for each position.

    Examples:
        >>> import torch
        >>> accuracy(lambda x: torch.eye(3), (None, torch.tensor([0, 1, 1])))
        tensor([1., 1., 0.])
    """
    inputs, targets = _pair(batch)
    outputs = model(inputs)
    predicted = outputs.argmax(-1)
    _check_labels(outputs, targets, fits=predicted.squeeze().shape == targets.squeeze().shape)
    targets = targets.reshape(predicted.shape)  # (batch, 1) is meant as (batch,)
    right = ((predicted == targets) & ~outputs.isnan().any(-1)) | (targets == IGNORED)
    return right.flatten(1).all(1).float() if right.ndim > 1 else right.float()


@dataclass(frozen=True)
class ModelLoss:
    """The loss that a Hugging Face model itself computes of a batch with labels: ``network(**batch).loss``.

    Unlike a function that returns just that, it says how many labels a part of a batch has, so that parts with few of them weigh
    little, and those without any (whose mean does not exist) nothing.

    Examples:
        >>> import torch
        >>> ModelLoss().weigh({"labels": torch.tensor([[-100, 5, 7], [-100, -100, 2]])})
        3.0
    """

    labels: str = "labels"
    """Key of the labels."""
    shifted: bool = False
    """Whether a label belongs to the position before it, as in causal language models: the first of a sequence counts nothing."""
    ignore: int = IGNORED

    def __call__(self, model: Network, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
        """The model's own loss."""
        return model(**batch).loss

    def weigh(self, batch: Mapping[str, Any]) -> float:
        """The number of labels that count.

        Raises:
            KeyError: The batch has none.
            TypeError: The batch is no mapping.
        """
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"the model's own loss takes a mapping of inputs and labels, got {type(batch).__name__}; of (inputs, targets) take "
                "ms.cross_entropy"
            )
        if self.labels not in batch:
            raise KeyError(
                f"the batch has no {self.labels!r}, only {', '.join(map(repr, batch))}; the loss needs labels"
            )
        labels = batch[self.labels]
        return float((labels[..., 1:] != self.ignore).sum() if self.shifted else (labels != self.ignore).sum())


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


def scored(network: Network, batch: tuple[Int[Tensor, "pairs 2 positions"], Any]) -> Tensor:
    """What a network says of all sequences of a batch of pairs, one after another: (sequences, positions, classes)."""
    return network(batch[0].flatten(0, 1))


@dataclass(frozen=True)
class MinimalPairs:
    """Mean of -log sigmoid(log p(good) - log p(bad)), in nats, over pairs of sequences of which the first is to be likelier.

    Batches are ``(inputs, targets)``, both (pairs, 2, positions), the good sequence first; a target is what comes next. Targets equal
    to ``ignore`` do not count: padding, and also what both begin with, which cancels. Source: the pairs of Warstadt et al. 2020 (BLiMP);
    the loss of Burges et al. 2005 (RankNet), log 2 where neither is preferred.

    Examples:
        >>> import torch
        >>> tokens = torch.tensor([[[0, 1], [0, 0]]])  # one pair
        >>> batch = (tokens[..., :-1], tokens[..., 1:])
        >>> network = lambda tokens: torch.tensor([0.0, 2.0]).expand(*tokens.shape, 2)  # 1 is likelier by 2 nats, always
        >>> round(float(MinimalPairs()(network, batch)), 4)  # log(1 + exp(-2))
        0.1269
        >>> MinimalPairs().right(network, batch)
        tensor([1.])
    """

    outputs: Callable[[Network, Any], Tensor] = scored
    """Unnormalised logarithms of probabilities from a network and a batch: (pairs, 2, positions, classes), or the pairs flattened."""
    ignore: int = IGNORED
    """Target of positions that do not count."""

    def __call__(self, model: Network, batch: Any) -> Float[Tensor, ""]:
        """The mean over pairs."""
        return -functional.logsigmoid(self.margins(model, batch)).mean()

    def margins(self, model: Network, batch: Any) -> Float[Tensor, " pairs"]:
        """By how many nats the good sequence of each pair is likelier.

        Raises:
            ValueError: Targets are not pairs, or there is no output for each.
        """
        _, targets = _pair(batch)
        if targets.ndim != 3 or targets.shape[1] != 2:
            raise ValueError(f"minimal pairs need targets of shape (pairs, 2, positions), got {tuple(targets.shape)}")
        outputs = self.outputs(model, batch)
        if outputs.shape[:-1].numel() != targets.numel():
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} do not have one row of classes for each target of {tuple(targets.shape)}"
            )
        counted = targets.flatten() != self.ignore
        flat = outputs.flatten(0, -2)[counted]  # softmax over a large vocabulary costs as much as some layers
        costs = functional.cross_entropy(flat, targets.flatten()[counted], reduction="none")
        each = costs.new_zeros(targets.numel()).masked_scatter(counted, costs)
        good, bad = each.view(targets.shape).sum(-1).unbind(1)
        return bad - good

    def right(self, model: Network, batch: Any) -> Float[Tensor, " pairs"]:
        """The metric: 1 for every pair whose good sequence is likelier, else 0."""
        return (self.margins(model, batch) > 0).float()


@dataclass(frozen=True)
class Complete:
    """An objective with a term for completeness: without the mask's weights the network must fail.

    The term is the shortfall of the complement's loss below ``failed``; above it there is nothing to gain. A step costs about
    twice as much. Source: the completeness loss of DiscoGP (Yu et al. 2024), with a bound.

    Raises (when called):
        TypeError: The network has no complement: it is not under a mask.

    Examples:
        >>> import math
        >>> from maskscope.core.apply import masked
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.mask import Mask
        >>> model = torch.nn.Linear(2, 2)
        >>> batch = (torch.ones(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> under = masked(model, Mask.empty(layout(model)))  # the complement is the whole network
        >>> sum_ = Complete(cross_entropy, failed=math.log(2))(under, batch)
        >>> bool(sum_ >= cross_entropy(under, batch))
        True
    """

    objective: Objective
    failed: float
    """The loss at which a network has failed: of guessing, the logarithm of the number of classes."""
    weight: float = 1.0
    """Of the term."""

    def __call__(self, model: Network, batch: Any) -> Float[Tensor, ""]:
        """The loss under the mask, and the term."""
        complement = getattr(model, "complement", None)
        if not callable(complement):
            raise TypeError(f"{type(model).__name__} has no complement; this objective is for networks under a mask")
        shortfall = functional.relu(self.failed - self.objective(complement, batch))
        return self.objective(model, batch) + self.weight * shortfall

    def weigh(self, batch: Any) -> float:
        """As the objective does."""
        return weight_of(self.objective, batch)


@dataclass(frozen=True)
class Beside:
    """A subtask's batch, and one of other subtasks beside it; cut together, so of as many examples."""

    own: Batch
    others: Batch


@dataclass(frozen=True)
class Specific:
    """An objective with a term for specificity: other subtasks must not be served by the mask. For batches from ``beside``.

    The term is the shortfall of the others' loss below ``failed``.

    Examples:
        >>> import math
        >>> batch = (torch.eye(2) * 9, torch.tensor([0, 1]))
        >>> wanted = Specific(cross_entropy, cross_entropy, failed=math.log(2))
        >>> round(float(wanted(torch.nn.Identity(), Beside(batch, batch))), 2)  # both served, the other by ln 2 too well
        0.69
    """

    objective: Objective
    others: Objective
    """The loss of the other subtasks."""
    failed: float
    """The loss at which a network has failed them."""
    weight: float = 1.0
    """Of the term."""

    def __call__(self, model: Network, batch: Beside) -> Float[Tensor, ""]:
        """The loss on the own batch, and the term."""
        shortfall = functional.relu(self.failed - self.others(model, batch.others))
        return self.objective(model, batch.own) + self.weight * shortfall

    def weigh(self, batch: Beside) -> float:
        """As the objective does."""
        return weight_of(self.objective, batch.own)


def beside(own: Batches, others: Batches) -> Batches:
    """Batches of a subtask with batches of other subtasks, for ``Specific``.

    Args:
        own: As for ``learn_mask``.
        others: Likewise; their batches have as many examples.

    Returns:
        A function of the step, if both are; else an iterable without end.

    Raises (when called):
        ValueError: Other numbers of examples: they are cut together.

    Examples:
        >>> beside(lambda step: torch.ones(2), lambda step: torch.zeros(2))(0)
        Beside(own=tensor([1., 1.]), others=tensor([0., 0.]))
    """
    if callable(own) and callable(others):
        return lambda step: _both(own(step), others(step))
    return _InTurn(own, others)


@dataclass(frozen=True)
class _InTurn:
    """Both streams, each gone through again when it ends."""

    own: Batches
    others: Batches

    def __iter__(self) -> Iterator[Beside]:
        return map(_both, stream(self.own), stream(self.others))


def _both(first: Batch, second: Batch) -> Beside:
    if size(first) != size(second):
        raise ValueError(f"a batch and that beside it are cut together: {size(first)} and {size(second)} examples")
    return Beside(first, second)


def weight_of(objective: Objective, batch: Batch) -> float:
    """What a batch's mean loss counts for: its examples, unless the objective says otherwise."""
    return objective.weigh(batch) if isinstance(objective, Weighed) else float(size(batch))
