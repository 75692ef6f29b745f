"""Scores of units that need no learning, and masks of the best: what a learned mask has to beat.

Gradients are taken with respect to the gates, all of them open: d(loss)/d(gate) is the sum of gradient times weight over what a
unit switches, over tied parameters too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskscope.core.apply import with_weights
from maskscope.core.batches import Batch, Batches, size, stream
from maskscope.core.device import device_of, onto
from maskscope.core.layout import Layout, gated
from maskscope.core.mask import Mask, Origin
from maskscope.core.modes import evaluating
from maskscope.core.noise import draw, uniform
from maskscope.core.objectives import Objective


def magnitude(model: nn.Module, over: Layout) -> Float[Tensor, " units"]:
    """The mean absolute weight of every unit, over all parameters it switches.

    Args:
        model: The network.
        over: Its units.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[-10.0, 0.1]]))
        >>> magnitude(model, layout(model))
        tensor([10.0000,  0.1000])
    """
    parameters, total = dict(model.named_parameters()), torch.zeros(over.units)
    for segment in over.segments:
        sizes = parameters[segment.parameter].detach().abs().float().cpu()
        segment.own(total).add_(segment.collected(sizes))
    return total / over.unit_weights()


def at_random(over: Layout, seed: int = 0) -> Float[Tensor, " units"]:
    """Uniform noise; the same for the same seed.

    Args:
        over: The units.
        seed: Of the noise.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> at_random(layout(nn.Linear(2, 1, bias=False)))
        tensor([0.4901, 0.0723])
    """
    index = (torch.arange(span.units, dtype=torch.int32) for span in over.spans)
    streams = (draw(seed, 0, 0).of(span.name) for span in over.spans)
    return torch.cat([uniform(units, *stream) for units, stream in zip(index, streams, strict=True)])


def gradient_times_weight(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, over: Layout
) -> Float[Tensor, " units"]:
    """How much the loss changes to first order when a unit is removed: the size of the mean gradient with respect to its gate.

    Source: Molchanov et al. 2017 (Taylor criterion).

    Args:
        model: The network, in evaluation mode for the time.
        batches: The subtask's data; finite.
        objective: Its mean loss.
        over: The units.

    Raises:
        ValueError: There are no batches.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model, loss = nn.Linear(2, 1, bias=False), lambda network, x: network(x).sum()
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -3.0]]))
        >>> gradient_times_weight(model, [torch.ones(1, 2)], loss, layout(model))
        tensor([2., 3.])
    """
    return _mean(model, batches, objective, over, [1.0]).abs()


def integrated_gradients(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, over: Layout, steps: int = 10
) -> Float[Tensor, " units"]:
    """The same gradient averaged while all gates open together from 0 to 1: scores sum to the change of the loss, before their size is taken.

    Source: Sundararajan, Taly, Yan 2017, along the gates instead of the inputs; midpoints.

    Args:
        model: The network, in evaluation mode for the time.
        batches: The subtask's data; finite.
        objective: Its mean loss.
        over: The units.
        steps: Points on the way.

    Raises:
        ValueError: There are no batches.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model, loss = nn.Linear(2, 1, bias=False), lambda network, x: network(x).square().sum()
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, 0.0]]))
        >>> integrated_gradients(model, [torch.ones(1, 2)], loss, layout(model))
        tensor([4., 0.])
    """
    return _mean(model, batches, objective, over, [(step + 0.5) / steps for step in range(steps)]).abs()


def fisher(model: nn.Module, batches: Iterable[Batch], objective: Objective, over: Layout) -> Float[Tensor, " units"]:
    """The mean squared gradient with respect to a unit's gate, over batches: its Fisher information, if a batch is one example.

    Source: Theis et al. 2018, equation 8. With larger batches, that of batches: smaller, in about the same order.

    Args:
        model: The network, in evaluation mode for the time.
        batches: The subtask's data; finite.
        objective: Its mean loss.
        over: The units.

    Raises:
        ValueError: There are no batches.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model, loss = nn.Linear(2, 1, bias=False), lambda network, x: network(x).sum()
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -3.0]]))
        >>> fisher(model, [torch.ones(1, 2), -torch.ones(1, 2)], loss, layout(model))
        tensor([4., 9.])
    """
    return _mean(model, batches, objective, over, [1.0], power=2)


def _mean(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    over: Layout,
    openings: Sequence[float],
    power: int = 1,
) -> Float[Tensor, " units"]:
    """The mean over examples of what their batch's d(loss)/d(gate) is, or of its square."""
    total, examples = torch.zeros(over.units), 0
    for slope, count in _slopes(model, batches, objective, over, openings):
        total += slope**power * count
        examples += count
    return total / examples


