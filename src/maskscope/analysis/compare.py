"""How much two masks, or several, have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

from maskscope.analysis.chance import Sizes, expected
from maskscope.analysis.number import Number
from maskscope.core.mask import Mask, expect_mask
from maskscope.core.select import by_layer

T = TypeVar("T")


@dataclass(frozen=True)
class Overlap:
    """What two masks share somewhere in the network, in units."""

    where: str
    both: int
    """Units that both keep."""
    first: int
    """Units that the first keeps."""
    second: int
    units: int
    """Units in all."""
    chance_iou: Number
    """Expected IoU of random masks that keep as many units of each tensor."""
    chance_iomin: Number

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.where}: IoU {self.iou:.3f} (chance {self.chance_iou:.3f}), IoMin {self.iomin:.3f} "
            f"(chance {self.chance_iomin:.3f}); {self.first:,} and {self.second:,} of {self.units:,} units kept, "
            f"{self.both:,} by both"
        )

    @property
    def either(self) -> int:
        """Units that at least one keeps."""
        return self.first + self.second - self.both

    @property
    def iou(self) -> float:
        """Both over either; NaN if one is empty here."""
        return self.both / self.either if self.first and self.second else math.nan

    @property
    def iomin(self) -> float:
        """Both over the smaller; NaN if one is empty here."""
        smaller = min(self.first, self.second)
        return self.both / smaller if smaller else math.nan


def iou(a: Mask, b: Mask, names: Iterable[str] | None = None) -> float:
    """Intersection over union: units kept by both over units kept by either.

    Source: Csordas et al. 2021, section 3 (there per tensor). Differs: NaN where one is empty.

    Args:
        a: A mask.
        b: A mask over the same layout.
        names: Only these parameters, as globs. Default: all, pooled.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: Different layouts.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> iou(mask, mask), iou(mask, ~mask)  # the complement of everything is empty
        (1.0, nan)
    """
    return overlap(a, b, names).iou


def iomin(a: Mask, b: Mask, names: Iterable[str] | None = None) -> float:
    """Units kept by both over those of the smaller mask: 1 if one contains the other.

    Source: Csordas et al. 2021, section 3 (there per tensor). Differs: NaN, not 0/0 or 1, for an empty mask.

    Args:
        a: A mask.
        b: A mask over the same layout.
        names: Only these parameters, as globs. Default: all, pooled.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: Different layouts.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> iomin(mask, mask)
        1.0
    """
    return overlap(a, b, names).iomin


def overlap(a: Mask, b: Mask, names: Iterable[str] | None = None, where: str = "all") -> Overlap:
    """Everything about what two masks share, pooled over some parameters, with its chance level.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: Different layouts.
    """
    return overlaps(a, b, {where: ["*"] if names is None else names})[0]


def per_tensor(a: Mask, b: Mask) -> tuple[Overlap, ...]:
    """Overlap in each masked parameter.

    Source: Csordas et al. 2021: the grain at which IoU and IoMin are plotted.
    """
    return overlaps(a, b, {name: [name] for name in a.layout.names})


def per_layer(a: Mask, b: Mask) -> tuple[Overlap, ...]:
    """Overlap in each layer: the parameters of one module (of one of its stacked layers) pooled."""
    return overlaps(a, b, by_layer(a.layout.names))


def overlaps(a: Mask, b: Mask, groups: Mapping[str, Iterable[str]]) -> tuple[Overlap, ...]:
    """Overlap in several groups of parameters, given as globs, in one pass over the masks.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: Different layouts.
    """
    a, b = expect_mask(a), expect_mask(b)
    both, first, second = (a & b).kept, a.kept, b.kept
    counts = [(span, [int(span.own(flat).sum()) for flat in (both, first, second)]) for span in a.layout.spans]
    span_of = {segment.parameter: i for i, (span, _) in enumerate(counts) for segment in span.segments}
    records: list[Overlap] = []
    for where, patterns in groups.items():
        inside = [counts[i] for i in sorted({span_of[name] for name in a.layout.matching(patterns)})]
        chance = expected([Sizes(span.units, kept_a, kept_b) for span, (_, kept_a, kept_b) in inside])
        shared_, kept_a, kept_b = (sum(count[i] for _, count in inside) for i in range(3))
        units = sum(span.units for span, _ in inside)
        records.append(Overlap(where, shared_, kept_a, kept_b, units, chance.iou, chance.iomin))
    return tuple(records)


def shared(masks: Sequence[Mask], names: Iterable[str] | None = None) -> tuple[float, ...]:
    """For each mask, the share of its units that any other also keeps: |m_i & (union of the others)| / |m_i|.

    Source: published code, ``shared``. NaN for an empty mask.

    Raises:
        ValueError: Fewer than two masks, or different layouts.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> shared([mask, mask])
        (1.0, 1.0)
    """
    return tuple(part[""] for part in shared_in(masks, {"": _names(masks[0], names)} if masks else {}))


def shared_in(masks: Sequence[Mask], parts: Mapping[str, Sequence[str]]) -> list[dict[str, float]]:
    """``shared`` in several parts of a network, each mask being read once.

    Args:
        masks: Two or more.
        parts: Parameters by the name of the part.

    Raises:
        ValueError: Fewer than two masks, or different layouts.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> shared_in([mask, ~mask], {"all": ["weight"]})
        [{'all': 0.0}, {'all': nan}]
    """
    if len(masks) < 2:
        raise ValueError(f"sharing needs at least two masks, got {len(masks)}")
    found: list[dict[str, float]] = []
    for i, mask in enumerate(masks):
        union = reduce(or_, [other for j, other in enumerate(masks) if j != i])
        found.append(_shares(mask & union, mask, parts))
    return found


def remaining(mask: Mask, control: Mask, names: Iterable[str] | None = None) -> float:
    """The share of the control mask that a subtask's mask keeps: |m & m_0| / |m_0|.

    Source: published code, ``remaining``. NaN for an empty control mask.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> remaining(~mask, mask)
        0.0
    """
    return remaining_in(mask, control, {"": _names(mask, names)})[""]


def remaining_in(mask: Mask, control: Mask, parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """``remaining`` in several parts of a network, each mask being read once.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> remaining_in(mask, mask, {"all": ["weight"]})
        {'all': 1.0}
    """
    return _shares(mask & control, control, parts)


def _names(mask: Mask, names: Iterable[str] | None) -> tuple[str, ...]:
    return mask.layout.names if names is None else mask.layout.matching(names)


def _shares(part: Mask, whole: Mask, parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Units of one mask over those of another, in each part: a unit counts where any of its parameters is."""
    kept, of, spans = part.kept, whole.kept, whole.layout.spans
    counts = [(int(span.own(kept).sum()), int(span.own(of).sum())) for span in spans]
    shares: dict[str, float] = {}
    for where, names in parts.items():
        here = {*names}
        inside = [
            count
            for span, count in zip(spans, counts, strict=True)
            if any(item.parameter in here for item in span.segments)
        ]
        size = sum(count for _, count in inside)
        shares[where] = sum(count for count, _ in inside) / size if size else math.nan
    return shares


def symmetric(values: Mapping[tuple[T, T], float], names: Sequence[T]) -> Float64[np.ndarray, "n n"]:
    """A value of every pair as a table; NaN where there is none, and on the diagonal.

    Examples:
        >>> symmetric({("a", "b"): 0.5}, ["a", "b"])[1, 0]
        np.float64(0.5)
    """
    table = np.full((len(names), len(names)), math.nan)
    for (a, b), value in values.items():
        i, j = names.index(a), names.index(b)
        table[i, j] = table[j, i] = value
    return table
