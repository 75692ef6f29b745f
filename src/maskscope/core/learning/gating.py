"""Every masked weight under the samples of a step: what the network sees of it, and what becomes of its gradient."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int32
from torch import Tensor

from maskscope.core.gates import Gate
from maskscope.core.learning.blocks import WIDTH, Rows, Run, is_matrix
from maskscope.core.learning.gated import GatedWeight, WrittenWeight
from maskscope.core.learning.kernels import Kernel, Words
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.native import Library, Planes
from maskscope.core.learning.sinks import IntoLogits, IntoWeight
from maskscope.core.noise import Draw, name_keys, uniform
from maskscope.core.segments import Segment, Span

Streams = Int32[Tensor, "samples 3"]

_PIECE = 1 << 13
"""Rows that are prepared at once where nothing is kept: 2 MB."""


class _Shaped(NamedTuple):
    """A parameter not gated in the rows: gates drawn there are broadcast over its view, its gradient is summed over units."""

    segment: Segment
    span: Span
    weight: Tensor
    leaf: Tensor
    gates: Tensor
    logits: Tensor
    total: Tensor
    """Their gradient."""
    base: Tensor | None
    """What is added to weight times gates."""

    def fill(self) -> None:
        """The leaf becomes weight times gates."""
        gates = self.segment.spread(self.gates.to(self.weight.device, self.weight.dtype))
        leaf = self.leaf.detach().view(self.segment.view)
        torch.mul(self.weight, gates, out=leaf)
        if self.base is not None:
            leaf.add_(self.base)

    def collect(self, gate: Gate, stream: Words, *, expected: bool) -> None:
        """The leaf's gradient is summed over each unit's weights and added, times the slope."""
        found, self.leaf.grad = self.leaf.grad, None
        if found is None:
            return
        found = found.to_dense() if found.is_sparse else found
        summed = self.segment.collected(found.reshape(self.segment.view) * self.weight).to(self.total)
        slope = gate.expected_slope(self.logits, self.gates) if expected else None
        if slope is None:
            index = torch.arange(self.span.units, dtype=torch.int32, device=self.logits.device)
            first, second = name_keys(self.span.name)
            slope = gate.slope(self.logits, uniform(index, stream[0] + first, stream[1] ^ second, stream[2]))
        self.total.add_(summed * slope)


class _Pass(NamedTuple):
    """A run of rows in every array of a step."""

    gated: Rows | None
    """Weights times gates; None where the products see to that."""
    planes: Planes | None
    """Gates of all samples as bits; None where each sample is drawn when it is its turn."""
    gradient: Rows | None
    """d(loss)/d(gated weight) of one sample; None where only that of the logits is collected."""
    total: Rows
    """d(loss + penalty)/d(logit)."""
    logits: Rows
    prepared: Rows | None
    weights: Rows
    keys: tuple[Tensor, Tensor]
    base: Rows | None
    """What is added to weights times gates."""


class Gating:
    """The masked weights of a network, with buffers that last from step to step.

    A step is given the streams of its samples and begun; each sample is shown, and what backward leaves is kept; then the
    step is finished. Only ``draw`` brings numbers from Python: what follows can be captured and replayed.

    Where something replaces removed weights, r in place of 0, the network sees (w - r) times the gate, plus r.

    With g the gradient of a gated weight under a sample, a logit gets the sum of g * weight over its unit's weights, times the
    gate's slope: the one expected of the sample's gate, or the sample's own (``schedule.slope``).

    Args:
        weights: All of the network's parameters, detached.
        logits: What is learned; their ``gradient`` is what comes out.
        kernel: The passes over rows.
        penalty: Added to the mean loss per unit of summed gate penalty.
        replacement: What removed weights become, by parameter; 0 where nothing is named.
        read: Parameters that are read where nothing sees it, so that they have to be written.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        logits: Logits,
        kernel: Kernel,
        penalty: float,
        replacement: Mapping[str, Tensor] | None = None,
        read: Collection[str] = (),
    ) -> None:
        """Allocate everything."""
        self._read = frozenset(read)
        self._bases = dict(replacement or {})
        weights = {**weights, **{name: weights[name] - base for name, base in self._bases.items()}}
        self.logits = logits
        self.kernel = kernel
        self.penalty = torch.tensor(penalty, dtype=torch.float32, device=logits.device)
        some = logits.rows[:1]
        self.expected = logits.schedule.slope == "expected" and kernel.gate.expected_slope(some, some) is not None
        self.native = kernel.native(logits.device)
        logits.prepare(kernel)
        self.matrices: dict[str, GatedWeight] = {}
        """Float32 matrices with one unit per weight, where products with gated weights are to be had."""
        self.written: dict[str, WrittenWeight] = {}
        """Other float32 parameters with one unit per weight: views of rows, and so are their gradients."""
        self.shaped: list[_Shaped] = []
        """All others."""
        self._streams: Streams = torch.zeros(logits.schedule.samples, 3, dtype=torch.int32, device=logits.device)
        self._sample = 0
        self._passes = [self._lay(run, weights) for run in logits.blocks.runs]

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The leaves of the graph, by parameter: where gradients arrive."""
        return self._others | {name: matrix.leaf for name, matrix in self.matrices.items()}

    @property
    def arrivals(self) -> list[tuple[str, Tensor]]:
        """Every tensor at which a gradient can arrive, with the parameter's name."""
        return [*self.leaves.items(), *((name, matrix.stand_in) for name, matrix in self.matrices.items())]

    @property
    def seen(self) -> dict[str, Tensor]:
        """What the network is to see, by parameter."""
        return self._others | {name: matrix.stand_in for name, matrix in self.matrices.items()}

    @property
    def _others(self) -> dict[str, Tensor]:
        return {name: weight.leaf for name, weight in self.written.items()} | {
            shaped.segment.parameter: shaped.leaf for shaped in self.shaped
        }

    def draw(self, streams: Sequence[Draw]) -> None:
        """From here on, the step's samples have these streams."""
        self._streams.copy_(torch.tensor(streams, dtype=torch.int32))

    def begin(self) -> None:
        """Forget the last step's gradient."""
        for shaped in self.shaped:
            shaped.leaf.grad = None
        for p in self._passes:
            if p.gated is not None or p.gradient is not None:
                self.kernel.penalise(p.total, p.logits, self.penalty)
        for matrix in self.matrices.values():
            matrix.sink.begin()
        if self.native is not None:
            for p in self._passes:
                self._draw(p, self._streams, self.native)

    def show(self, sample: int) -> None:
        """The network sees this sample of its weights."""
        self._sample = sample
        drawn = self._streams[sample] if self.native is None else None
        for p in self._passes:
            if p.gated is None:
                continue
            if p.gradient is not None:
                p.gradient.zero_()
            if drawn is not None:
                self.kernel.sample(p.gated, p.logits, p.prepared, p.weights, p.keys, drawn)
            elif self.native is not None and p.planes is not None:
                self.native.gate(p.gated, p.weights, p.planes[sample])
            if p.base is not None:
                p.gated.add_(p.base)
        for matrix in self.matrices.values():
            matrix.show(sample)
        for shaped in self.shaped:
            shaped.fill()

    def keep(self, sample: int) -> None:
        """Keep what backward has left under this sample."""
        stream = self._streams[sample]
        for shaped in self.shaped:
            shaped.collect(self.kernel.gate, stream, expected=self.expected)
        for matrix in self.matrices.values():
            if self.expected:
                matrix.sink.settle()
            else:
                matrix.sink.finish()
                matrix.sink.begin()
        for p in self._passes:
            if p.gradient is not None:
                self._collect(p, p.gradient)

    def finish(self) -> None:
        """The logits' gradient is whole, the penalty's included."""
        if self.expected:
            for matrix in self.matrices.values():
                matrix.sink.finish()

    def _collect(self, p: _Pass, gradient: Rows) -> None:
        """Add d(loss)/d(gated weight) under the sample shown."""
        if self.expected and self.native is not None and p.planes is not None:
            self.native.collect(p.total, gradient, p.weights, p.logits, p.planes[self._sample])
        else:
            collect = self.kernel.collect_expected if self.expected else self.kernel.collect
            collect(p.total, gradient, p.logits, p.weights, p.keys, self._streams[self._sample])

    def _draw(self, p: _Pass, streams: Tensor, native: Library) -> None:
        """The gates of all samples, as bits."""
        if p.planes is None:
            return
        if p.prepared is not None:
            native.draw(p.planes, p.prepared, p.keys, streams)
            return
        for start in range(0, p.logits.shape[0], _PIECE):
            rows = slice(start, start + _PIECE)
            piece = self.kernel.prepare(torch.empty_like(p.logits[rows]), p.logits[rows])
            native.draw(p.planes[:, rows], piece, (p.keys[0][rows], p.keys[1][rows]), streams)

    def _lay(self, run: Run, weights: Mapping[str, Tensor]) -> _Pass:
        """A run's arrays, and what the network is to see of it."""
        blocks, logits, rows = self.logits.blocks, self.logits, run.rows
        count, planes, gated = rows.stop - rows.start, None, None
        shares: list[Tensor | None]
        gradient: Rows | None = torch.zeros(count, WIDTH, dtype=torch.float32, device=blocks.device)
        if self.native is not None:
            planes = torch.zeros(logits.schedule.samples, count + 1, dtype=torch.int64)
        if self.native is not None and planes is not None and self._only_matrices(run, weights):
            gradient = None if self.expected else gradient
            shares = [
                self._matrix(span, weights[span.name], planes, gradient, rows.start, self.native) for span in run.spans
            ]
        else:
            gated = torch.zeros_like(gradient)
            shares = [self._place(span, weights, gated, gradient, rows.start) for span in run.spans]
            gradient = None if all(share is None for share in shares) else gradient
        alone = self.written.get(run.spans[0].name) if run.spans[0].units == count * WIDTH else None
        if alone is not None and logits.low_memory:
            gradient = None
        # Not as views of larger tensors (.data): the compiler would compile every pass again for those.
        found = _Pass(
            gated,
            planes,
            gradient,
            logits.gradient[rows].data,
            logits.rows[rows].data,
            None if logits.prepared is None else logits.prepared[rows].data,
            self._weights_of(run, shares).data,
            (blocks.key0[rows].data, blocks.key1[rows].data),
            self._base_of(run, shares),
        )
        if alone is not None and gradient is None:
            alone.use_at_once(lambda whole: self._collect(found, whole.reshape(count, WIDTH).contiguous()))
        return found

    def _only_matrices(self, run: Run, weights: Mapping[str, Tensor]) -> bool:
        """Whether products that apply gates themselves will do; they know of no replacement."""
        return all(
            is_matrix(span)
            and _fits(weights[span.name], self.logits.rows)
            and span.name not in self._bases
            and span.name not in self._read
            for span in run.spans
        )

    def _matrix(
        self, span: Span, weight: Tensor, planes: Planes, gradient: Rows | None, start: int, native: Library
    ) -> Tensor:
        """Make the span's gated weight; returns the weight."""
        blocks, logits = self.logits.blocks, self.logits
        if gradient is None:
            total, values = (blocks.own(rows, span).view(weight.shape) for rows in (logits.gradient, logits.rows))
            sink = IntoLogits(total, weight, values, self.penalty, native)
        else:
            sink = IntoWeight(blocks.own(gradient, span, start).view(weight.shape))
        bits = list(planes[:, blocks.row(span) - start :])
        self.matrices[span.name] = GatedWeight(span.name, weight, bits, sink, native)
        return weight.view(-1)

    def _place(
        self, span: Span, weights: Mapping[str, Tensor], gated: Rows, gradient: Rows, start: int
    ) -> Tensor | None:
        """Make the span's leaves; returns the weights to multiply in the rows, None where only gates are drawn there."""
        blocks, logits = self.logits.blocks, self.logits
        gates, own_gradient = (blocks.own(rows, span, start) for rows in (gated, gradient))
        segment, weight = span.segments[0], weights[span.segments[0].parameter]
        if len(span.segments) == 1 and segment.plain and _fits(weight, gates):
            leaf = gates.view(segment.shape).requires_grad_()
            leaf.grad = own_gradient.view(segment.shape)
            self.written[segment.parameter] = WrittenWeight(segment.parameter, leaf)
            return weight.view(-1)
        values, total = blocks.own(logits.rows, span), blocks.own(logits.gradient, span)
        for item in span.segments:
            weight = weights[item.parameter]
            leaf = torch.zeros(item.shape, dtype=weight.dtype, device=weight.device).requires_grad_()
            base = self._bases.get(item.parameter)
            laid = None if base is None else base.to(weight).expand(item.shape).reshape(item.view)
            self.shaped.append(_Shaped(item, span, weight.reshape(item.view), leaf, gates, values, total, laid))
        return None

    def _base_of(self, run: Run, shares: list[Tensor | None]) -> Rows | None:
        """What is added to a run's rows; None where nothing is."""
        written = [span for span, share in zip(run.spans, shares, strict=True) if share is not None]
        replaced = [span for span in written if span.name in self._bases]
        if not replaced:
            return None
        rows = torch.zeros(run.rows.stop - run.rows.start, WIDTH, dtype=torch.float32, device=self.logits.device)
        for span in replaced:
            shape = span.segments[0].shape
            self.logits.blocks.own(rows, span, run.rows.start).copy_(self._bases[span.name].expand(shape).reshape(-1))
        return rows

    def _weights_of(self, run: Run, shares: list[Tensor | None]) -> Rows:
        """What the gates of a run are multiplied with: the parameter itself if it fills whole rows, else a copy."""
        blocks, share = self.logits.blocks, shares[0]
        count = run.rows.stop - run.rows.start
        if len(shares) == 1 and share is not None and share.numel() == count * WIDTH:
            return share.view(count, WIDTH)
        if self.native is None and all(share is None for share in shares):
            return torch.ones(1, 1, dtype=torch.float32, device=blocks.device).expand(count, WIDTH)
        copies = torch.zeros(count, WIDTH, dtype=torch.float32, device=blocks.device)
        for span, share in zip(run.spans, shares, strict=True):
            blocks.own(copies, span, run.rows.start).copy_(torch.ones(()) if share is None else share)
        return copies


def _fits(weight: Tensor, rows: Tensor) -> bool:
    return weight.dtype == rows.dtype and weight.device == rows.device and weight.is_contiguous()
