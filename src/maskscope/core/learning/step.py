"""A step of learning: gated weights as leaves of the graph, refilled for each part, and what their gradients become."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskscope.core.apply import Swap
from maskscope.core.batches import Part
from maskscope.core.gates import Gate
from maskscope.core.layout import Segment, Span
from maskscope.core.learning.blocks import WIDTH, Rows, Run
from maskscope.core.learning.kernels import Kernel, words
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.products import Collecting, forwards
from maskscope.core.noise import Draw, uniform
from maskscope.core.objectives import Objective


class _Shaped(NamedTuple):
    """A parameter that is not gated in the rows themselves: gates drawn in the rows are broadcast over its view, its gradient is summed over units."""

    segment: Segment
    span: Span
    weight: Tensor
    leaf: Tensor
    gates: Tensor
    logits: Tensor
    gradient: Tensor
    """Its place in the rows, for what the gate's mean slope is still to be multiplied with."""
    total: Tensor | None
    """What its own samples' slopes have been multiplied with; None where the mean slope is used."""

    def fill(self) -> None:
        """The leaf becomes weight times gates."""
        gates = self.gates.to(self.weight.device, self.weight.dtype).view(self.segment.gates)
        torch.mul(self.weight, gates, out=self.leaf.detach().view(self.segment.view))

    def collect(self, gate: Gate, stream: Draw) -> None:
        """The leaf's gradient is summed over each unit's weights and kept."""
        found, self.leaf.grad = self.leaf.grad, None
        if found is None:
            return
        found = found.to_dense() if found.is_sparse else found
        summed = self.segment.collected(found.reshape(self.segment.view) * self.weight).to(self.gradient)
        if self.total is None:
            self.gradient.add_(summed)
        else:
            index = torch.arange(self.span.units, dtype=torch.int32, device=self.logits.device)
            self.total.add_(summed * gate.slope(self.logits, uniform(index, *stream.of(self.span.name))))


class _Pass(NamedTuple):
    """A run of rows in every array of a step."""

    gated: Rows
    gradient: Rows
    total: Rows
    logits: Rows
    source: Rows
    """What samples are drawn from: the prepared logits, or the logits."""
    weights: Rows
    keys: tuple[Tensor, Tensor]


