"""The layout of a mask: one flat vector of units laid over the selected parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from maskscope.core import select as selection
from maskscope.core.granularity import Granularity, Index, PerWeight, View
from maskscope.core.groups import Group, Grouping
from maskscope.core.segments import IndexedSegment, Segment, Span
from maskscope.core.select import LeftOut, Pattern, match_names, nearest


class Row(NamedTuple):
    """One line of the dry-run table."""

    parameter: str
    shape: tuple[int, ...]
    kind: str
    units: int
    weights: int
    reason: str | None
    """Why it is not masked; None if it is."""


@dataclass(frozen=True, repr=False)
class Layout:
    """Which units lie over which weights. Immutable; two masks compare only over equal layouts.

    Raises:
        ValueError: No segment, a parameter twice, or units that overlap without being tied.
    """

    segments: tuple[Segment, ...]
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Check that the units are numbered without a gap and every parameter appears once."""
        if not self.segments:
            raise ValueError("a layout needs at least one segment")
        names = [segment.parameter for segment in self.segments]
        doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if doubled:
            raise ValueError(f"a weight belongs to at most one unit, but these parameters appear twice: {doubled}")
        end = 0
        for span in sorted(self.spans, key=lambda span: span.offset):
            if span.offset != end:
                raise ValueError(
                    f"units of {span.name!r} start at {span.offset}, expected {end}: tied segments share offset and "
                    "count, others follow each other"
                )
            end = span.offset + span.units

    def __repr__(self) -> str:
        """One line; ``table()`` has everything."""
        return f"Layout({self.units:,} units over {self.weights:,} weights in {_parameters(len(self.segments))})"

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The distinct runs of units, tied segments once."""
        tied: dict[tuple[int, int], list[Segment]] = {}
        for segment in self.segments:
            tied.setdefault((segment.offset, segment.units), []).append(segment)
        return tuple(Span(group[0].parameter, *where, tuple(group)) for where, group in tied.items())

    @cached_property
    def by_name(self) -> Mapping[str, Segment]:
        """Segments by the name of their parameter."""
        return {segment.parameter: segment for segment in self.segments}

    @property
    def names(self) -> tuple[str, ...]:
        """The masked parameters, in order."""
        return tuple(segment.parameter for segment in self.segments)

    @property
    def units(self) -> int:
        """The length of the flat vector."""
        return sum(span.units for span in self.spans)

    @property
    def weights(self) -> int:
        """How many weights the units switch."""
        return sum(segment.weights for segment in self.segments)

    def matching(self, patterns: Iterable[str]) -> tuple[str, ...]:
        """The masked parameters that match any of the globs; a name is itself, whatever characters it has.

        Raises:
            KeyError: A glob matches none; the message has the nearest names.
            TypeError: One glob, not a list of them.
        """
        return match_names(self._places, patterns)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def unit_weights(self) -> Int64[Tensor, " units"]:
        """How many weights each unit switches, over all tied parameters."""
        counts = torch.zeros(self.units, dtype=torch.int64)
        for segment in self.segments:
            segment.own(counts).add_(segment.sizes())
        return counts

    def covering(self, names: Iterable[str]) -> Bool[Tensor, " units"]:
        """Which units touch any of the named parameters."""
        covered = torch.zeros(self.units, dtype=torch.bool)
        for name in names:
            self.by_name[name].own(covered).fill_(value=1)
        return covered

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse a network that this layout was not made for.

        Raises:
            KeyError: Parameters are missing; the message has the nearest names.
            ValueError: Shapes differ.
        """
        missing = [name for name in self.names if name not in shapes]
        if missing:
            raise KeyError(
                f"the mask is for another network: {len(missing)} of its {len(self.names)} parameters are missing here, "
                f"first {missing[0]!r}; nearest: {nearest(missing[0], shapes)}"
            )
        for segment in self.segments:
            here = tuple(shapes[segment.parameter])
            if here != segment.shape:
                raise ValueError(
                    f"the mask is for another network: {segment.parameter!r} has shape {here} here, "
                    f"{segment.shape} in the mask"
                )

    def check_values(self, parameters: Mapping[str, Tensor]) -> None:
        """Refuse weights that a gate cannot remove: 0 times NaN is NaN.

        Raises:
            ValueError: NaN or infinite values, or none that can be computed with (of 8 bits).
        """
        for name in self.names:
            weight = parameters[name].detach()
            if weight.is_meta:  # of which only shapes are wanted
                continue
            try:
                if bool(weight.sum().isfinite()):  # no copy of the weights, as a count would make
                    continue
            except NotImplementedError as error:
                raise ValueError(
                    f"{name!r} is of {weight.dtype}, which torch does not compute with; leave it out (select with {'!' + name!r}), or "
                    "convert the network"
                ) from error
            bad = int((~weight.isfinite()).sum())
            if bad:
                raise ValueError(
                    f"{name!r} holds {bad} NaN or infinite values of {weight.numel()}; there can be no mask over them (0 times NaN is "
                    f"NaN). Did the training diverge? If they are meant, leave them out (select with {'!' + name!r})"
                )

    def rows(self) -> tuple[Row, ...]:
        """What is masked and what is not, with reasons: the dry run as records."""
        masked = [Row(s.parameter, s.shape, s.kind, s.units, s.weights, None) for s in self.segments]
        others = [Row(o.name, (), "", 0, o.weights, o.reason) for o in self.left_out]
        return (*masked, *others)

    def table(self) -> str:
        """The dry run as text: per parameter what is masked, in which units, or why not.

        Examples:
            >>> from torch import nn
            >>> print(layout(nn.Linear(2, 3)).table())
            parameter  unit    units  weights  shape
            weight     weight      6        6  3 x 2
            bias       -           -        3  not masked: bias outside a normalisation layer
            masked: 6 units over 6 weights in 1 parameter; not masked: 3 weights in 1 parameter
        """
        lines = [("parameter", "unit", "units", "weights", "shape")]
        for row in self.rows():
            shape = " x ".join(map(str, row.shape)) if row.reason is None else f"not masked: {row.reason}"
            units = f"{row.units:,}" if row.reason is None else "-"
            lines.append((row.parameter, row.kind or "-", units, f"{row.weights:,}", shape))
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        text = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}" for a, b, c, d, e in lines
        ]
        spared = sum(item.weights for item in self.left_out)
        total = (
            f"masked: {self.units:,} units over {self.weights:,} weights in {_parameters(len(self.segments))}; "
            f"not masked: {spared:,} weights in {_parameters(len(self.left_out))}"
        )
        return "\n".join([*text, total])


