r"""How faithful a part of a network is to the whole: by its size, and to what the whole says.

With m(x) how well a network does, C_k the network with the share k of its units that score highest, and N the whole,

    faithfulness f(k) = (m(C_k) - m(empty)) / (m(N) - m(empty))
    CPR          integral of f over k from 0 to 1         1: the smallest part does it; higher is better
    CMD          integral of |1 - f| over k from 0 to 1   0: every part is as good as the whole; lower is better

Source: the MIB benchmark, Mueller et al. 2025; its sizes. A part's likeness to the whole on another task: 1 - JSD, as in
Circuit Compositions, Mondorf et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskscope.analysis.number import Number
from maskscope.analysis.scores import ranked
from maskscope.analysis.specialize import LEARNED
from maskscope.core.batches import Batch
from maskscope.core.layout import Layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import Network

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of all units, beside nothing and everything."""

Predictions = Callable[[Network, Batch], Tensor]
"""What a network says of a batch: unnormalised logarithms of probabilities, (examples, ..., classes)."""


@dataclass(frozen=True)
class Point:
    """A part of the network."""

    share: float
    """Of all units."""
    value: float
    """How well it does."""
    faithfulness: Number
    """NaN where the whole does hardly better than nothing."""


@dataclass(frozen=True)
class Curve:
    """Faithfulness by size."""

    points: tuple[Point, ...]
    """From nothing to everything."""

    @property
    def cpr(self) -> float:
        """Area under faithfulness; NaN where there is none."""
        return _area(self.points, lambda f: f)

    @property
    def cmd(self) -> float:
        """Area between faithfulness and 1; NaN where there is none."""
        return _area(self.points, lambda f: abs(1 - f))


def _area(points: Sequence[Point], height: Callable[[float], float]) -> float:
    heights = [height(point.faithfulness) for point in points]
    return float(np.trapezoid(heights, [point.share for point in points]))


def curve(
    layout: Layout,
    scores: Float[Tensor, " units"],
    measure: Callable[[Mask], float],
    sizes: Sequence[float] = SIZES,
    least: float = LEARNED,
) -> Curve:
    """How well parts of a network do, by size.

    Args:
        layout: What the scores are of.
        scores: Which units come first; the logits of a learned mask, say.
        measure: How well the network does under a mask, such as ``lambda mask: evaluate(masked(model, mask), ...).value``.
        sizes: Shares of all units; nothing and everything are measured too.
        least: Where the whole is better than nothing by less than this, there is no faithfulness.

    Raises:
        ValueError: As for ``best``.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> found = curve(layout(torch.nn.Linear(2, 2)), torch.arange(4.0), lambda mask: float(mask.density > 0.4), [0.25, 0.5])
        >>> [point.faithfulness for point in found.points], found.cpr
        ([0.0, 0.0, 1.0, 1.0], 0.625)
    """
    shares = (0.0, *sorted(sizes), 1.0)
    values = [measure(mask) for mask in ranked(layout, scores, shares)]
    nothing, everything = values[0], values[-1]
    learned = everything - nothing >= least
    points = tuple(
        Point(share, value, (value - nothing) / (everything - nothing) if learned else math.nan)
        for share, value in zip(shares, values, strict=True)
    )
    return Curve(points)


def divergence(
    first: Float[Tensor, "*batch classes"], second: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """Jensen-Shannon divergence of two predictions, in bits: 0 for the same, 1 for predictions that exclude each other.

    Args:
        first: Unnormalised logarithms of probabilities.
        second: Likewise.

    Source: Lin 1991.

    Examples:
        >>> certain = torch.tensor([[0.0, -1e9], [-1e9, 0.0]])
        >>> divergence(certain, certain.flip(0)), divergence(certain, certain)
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    impossible = p.new_zeros(())  # what has no probability adds nothing
    apart = [torch.where(x == -math.inf, impossible, x.exp() * (x - middle)).sum(-1) for x in (p, q)]
    return ((apart[0] + apart[1]) / (2 * math.log(2))).clamp(0, 1).float()


@dataclass(frozen=True)
class Likeness:
    """A metric: 1 - the divergence of what a network says from what a reference says, mean over an example's positions.

    Examples:
        >>> says = lambda network, batch: network(batch)
        >>> Likeness(torch.nn.Identity(), says)(torch.nn.Identity(), torch.randn(2, 3))
        tensor([1., 1.])
    """

    reference: Network
    predictions: Predictions

    def __call__(self, model: Network, batch: Batch) -> Float[Tensor, " batch"]:
        """From 0 to 1, per example."""
        said = (self.predictions(network, batch) for network in (model, self.reference))
        apart = divergence(*said)
        return 1 - (apart.flatten(1).mean(1) if apart.ndim > 1 else apart)
