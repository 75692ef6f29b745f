"""Where the units of a layout lie while they are learned: rows of 64, each row of one parameter.

Every row knows the noise keys of its parameter, so one pass over many rows serves any number of parameters, and no
vector loop ever has a remainder. Large parameters come first, in their own order, and fill whole rows; then small
matrices, then all others, each begun on a new row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from maskscope.core.layout import Layout
from maskscope.core.noise import COUNTER, name_keys
from maskscope.core.segments import Span

WIDTH = 64
"""Units in a row: a multiple of every vector register; at most 63 places are lost per small parameter."""

LARGE = 3 << 18
"""From so many units on a parameter has a run of its own, which reads its weights where they are; smaller ones are
copied next to each other (4 bytes a weight), since every pass over a run costs some 50 microseconds to begin."""

Rows = Float32[Tensor, "rows 64"]


class Run(NamedTuple):
    """Rows that one pass goes over."""

    rows: slice
    spans: tuple[Span, ...]


def is_matrix(span: Span) -> bool:
    """Whether a span lies over one matrix, a unit for every weight."""
    segment = span.segments[0]
    return len(span.segments) == 1 and len(segment.shape) == 2 and segment.plain


class Blocks:
    """The rows of a layout.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> blocks = Blocks(layout(nn.Linear(10, 10)))
        >>> blocks.count, torch.equal(blocks.gather(blocks.spread(torch.arange(100.0))), torch.arange(100.0))
        (2, True)
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu", *, large: int = LARGE) -> None:
        """Place every span, and lay out the keys; ``large``: units from which a parameter has a run of its own."""
        self.layout = layout
        self.device = torch.device(device)
        whole: list[Span] = []
        matrices: list[Span] = []
        others: list[Span] = []
        for span in layout.spans:
            if span.units >= large and span.units % WIDTH == 0:
                whole.append(span)
            else:
                (matrices if is_matrix(span) else others).append(span)
        self._first: dict[str, int] = {}
        self.runs: list[Run] = []
        self.unused: list[slice] = []
        """Places of rows that hold no unit."""
        keys: list[Int32[Tensor, "rows 2"]] = []
        count = 0
        for spans in (*((span,) for span in whole), matrices, others):
            start = count
            for span in spans:
                rows = -(-span.units // WIDTH)
                self._first[span.name] = count
                keys.append(_keys(span.name, rows))
                if span.units % WIDTH:
                    self.unused.append(slice(count * WIDTH + span.units, (count + rows) * WIDTH))
                count += rows
            if count - start == 1:  # one row alone would have a compiled pass of its own
                keys.append(torch.zeros(1, 2, dtype=torch.int32))
                self.unused.append(slice(count * WIDTH, (count + 1) * WIDTH))
                count += 1
            if spans:
                self.runs.append(Run(slice(start, count), tuple(spans)))
        self.count = count
        both = torch.cat(keys).to(self.device)
        self.key0: Int32[Tensor, "rows 1"] = both[:, :1].contiguous()
        self.key1: Int32[Tensor, "rows 1"] = both[:, 1:].contiguous()

    def row(self, span: Span) -> int:
        """The first row of a span."""
        return self._first[span.name]

    def full(self, value: float) -> Rows:
        """Rows of one value."""
        return torch.full((self.count, WIDTH), value, dtype=torch.float32, device=self.device)

    def own(self, rows: Rows, span: Span, start: int = 0) -> Float32[Tensor, " units"]:
        """A span's units in rows; a view. ``start``: the first row that is there."""
        start = (self._first[span.name] - start) * WIDTH
        return rows.view(-1)[start : start + span.units]

    def spread(self, flat: Float32[Tensor, " units"], out: Rows | None = None) -> Rows:
        """Rows from a flat vector in the layout's order; in ``out``, where given."""
        rows = self.full(0.0) if out is None else out
        for span in self.layout.spans:
            self.own(rows, span).copy_(span.own(flat))
        return rows

    def gather(self, rows: Rows, out: Float32[Tensor, " units"] | None = None) -> Float32[Tensor, " units"]:
        """The flat vector in the layout's order; in ``out``, where given."""
        flat = torch.empty(self.layout.units, dtype=torch.float32, device=self.device) if out is None else out
        for span in self.layout.spans:
            span.own(flat).copy_(self.own(rows, span))
        return flat


def _keys(name: str, rows: int) -> Int32[Tensor, "rows 2"]:
    first, second = name_keys(name)
    start = torch.arange(rows, dtype=torch.int32) * WIDTH
    return torch.stack([start * COUNTER + first, torch.full((rows,), second, dtype=torch.int32)], 1)
