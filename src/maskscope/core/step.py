"""One part of a step: run it under one sample of the mask, and bring the gradient back to the logits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maskscope.core.apply import call_with, forget_replaced
from maskscope.core.batches import Part
from maskscope.core.kernels import Kernel
from maskscope.core.logits import Logits
from maskscope.core.modes import evaluating
from maskscope.core.noise import Draw
from maskscope.core.objectives import Objective


def descent(
    model: nn.Module,
    objective: Objective,
    part: Part,
    *,
    weights: Mapping[str, Tensor],
    logits: Logits,
    kernel: Kernel,
    noise: Sequence[Draw],
) -> Tensor:
    """Run one part under one sample and add its share of d(loss)/d(logit) to the gradient; returns its share of the loss.

    The gated weights are leaves of the graph: backward ends there. With g their gradient, a logit gets the sum of
    g * weight over its unit's weights, times the gate's slope.
    """
    values = logits.values.detach()
    leaves: dict[str, Tensor] = {}
    for span, stream_key in zip(logits.layout.spans, noise, strict=True):
        gates = kernel.sample(span.own(values), stream_key)
        for segment in span.segments:
            leaves[segment.parameter] = segment.gated(weights[segment.parameter], gates).requires_grad_()
    loss = _backward(model, {**weights, **leaves}, objective, part)
    unused = [name for name, leaf in leaves.items() if leaf.grad is None]
    if len(unused) == len(leaves):
        raise ValueError(
            "the loss does not depend on any masked weight: is the network's output detached, or read from layers that "
            "the layout leaves out? layout.table() says what is masked"
        )
    if unused and logits.step == 0 and part.sample == 0:
        warnings.warn(
            f"{len(unused)} of {len(leaves)} masked parameters take no part in the loss, first {unused[0]!r}; their units "
            "will be removed. If they should: gradient checkpointing needs use_reentrant=False",
            stacklevel=4,
        )
    for span, stream_key in zip(logits.layout.spans, noise, strict=True):
        grads = [(segment, leaves[segment.parameter].grad) for segment in span.segments]
        per_unit = [
            segment.collected((grad.to_dense() if grad.is_sparse else grad) * weights[segment.parameter])
            for segment, grad in grads
            if grad is not None
        ]
        if per_unit:
            total = torch.stack([unit.to(values) for unit in per_unit]).sum(0) if len(per_unit) > 1 else per_unit[0]
            span.own(logits.grad).add_(kernel.slope(span.own(values), stream_key).mul_(total.to(values)))
    return loss.to(values)


def _backward(model: nn.Module, tensors: Mapping[str, Tensor], objective: Objective, part: Part) -> Tensor:
    """The part's share of the loss, after backward, with other tensors in place of the network's parameters.

    They are swapped in for the calls that the objective makes, not for the objective as a whole: it may call the
    network itself (a distillation loss does) and then sees it as it is. They are swapped in again for backward, since
    gradient checkpointing runs the network a second time there.
    """

    def network(*args: Any, **kwargs: Any) -> Any:
        return call_with(model, tensors, *args, **kwargs)

    with evaluating(model), torch.enable_grad():
        loss = objective(network, part.batch)
        _check_loss(loss)
        share = loss * part.share
        swapped = _Swapped(model)
        swapped.training = model.training
        try:
            functional_call(swapped, {f"model.{name}": tensor for name, tensor in tensors.items()}, (share,))
        finally:
            forget_replaced(model)
    return share.detach()


class _Swapped(nn.Module):
    """Runs backward from inside ``functional_call`` on a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Tensor) -> None:
        loss.backward()


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"an objective returns the mean loss as a scalar tensor, got {got}")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: was it computed under no_grad, or with .item() or .detach()?")
