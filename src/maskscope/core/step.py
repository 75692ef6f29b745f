"""One part of a step: run it under one sample of the mask, and bring the gradient back to the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maskscope.core.apply import forget_replaced
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
    if all(leaf.grad is None for leaf in leaves.values()):
        raise ValueError(
            "the loss does not depend on any masked weight: is the network's output detached, or read from layers that "
            "the layout leaves out? layout.table() says what is masked"
        )
    for span, stream_key in zip(logits.layout.spans, noise, strict=True):
        grads = [(segment, leaves[segment.parameter].grad) for segment in span.segments]
        per_unit = [segment.collected(grad * weights[segment.parameter]) for segment, grad in grads if grad is not None]
        if per_unit:
            total = torch.stack([unit.to(values) for unit in per_unit]).sum(0) if len(per_unit) > 1 else per_unit[0]
            span.own(logits.grad).add_(kernel.slope(span.own(values), stream_key).mul_(total.to(values)))
    return loss.to(values)


class _Swapped(nn.Module):
    """Runs a function on a network from inside ``functional_call``.

    So the tensors stay swapped in until backward is done: gradient checkpointing runs the network again in backward,
    and after ``functional_call`` has returned it would silently see the original weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[nn.Module], Tensor]) -> Tensor:
        return run(self.model)


def _backward(model: nn.Module, tensors: Mapping[str, Tensor], objective: Objective, part: Part) -> Tensor:
    """The part's share of the loss, after backward, with other tensors in place of the network's parameters."""

    def run(network: nn.Module) -> Tensor:
        with evaluating(network), torch.enable_grad():
            loss = objective(network, part.batch)
            _check_loss(loss)
            share = loss * part.share
            share.backward()
            return share.detach()

    swapped = _Swapped(model)
    swapped.training = model.training
    try:
        return functional_call(swapped, {f"model.{name}": tensor for name, tensor in tensors.items()}, (run,))
    finally:
        forget_replaced(model)


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"an objective returns the mean loss as a scalar tensor, got {got}")
    if not loss.requires_grad:
        raise ValueError("the loss has no gradient: was it computed under no_grad, or with .item() or .detach()?")
