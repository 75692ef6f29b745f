"""Ablations: masks made from masks, to test what a mask says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from maskscope.core.mask import Mask, expect_mask
from maskscope.core.select import listed


def complement(mask: Mask) -> Mask:
    """The inverted mask: is the subtask gone without these weights, and are the others still there?

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> complement(Mask.full(layout(nn.Linear(2, 3)))).kept_units
        0
    """
    return ~expect_mask(mask)


def keep_open(mask: Mask, control: Mask, names: Iterable[str]) -> Mask:
    """The mask, but with some parameters (the input and output layers, say) taken from the control mask.

    Source: the published code's ``inv_mask_exclude_io=fullmask``.

    Args:
        mask: Usually a complement.
        control: The mask of the full task.
        names: Parameters, as globs.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: The masks have different layouts.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> over = layout(nn.Linear(2, 3))
        >>> keep_open(Mask.empty(over), Mask.full(over), ["weight"]).kept_units
        6
    """
    mask, control, names = expect_mask(mask), expect_mask(control), listed(names)
    here = Mask.of(mask.layout, mask.layout.covering(mask.layout.matching(names)))
    kept = ((mask - here) | (control & here)).kept
    origin = mask.origin.derived(f"{mask.origin.label}, {', '.join(names)} open", beside=control.origin)
    return Mask.of(mask.layout, kept, origin)


def completed(part: Mask, control: Mask) -> Mask:
    """A mask over some of the parameters, with the other parameters taken from the control mask.

    Source: Csordas et al. 2021, CIFAR-10: the output layer is the control mask's, or a class could be removed there alone.

    Args:
        part: A mask over some of the control's parameters.
        control: The mask of the full task.

    Raises:
        KeyError: ``part`` masks a parameter that ``control`` does not.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> two = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> completed(Mask.empty(layout(two, ["0.weight"])), Mask.full(layout(two))).kept_units
        3
    """
    kept, mine = expect_mask(control).kept, expect_mask(part).kept
    for segment in part.layout.segments:
        control.layout.by_name[segment.parameter].own(kept).copy_(segment.own(mine))
    replaced = part.origin.replaced or control.origin.replaced
    return Mask.of(control.layout, kept, replace(part.origin, replaced=replaced))


def half(mask: Mask, names: Iterable[str]) -> Mask:
    """The mask in some parameters only; the others are kept whole.

    Source: Csordas et al. 2021, half-mask test: does a mask of one half of the layers serve with the other half intact?

    Args:
        mask: Usually the control mask.
        names: The parameters in which it applies, as globs.

    Raises:
        KeyError: A glob matches nothing.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> half(Mask.empty(layout(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))), ["0.*"]).kept_units
        3
    """
    mask, names = expect_mask(mask), listed(names)
    here = mask.layout.covering(mask.layout.matching(names))
    return Mask.of(
        mask.layout, mask.kept | ~here, mask.origin.derived(f"{mask.origin.label} in {', '.join(names)} only")
    )


def random_like(mask: Mask, seed: int) -> Mask:
    """A random mask that keeps as many units of each tensor: what size alone does.

    Args:
        mask: Whose sizes to take.
        seed: Of the draw.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> random_like(Mask.full(layout(nn.Linear(2, 3))), seed=0).kept_units
        6
    """
    generator = torch.Generator().manual_seed(seed)
    kept = expect_mask(mask).kept
    for span in mask.layout.spans:
        mine = span.own(kept)
        mine.copy_(mine[torch.randperm(span.units, generator=generator)])
    return Mask.of(mask.layout, kept, mask.origin.derived(f"random, sized as {mask.origin.label}", seed))


def random_of_size(mask: Mask, seed: int) -> Mask:
    """A random mask that keeps as many units, anywhere.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> random_of_size(Mask.full(layout(nn.Linear(2, 3))), seed=0).kept_units
        6
    """
    kept = expect_mask(mask).kept
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
    return Mask.of(mask.layout, kept[order], mask.origin.derived(f"random, of equal size: {mask.origin.label}", seed))


def from_complement(mask: Mask, seed: int) -> Mask:
    """A random mask of units that the mask does not keep: as many of each tensor, or all of them where there are fewer.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> from_complement(Mask.full(layout(nn.Linear(2, 3))), seed=0).kept_units
        0
    """
    generator = torch.Generator().manual_seed(seed)
    kept, drawn = expect_mask(mask).kept, torch.zeros_like(mask.kept)
    for span in mask.layout.spans:
        free = (~span.own(kept)).nonzero().flatten()
        count = int(span.own(kept).sum())
        span.own(drawn)[free[torch.randperm(len(free), generator=generator)[:count]]] = True
    return Mask.of(mask.layout, drawn, mask.origin.derived(f"sampled from the complement: {mask.origin.label}", seed))
