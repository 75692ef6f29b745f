"""A smaller network: removed heads, neurons and channels are cut out of their matrices, and the outputs stay the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from maskscope.core.apply import bake, masked
from maskscope.core.batches import flat
from maskscope.core.cutting import Side, cut, placed
from maskscope.core.groups import HEAD_COUNTS
from maskscope.core.mask import Mask
from maskscope.core.modes import evaluating
from maskscope.core.segments import Span
from maskscope.core.select import Site, sites

_HEAD_WIDTHS = ("all_head_size", "split_size", "inner_dim")
"""What attentions call the width of all heads together: BERT, GPT-2 (which splits its fused outputs there), T5."""


def shrink(model: nn.Module, mask: Mask, *inputs: Any, tolerance: float | None = None, **named: Any) -> nn.Module:
    """A copy of the network in which what the mask removes is not zero but gone: a plain model with smaller matrices.

    A unit is cut if it is tied over a matrix that computes it (along its outputs) and one that reads it (along its inputs), as those
    of ``PerNeuron`` and ``PerHead`` are, and most of ``Tied``. Layers may be ``nn.Linear``, transformers' ``Conv1D``, convolutions
    without groups, and batch norms; biases and running statistics go with them, masked or not. The numbers of heads that attentions
    keep are adapted; ``model.config`` is not, as layers may now differ, so keep the ``state_dict`` or the whole module.

    Some removed units stay, as zeros: one of a layer that loses all and cannot be computed without any (convolutions, GPT-2); and query
    heads, where else keys and values would serve different numbers of them (``PerHead("query")``).

    For neurons and heads both, shrink twice: lay out the smaller network for the second mask.

    Args:
        model: The network the mask was made for; it stays as it is.
        mask: What to keep.
        *inputs: What the network is called with, for example. On it the outputs of the copy are compared with those of
            ``masked(model, mask)``, in evaluation mode.
        tolerance: The largest difference allowed, as a share of the largest value of an output. Default: eps ** (2/3) of its type,
            2.4e-5 for float32.
        **named: What it is called with by name.

    Raises:
        KeyError: The mask is for another network.
        ValueError: The mask is for another network; units cannot be cut (single weights, rows without their readers, heads of
            ``nn.MultiheadAttention`` or T5), for which there is ``bake``; or the outputs differ. The message says which.

    Examples:
        >>> from maskscope.core.groups import PerNeuron
        >>> from maskscope.core.layout import layout
        >>> model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> few = Mask.of(layout(model, granularity=PerNeuron()), torch.arange(16) < 3)
        >>> small = shrink(model, few, torch.ones(1, 5, 8))
        >>> tuple(small.linear1.weight.shape), tuple(small.linear2.weight.shape)
        ((3, 8), (8, 3))
    """
    if not inputs and not named:
        raise ValueError("shrink compares outputs: give it what the network is called with, for example")
    if mask.origin.replaced:
        warnings.warn(
            "while this mask was learned, what it removes became other values; cut out, it is as if zero", stacklevel=2
        )
    under = masked(model, mask, {})
    kept, known = mask.kept, {site.name: site for site in sites(model)}
    plans = [_plan(model, known, span) for span in mask.layout.spans if not span.own(kept).all()]
    with evaluating(model):
        expected = _outputs(under, inputs, named)
    if not expected:
        raise ValueError(f"{type(model).__name__} returns no tensors, so its outputs cannot be compared")
    emptied = any(not plan.span.own(kept).any() for plan in plans)
    problem, cause = "", None
    for least in (0, 1) if emptied else (0,):
        small = _smaller(model, mask, plans, least)
        try:
            with evaluating(small):
                found = _outputs(small, inputs, named)
        except Exception as error:  # whatever a network raises if its parts do not fit
            problem, cause = f"cannot be computed ({type(error).__name__}: {error})", error
            continue
        problem, cause = _difference(expected, found, tolerance), None
        if problem is None:
            return small
    raise ValueError(
        f"the smaller network {problem}. Cut were units of {', '.join(plan.home or type(model).__name__ for plan in plans)}. "
        "Is there something between their two matrices, or a further part of them, that the layout does not name? "
        "Name it too, or use bake(model, mask)"
    ) from cause


class _Plan(NamedTuple):
    """How the units of a span are cut."""

    span: Span
    home: str
    """The innermost module that holds all parts."""
    cuts: Mapping[tuple[str, Side], Int64[Tensor, " positions"]]
    """By module and side: the unit that each position belongs to."""
    sharing: int
    """How many units (query heads) use the same keys and values, which are not cut; 0 if keys and values are."""

    @property
    def width(self) -> int:
        """How many inputs the matrix has that reads the units."""
        return max(len(units) for (_, side), units in self.cuts.items() if side == "inputs")


def _plan(model: nn.Module, known: Mapping[str, Site], span: Span) -> _Plan:
    cuts: dict[tuple[str, Side], Tensor] = {}
    matrices: set[Side] = set()
    for segment in span.segments:
        side, units = placed(known[segment.parameter], segment)
        module = segment.parameter.rpartition(".")[0]
        if not torch.equal(cuts.setdefault((module, side), units), units):
            raise ValueError(f"units lie otherwise in {segment.parameter!r} than in other parameters of {module!r}")
        if len(segment.shape) > 1:
            matrices.add(side)
    if len(matrices) < 2:
        lacking = "reads" if "outputs" in matrices else "computes"
        raise ValueError(
            f"units ({span.segments[0].kind}) of {span.name!r} cannot be cut: no matrix that {lacking} them is tied to them; lay out "
            "with PerNeuron, PerHead or Tied, or use bake(model, mask), which sets to zero what is removed"
        )
    paths = [module.split(".") for module, _ in cuts]
    home = ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    attention = model.get_submodule(home)
    if hasattr(attention, "has_relative_attention_bias"):
        raise ValueError(
            f"heads of {home!r} cannot be cut: {type(attention).__name__} has one bias for each head, which the layers after it use "
            "as well; bake(model, mask) sets to zero what is removed"
        )
    plan = _Plan(span, home, cuts, 0)
    repeats = getattr(attention, "num_key_value_groups", 1)
    by_query = repeats > 1 and plan.width == span.units * getattr(attention, "head_dim", 0)
    return plan._replace(sharing=repeats if by_query else 0)


def _smaller(model: nn.Module, mask: Mask, plans: Sequence[_Plan], least: int) -> nn.Module:
    small, kept = bake(model, mask, {}), mask.kept
    for plan in plans:
        stay = _stay(plan.span.own(kept), plan.sharing, least)
        for (module, side), units in plan.cuts.items():
            cut(small.get_submodule(module), side, stay[units])
        _recount(small.get_submodule(plan.home), plan, int(stay.sum()))
    return small


def _stay(kept: Bool[Tensor, " units"], sharing: int, least: int) -> Bool[Tensor, " units"]:
    """What is kept and the fewest others, so that of those that share something equally many stay, and at least so many."""
    rows = kept.view(-1, sharing or len(kept))
    count = max(int(rows.sum(1).max()), least)
    first = rows.byte().argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(rows).scatter(1, first, value=True).view(-1)


def _recount(home: nn.Module, plan: _Plan, left: int) -> None:
    """Adapt what an attention or a feed-forward network says of the number of its heads and of its width."""
    units, kind = plan.span.units, plan.span.segments[0].kind
    width = (plan.width, plan.width // units * left)
    changes: dict[str, tuple[int, int]] = {}
    if kind == "neuron":
        changes["intermediate_size"] = width
    else:
        queries = 1 if plan.sharing else getattr(home, "num_key_value_groups", 1)
        changes.update(
            dict.fromkeys(HEAD_COUNTS, (units * queries, left * queries)), **dict.fromkeys(_HEAD_WIDTHS, width)
        )
        if plan.sharing:
            changes["num_key_value_groups"] = (plan.sharing, plan.sharing * left // units)
        else:
            changes["num_key_value_heads"] = (units, left)
    modules = (home, *home.children())
    if kind == "head" and not any(hasattr(module, name) for module in modules for name in HEAD_COUNTS):
        # A layout would read the count in the configuration, which stays as it was.
        setattr(home, HEAD_COUNTS[0], changes[HEAD_COUNTS[0]][0])
    for module in modules:
        for name, (before, after) in changes.items():
            if getattr(module, name, None) == before:
                setattr(module, name, after)


def _outputs(network: Any, inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return [item for item in flat(network(*inputs, **named)) if isinstance(item, Tensor)]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float | None) -> str | None:
    """What differs between two lists of outputs, as a phrase, or None."""
    shapes = [tuple(tensor.shape) for tensor in expected], [tuple(tensor.shape) for tensor in found]
    if shapes[0] != shapes[1]:
        return f"returns tensors of shapes {shapes[1]}, under the mask they are {shapes[0]}"
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        share = tolerance
        if share is None:
            share = torch.finfo(a.dtype).eps ** (2 / 3) if a.is_floating_point() else 0.0
        same = (a == b) | (a.isnan() & b.isnan())
        apart = (a.double() - b.double()).abs().masked_fill(same, 0.0)
        largest = a.double().abs().nan_to_num(0.0, 0.0, 0.0)
        if a.numel() and not bool((apart <= share * largest.max()).all()):
            return (
                f"returns something else than the network under the mask: tensor {i + 1} of {len(expected)} differs by up to "
                f"{float(apart.max()):.3g}, with values up to {float(largest.max()):.3g} and a tolerance of {share:.3g} of them"
            )
    return None