class Step:
    """The work of one step over a network, with buffers that last from step to step.

    With g the gradient of a gated weight, a logit gets the sum of g * weight over its unit's weights, times the gate's
    slope: the mean slope once, after the last part, or each sample's own (``schedule.slope``; always for units of more
    than one weight).

    Args:
        model: Any network.
        objective: Its mean loss on a batch.
        weights: All its parameters, detached.
        logits: What is learned.
        kernel: The passes over rows.
        penalty: Added to the mean loss per unit of summed gate penalty.
        autocast: The type of the network's products; None: as the network has it.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        weights: Mapping[str, Tensor],
        logits: Logits,
        kernel: Kernel,
        penalty: float,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Allocate everything."""
        self.model = model
        self.objective = objective
        self.logits = logits
        self.kernel = kernel
        self.autocast = autocast
        blocks, device = logits.blocks, logits.device
        self.penalty = torch.tensor(penalty, dtype=torch.float32, device=device)
        self.mean = logits.schedule.slope == "mean" and kernel.gate.mean_slope(logits.rows[:1]) is not None
        logits.prepare(kernel.gate)
        gated = blocks.full(0.0)
        self.gradient = logits.gradient if self.mean else blocks.full(0.0)
        source = logits.rows if logits.prepared is None else logits.prepared
        self.direct: dict[str, Tensor] = {}
        """Leaves of float32 parameters with one unit per weight: views of the rows, and so are their gradients."""
        self.shaped: list[_Shaped] = []
        self.passes: list[_Pass] = []
        for run in blocks.runs:
            shares = [self._place(span, weights, gated) for span in run.spans]
            rows = run.rows
            # Not as views of larger tensors (.data): the compiler would compile every pass again for those.
            self.passes.append(
                _Pass(
                    gated[rows].data,
                    self.gradient[rows].data,
                    logits.gradient[rows].data,
                    logits.rows[rows].data,
                    source[rows].data,
                    self._weights_of(run, shares).data,
                    (blocks.key0[rows].data, blocks.key1[rows].data),
                )
            )
        self.leaves = self.direct | {shaped.segment.parameter: shaped.leaf for shaped in self.shaped}
        self.collecting = Collecting()
        self.swap = Swap(model, {**weights, **self.leaves}, forwards(model, self.direct, self.collecting))
        self._checked = False

    def run(self, part: Part, stream: Draw) -> Tensor:
        """Run one part under one sample and keep its gradient; returns its share of the loss."""
        drawn = words(stream, self.logits.device)
        for p in self.passes:
            self.kernel.sample(p.gated, p.source, p.weights, p.keys, drawn, prepared=self.logits.prepared is not None)
        for shaped in self.shaped:
            shaped.fill()
        loss = self._backward(part) if self._checked else self._first_backward(part)
        for shaped in self.shaped:
            shaped.collect(self.kernel.gate, stream)
        if not self.mean:
            for p in self.passes:
                self.kernel.collect(p.total, p.gradient, p.logits, p.weights, p.keys, drawn)
            self.gradient.zero_()
        return loss.to(self.logits.rows)

    def begin(self) -> None:
        """Forget the last step's gradient."""
        self.logits.gradient.zero_()
        for shaped in self.shaped:
            if shaped.total is not None:
                shaped.total.zero_()

    def finish(self) -> None:
        """Bring what the parts have left to the logits' gradient, and add the penalty's."""
        for p in self.passes:
            if self.mean:
                self.kernel.collect_mean(p.gradient, p.logits, p.weights, self.penalty)
            else:
                self.kernel.penalise(p.total, p.logits, self.penalty)
        for shaped in self.shaped:
            if shaped.total is not None:
                self.logits.blocks.own(self.logits.gradient, shaped.span).add_(shaped.total)

    def _place(self, span: Span, weights: Mapping[str, Tensor], gated: Rows) -> Tensor | None:
        """Make the span's leaves; returns the weights to multiply in the rows, None where only gates are drawn there."""
        own_gated, own_gradient = (self.logits.blocks.own(rows, span) for rows in (gated, self.gradient))
        segment, weight = span.segments[0], weights[span.segments[0].parameter]
        if len(span.segments) == 1 and segment.units == segment.weights and _fits(weight, gated):
            leaf = own_gated.view(segment.shape).requires_grad_()
            leaf.grad = own_gradient.view(segment.shape)
            self.direct[segment.parameter] = leaf
            return weight.view(-1)
        for item in span.segments:
            weight = weights[item.parameter]
            leaf = torch.zeros(item.shape, dtype=weight.dtype, device=weight.device).requires_grad_()
            own_logits = self.logits.blocks.own(self.logits.rows, span)
            mean = self.mean and span.units == item.weights  # what a larger unit does to the loss hangs on its own gate
            total = None if mean else torch.zeros_like(own_logits)
            self.shaped.append(
                _Shaped(item, span, weight.reshape(item.view), leaf, own_gated, own_logits, own_gradient, total)
            )
        return None

    def _weights_of(self, run: Run, shares: list[Tensor | None]) -> Rows:
        """What the gates of a run are multiplied with: the parameter itself if it fills whole rows, else a copy."""
        blocks, share = self.logits.blocks, shares[0]
        count = run.rows.stop - run.rows.start
        if len(shares) == 1 and share is not None and share.numel() == count * WIDTH:
            return share.view(count, WIDTH)
        if all(share is None for share in shares):
            return torch.ones(1, 1, dtype=torch.float32, device=blocks.device).expand(count, WIDTH)
        copies = torch.zeros(count, WIDTH, dtype=torch.float32, device=blocks.device)
        for span, share in zip(run.spans, shares, strict=True):
            blocks.own(copies, span, run.rows.start).copy_(torch.ones(()) if share is None else share)
        return copies

    def _first_backward(self, part: Part) -> Tensor:
        """Backward, with a look at which masked parameters it reaches."""
        reached = self.collecting.reached
        hooks = [
            leaf.register_post_accumulate_grad_hook(partial(_note, reached, name)) for name, leaf in self.leaves.items()
        ]
        try:
            loss = self._backward(part)
        finally:
            for hook in hooks:
                hook.remove()
        unused = [name for name in self.leaves if name not in reached]
        if len(unused) == len(self.leaves):
            raise ValueError(
                "the loss does not depend on any masked weight: is the network's output detached, or read from layers "
                "that the layout leaves out? layout.table() says what is masked"
            )
        if unused and self.logits.step == 0:
            warnings.warn(
                f"{len(unused)} of {len(self.leaves)} masked parameters take no part in the loss, first {unused[0]!r}; "
                "their units will be removed. If they should: gradient checkpointing needs use_reentrant=False",
                stacklevel=5,
            )
        self._checked = True
        return loss

    def _backward(self, part: Part) -> Tensor:
        """The part's share of the loss, after backward, with the leaves in place of the network's parameters.

        They are swapped in for the calls that the objective makes, not for the objective as a whole: it may call the
        network itself (a distillation loss does) and then sees it as it is. They are swapped in again for backward,
        since gradient checkpointing runs the network a second time there.
        """

        def network(*args: Any, **kwargs: Any) -> Any:
            with self.swap:
                return self.model(*args, **kwargs)

        with torch.enable_grad():
            device, lower = self.logits.device.type, self.autocast is not None
            with torch.autocast(device, self.autocast) if lower else nullcontext():
                loss = self.objective(network, part.batch)
            _check_loss(loss)
            share = loss * part.share
            with self.swap:
                self.collecting.on = True
                try:
                    share.backward()
                finally:
                    self.collecting.on = False
        return share.detach()


def _note(reached: set[str], name: str, _leaf: Tensor) -> None:
    reached.add(name)


def _fits(weight: Tensor, rows: Rows) -> bool:
    return weight.dtype == rows.dtype and weight.device == rows.device and weight.is_contiguous()


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"an objective returns the mean loss as a scalar tensor, got {got}")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: was it computed under no_grad, or with .item() or .detach()?")
