"""LSTM layers with gated weights: all steps of a layer in one call, and each weight's gradient in one product over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskscope.core.learning.gated import GatedWeight, resolved
from maskscope.core.learning.products import Collecting, dense, owners_of, plain

State = tuple[Tensor, Tensor]


def forwards(
    model: nn.Module, gated: Mapping[str, GatedWeight], collecting: Collecting
) -> dict[nn.Module, Callable[..., Any]]:
    """Another forward for every ``nn.LSTM`` all of whose matrices are gated; others stay as they are.

    One direction, no projection, a number of cells that fills vectors.
    """
    owners = owners_of(model)
    found: dict[nn.Module, Callable[..., Any]] = {}
    for module in model.modules():
        if type(module) is not nn.LSTM or "forward" in vars(module) or module.bidirectional or module.proj_size:
            continue
        names = [
            tuple(owners.get(id(getattr(module, f"weight_{kind}_l{i}")), "") for kind in ("ih", "hh"))
            for i in range(module.num_layers)
        ]
        pairs = [(gated[a], gated[b]) for a, b in names if a in gated and b in gated]
        single = all(parameter.dtype == torch.float32 for parameter in module.parameters())  # biases too
        if single and len(pairs) == module.num_layers and module.hidden_size % pairs[0][0].native.lanes == 0:
            found[module] = _Forward(module, pairs, collecting)
    return found


class _Forward:
    """What ``nn.LSTM.forward`` computes."""

    def __init__(self, module: nn.LSTM, pairs: list[tuple[GatedWeight, GatedWeight]], collecting: Collecting) -> None:
        self.module = module
        self.pairs = pairs
        self.collecting = collecting

    def __call__(self, input: Any, hx: State | None = None) -> Any:  # noqa: A002 - nn.LSTM's own name
        module, input = self.module, resolved(input)  # noqa: A001
        hx = (resolved(hx[0]), resolved(hx[1])) if isinstance(hx, tuple) and len(hx) == 2 else hx
        other = module.training and module.dropout > 0
        if other or not self._fits(input, hx) or not plain(input) or not self._own_weights:
            return nn.LSTM.forward(module, input, hx)  # pyright: ignore[reportArgumentType]
        x = input.transpose(0, 1) if module.batch_first else input
        first = x.new_zeros(2, module.num_layers, x.shape[1], module.hidden_size) if hx is None else hx
        hidden, cells = list[Tensor](), list[Tensor]()
        for layer, (inner, outer) in enumerate(self.pairs):
            names = (f"{name}_l{layer}" for name in ("bias_ih", "bias_hh"))
            biases = (resolved(getattr(module, name)) for name in names) if module.bias else ()
            x, h, c = _Layer.apply(  # pyright: ignore[reportGeneralTypeIssues]
                x, first[0][layer], first[1][layer], inner.leaf, outer.leaf, inner, outer, self.collecting, *biases
            )
            hidden.append(h)
            cells.append(c)
        y = x.transpose(0, 1) if module.batch_first else x
        return y, (torch.stack(hidden), torch.stack(cells))

    @property
    def _own_weights(self) -> bool:
        """Whether the layer has the weights of this step: not those of a functional call, nor any that were written into."""
        return all(
            getattr(self.module, f"weight_{kind}_l{i}") is gated.stand_in and not gated.changed
            for i, pair in enumerate(self.pairs)
            for kind, gated in zip(("ih", "hh"), pair, strict=True)
        )

    def _fits(self, x: Any, hx: State | None) -> bool:
        """Whether it is a batch of sequences, dense and of the right sizes; where it is not, torch knows it or says so."""
        module = self.module
        if not isinstance(x, Tensor) or x.ndim != 3 or not x.numel() or not dense(x, module.input_size):
            return False
        rows = x.shape[0 if module.batch_first else 1]
        return hx is None or all(dense(state, module.num_layers, rows, module.hidden_size) for state in hx)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        _leaf_inner: Tensor,
        leaf_outer: Tensor,
        inner: GatedWeight,
        outer: GatedWeight,
        collecting: Collecting,
        *biases: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, rows, _ = x.shape
        bias = sum(biases[1:], biases[0]) if biases else None
        gates = inner.forward(x.reshape(steps * rows, -1), bias).view(steps, rows, -1)
        hidden, cells = (x.new_empty(steps + 1, rows, leaf_outer.shape[1]) for _ in range(2))
        hidden[0], cells[0] = h, c
        outer.native.lstm_forward(gates, hidden, cells, outer.weight, outer.bits)
        ctx.save_for_backward(x, h, c, gates, hidden, cells, *biases)
        ctx.inner, ctx.outer, ctx.collecting = inner, outer, collecting
        return hidden[1:].clone(), hidden[-1].clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _again(ctx, gradients)
        x, _, _, gates, hidden, cells, *biases = ctx.saved_tensors
        inner, outer = ctx.inner, ctx.outer
        y, h, c = (gradient.contiguous() for gradient in gradients)
        h, c = h.clone(), c.clone()
        slopes = outer.native.lstm_backward(gates, cells, y, (h, c), outer.weight, outer.bits)
        flat = slopes.view(-1, slopes.shape[-1])
        for_x = inner.backward(flat).view(x.shape) if ctx.needs_input_grad[0] else None
        rows = (x.reshape(flat.shape[0], -1), hidden[:-1].reshape(flat.shape[0], -1))
        for_weights = list[Tensor | None]()
        for weight, side in zip((inner, outer), rows, strict=True):
            if ctx.collecting.now:
                weight.collect(flat, side, fresh=True)
                ctx.collecting.reached.add(weight.name)
            for_weights.append(None if ctx.collecting.now else flat.t() @ side)
        for_bias = flat.sum(0) if any(ctx.needs_input_grad[8:]) else None
        return for_x, h, c, *for_weights, None, None, None, *(for_bias for _ in biases)


def _again(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated once more: by torch, from the inputs."""
    *first, _, _, _ = ctx.saved_tensors[:6]
    biases = ctx.saved_tensors[6:]
    weights = [ctx.inner.looked_at(), ctx.outer.looked_at()]
    with torch.enable_grad():
        inputs = [tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in first]
        states = [state.unsqueeze(0) for state in inputs[1:]]
        one_layer = (bool(biases), 1, 0.0, False, False, False)
        y, h, c = torch._VF.lstm(inputs[0], states, [*weights, *biases], *one_layer)  # pyright: ignore
        wanted = inputs + weights + [bias for bias in biases if bias.requires_grad]
        found = list(torch.autograd.grad((y, h[0], c[0]), wanted, gradients, create_graph=True, allow_unused=True))
    slopes = found[5:]
    return *found[:5], None, None, None, *(slopes.pop(0) if bias.requires_grad else None for bias in biases)