def _slopes(
    model: nn.Module, batches: Iterable[Batch], objective: Objective, over: Layout, openings: Sequence[float]
) -> Iterator[tuple[Float[Tensor, " units"], int]]:
    """Per batch d(loss)/d(gate), the mean over how far all gates are open, and the batch's examples."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    place = device_of(model)
    seen = False
    with evaluating(model):
        for batch in batches:
            seen, here, total = True, onto(batch, place), torch.zeros(over.units)
            for opening in openings:
                gates = torch.full((over.units,), opening, device=place, requires_grad=True)
                with torch.enable_grad():
                    shown = {**weights, **gated(gates, over, weights)}
                    loss = objective(with_weights(model, shown), here)
                (slope,) = torch.autograd.grad(loss, gates)
                total += slope.cpu() / len(openings)
            yield total, size(batch)
    if not seen:
        raise ValueError("there are no batches to take gradients of (an iterator that was used up?)")


def best(over: Layout, scores: Float[Tensor, " units"], share: float, per: Literal["all", "tensor"] = "all") -> Mask:
    """The mask of the units that score highest.

    Args:
        over: What the scores are of.
        scores: Such as logits, or magnitudes.
        share: Of all units (not of weights, where these differ in size), from 0 to 1; rounded to whole units.
        per: Over the whole network, or of each parameter alike, of which then at least one unit is kept.

    Raises:
        ValueError: Not one score for each unit, NaN among them, or no such share.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> best(layout(nn.Linear(2, 2)), torch.tensor([0.1, 0.4, 0.3, 0.2]), 0.5).kept.tolist()
        [False, True, True, False]
    """
    if per == "all":
        return next(ranked(over, scores, [share]))
    _check(over, scores, share)
    kept = torch.zeros(over.units, dtype=torch.bool)
    for span in over.spans:
        order = torch.argsort(span.own(scores), descending=True, stable=True)
        span.own(kept)[order[: max(int(share > 0), round(share * span.units))]] = True
    return Mask.of(over, kept)


def ranked(over: Layout, scores: Float[Tensor, " units"], shares: Sequence[float]) -> Iterator[Mask]:
    """``best`` at several sizes, of one sorting."""
    for share in (0.0, *shares):
        _check(over, scores, share)
    order = torch.argsort(scores, descending=True, stable=True)
    for share in shares:
        kept = torch.zeros(over.units, dtype=torch.bool)
        kept[order[: round(share * over.units)]] = True
        yield Mask.of(over, kept, Origin(label=f"best {share:.1%}"))


@dataclass(frozen=True)
class InTurn:
    """Where logits begin, so that a penalty makes units leave one after another, those whose removal seems to matter least first.

    From equal first logits all units that nothing speaks for come through 1/2 together; samples of the mask then remove half of
    them at random, and a deep network that cannot bear that has lost the function which the mask is to find. The order is that of
    ``fisher``: of their squared gradients times weights, on a few batches that the mask learns from.

    Raises:
        ValueError: No batches, or logits that do not rise.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model, loss = nn.Linear(3, 1, bias=False), lambda network, x: network(x).sum()
        >>> _ = model.weight.data.copy_(torch.tensor([[2.0, -3.0, 1.0]]))
        >>> InTurn(first=2.0, last=4.0)(model, layout(model), [torch.ones(1, 3)], loss)
        tensor([3., 4., 2.])
    """

    first: float = 2.0
    """Logit of the unit that leaves first."""
    last: float = 32.0
    """Of the one that leaves last: the learning rate times the steps over which units are to leave, more than that. So many
    steps must be left to learn in: ``Schedule(steps=300, learning_rate=0.2)`` moves a logit by 50 at most."""
    batches: int = 6
    """How many batches are looked at."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.batches < 1 or not self.first <= self.last:
            raise ValueError(f"expected at least 1 batch and first <= last, got {self}")

    def __call__(
        self, model: nn.Module, over: Layout, batches: Batches, objective: Objective
    ) -> Float[Tensor, " units"]:
        """Logits to begin at: ``learn_mask(..., initial=)``.

        Args:
            model: The network.
            over: Its units.
            batches: What the mask learns from.
            objective: Its mean loss.
        """
        scores = fisher(model, islice(stream(batches), self.batches), objective, over)
        order = torch.empty(over.units, dtype=torch.float32)
        order[torch.argsort(scores, stable=True)] = torch.linspace(self.first, self.last, over.units)
        return order


def _check(over: Layout, scores: Tensor, share: float) -> None:
    if scores.shape != (over.units,) or bool(scores.isnan().any()):
        raise ValueError(f"expected {over.units} scores without NaN, got shape {tuple(scores.shape)}")
    if not 0 <= share <= 1:
        raise ValueError(f"share is from 0 to 1, got {share}")