def _parameters(count: int) -> str:
    return f"{count} parameter{'' if count == 1 else 's'}"


def layout(
    model: nn.Module,
    select: Sequence[Pattern] | None = None,
    *,
    granularity: Granularity | Grouping | None = None,
) -> Layout:
    """Lay a flat vector of units over a network's parameters.

    Args:
        model: Any network; nothing in it is changed.
        select: Which parameters (see ``select``). Default: every weight; not embeddings, nor biases outside
            normalisation layers. ``print(layout(model).table())`` says what that means here.
        granularity: What one unit is. Default: a single weight. ``PerHead()`` and ``PerNeuron()`` select what belongs to
            them, if ``select`` is not given.

    Raises:
        KeyError: A pattern matches nothing.
        ValueError: Nothing is selected.

    Examples:
        >>> from torch import nn
        >>> layout(nn.LSTM(4, 8)).names
        ('weight_ih_l0', 'weight_hh_l0')
    """
    grain = PerWeight() if granularity is None else granularity
    if isinstance(grain, type) or not isinstance(grain, Granularity | Grouping):
        raise TypeError(f"granularity takes an object such as ms.PerOutput(), got {grain!r}")
    if isinstance(grain, Grouping):
        groups = _known(model, grain.groups(model))
        chosen = selection.select(model, [name for group in groups for name in group] if select is None else select)
    else:
        chosen = selection.select(model, select)
        groups = [{site.name: grain.view(site)} for site in chosen.chosen]
    shapes = {site.name: tuple(site.parameter.shape) for site in chosen.chosen}
    segments: list[Segment] = []
    offset = 0
    for group in groups:
        tied = [
            _segment(name, shapes[name], laid, offset, grain.kind) for name, laid in group.items() if name in shapes
        ]
        segments += tied
        offset += tied[0].units if tied else 0
    grouped, why = {segment.parameter for segment in segments}, f"belongs to no {grain.kind}"
    others = [LeftOut(name, math.prod(shape), why) for name, shape in shapes.items() if name not in grouped]
    unasked = isinstance(grain, Grouping) and select is None  # nobody named patterns, so none is to be spoken of
    left_out = [LeftOut(item.name, item.weights, why) if unasked else item for item in chosen.left_out]
    return Layout(tuple(segments), (*left_out, *others))


def _known(model: nn.Module, groups: Sequence[Group]) -> list[dict[str, View | Index]]:
    """Groups by the first names of their parameters.

    Raises:
        KeyError: A name that the network does not have.
        ValueError: Two names of one parameter.
    """
    everything = selection.sites(model)
    first = {name: site.name for site in everything for name in site.names}
    found: list[dict[str, View | Index]] = []
    for group in groups:
        unknown = next((name for name in group if name not in first), None)
        if unknown is not None:
            raise KeyError(selection.nothing_matches(unknown, everything))
        named = {first[name]: laid for name, laid in group.items()}
        if len(named) < len(group):
            raise ValueError(f"two of {list(group)} are names of one parameter; units of it are told once")
        found.append(named)
    return found


def _segment(name: str, shape: tuple[int, ...], laid: View | Index, offset: int, kind: str) -> Segment:
    if isinstance(laid, View):
        return Segment(name, shape, laid.shape, laid.gates, offset, kind)
    weights = math.prod(shape)
    try:
        numbers = laid.numbers.expand(shape).reshape(-1).to("cpu", torch.int32)
    except RuntimeError:
        raise ValueError(
            f"the index of {name!r} has shape {tuple(laid.numbers.shape)}, expected {shape} or one that broadcasts to it"
        ) from None
    return IndexedSegment(name, shape, (weights,), (laid.units,), offset, kind, index=numbers.numpy().tobytes())


def gated(
    flat: Float[Tensor, " units"],
    over: Layout,
    parameters: Mapping[str, Tensor],
    replacement: Mapping[str, Tensor] | None = None,
) -> dict[str, Shaped[Tensor, "..."]]:
    """Every masked parameter times its gates, plus what replaces it times one minus the gates; differentiable in both."""
    found = {
        segment.parameter: segment.gated(parameters[segment.parameter], segment.own(flat)) for segment in over.segments
    }
    for name, value in (replacement or {}).items():
        segment = over.by_name[name]
        found[name] = found[name] + segment.gated(value.expand(segment.shape), 1 - segment.own(flat))
    return found
