"""Whether the weights a mask keeps are still pulled in the same direction once the others are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskscope.analysis.ablate import half
from maskscope.analysis.number import Number
from maskscope.core.apply import with_weights
from maskscope.core.batches import Batch, size
from maskscope.core.device import device_of, onto
from maskscope.core.layout import gated
from maskscope.core.mask import Mask
from maskscope.core.modes import evaluating
from maskscope.core.objectives import Objective

EVERYWHERE = "all tensors"


@dataclass(frozen=True)
class Similarity:
    """Cosine of two gradients of the loss, over the weights that a mask keeps: of the network, and with some layers masked."""

    masked: int
    """How many groups of parameters are masked, from the first on."""
    where: str
    """A parameter, or all of them together."""
    cosine: Number
    """NaN where either gradient is zero."""


def gradient_similarity(
    model: nn.Module, mask: Mask, batches: Sequence[Batch], objective: Objective, groups: Sequence[Sequence[str]]
) -> tuple[Similarity, ...]:
    """Compare the network's gradient with that under a mask that is applied to more and more of it.

    Source: Csordas et al. 2021, CIFAR-10; published code (``cifar10_grad_cos_distance``), which goes from the output back.

    Args:
        model: The network, in evaluation mode for the time.
        mask: Which weights to look at, and what is masked.
        batches: The data; gradients are means over all of them.
        objective: The loss.
        groups: Parameters, as globs; one group after another is masked, the first one first.

    Raises:
        KeyError: A glob matches nothing.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.objectives import cross_entropy
        >>> model, batch = nn.Linear(2, 2), (torch.ones(4, 2), torch.tensor([0, 1, 1, 1]))
        >>> found = gradient_similarity(model, Mask.full(layout(model)), [batch], cross_entropy, [["weight"]])
        >>> [(item.masked, item.where, round(item.cosine, 4)) for item in found][-2:]
        [(1, 'weight', 1.0), (1, 'all tensors', 1.0)]
    """
    reference = _gradient(model, Mask.full(mask.layout), batches, objective)
    found: list[Similarity] = []
    for masked in range(len(groups) + 1):
        names = [name for group in groups[:masked] for name in group]
        here = half(mask, names) if names else Mask.full(mask.layout)
        ours = _gradient(model, here, batches, objective)
        pairs = {name: (reference[name][mask.parameter(name)], ours[name][mask.parameter(name)]) for name in reference}
        pairs[EVERYWHERE] = (torch.cat([a for a, _ in pairs.values()]), torch.cat([b for _, b in pairs.values()]))
        found += [Similarity(masked, where, _cosine(a, b)) for where, (a, b) in pairs.items()]
    return tuple(found)


def _gradient(model: nn.Module, mask: Mask, batches: Iterable[Batch], objective: Objective) -> Mapping[str, Tensor]:
    """Of the mean loss with respect to the gated weights."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    leaves = {name: w.requires_grad_() for name, w in gated(mask.gates, mask.layout, weights).items()}
    place = device_of(model)
    total, examples = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}, 0
    with evaluating(model):
        for batch in (onto(batch, place) for batch in batches):
            with torch.enable_grad():
                loss = objective(with_weights(model, leaves), batch)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for name, gradient in zip(leaves, gradients, strict=True):
                total[name] += gradient * size(batch)
            examples += size(batch)
    return {name: gradient / examples for name, gradient in total.items()}


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms else float("nan")
