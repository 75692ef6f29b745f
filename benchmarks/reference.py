"""The published estimator, written plainly from its description: what a masked step costs without any of our work.

Two uniforms and three logarithms a weight and sample; K gated copies of every weight; batched products and grouped
convolutions, one group per sample, with layers ported by hand; the penalty in a backward pass of its own; Adam, not
fused. Networks from elsewhere (BERT, GPT-2), which cannot be ported by hand, run K times with naive samples.

Source: Csordas et al. 2021, section 2 and appendix; what their code does, in our words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from networks import Case, attention
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Weights = Mapping[str, Tensor]
"""By parameter name: (K, *shape) where masked, (*shape) where not."""


def sample(logits: Tensor) -> Tensor:
    """A straight-through sample of a parameter's mask."""
    first, second = torch.rand_like(logits), torch.rand_like(logits)
    noise = -(torch.log(second + 1e-10) / torch.log(first + 1e-10) + 1e-10).log()
    soft = torch.sigmoid(logits + noise)
    return (soft > 0.5).float() - soft.detach() + soft


def samples(logits: Tensor, copies: int) -> Tensor:
    """K of them, (K, *shape)."""
    return torch.stack([sample(logits) for _ in range(copies)])


class Reference:
    """Learns a mask step by step on a case."""

    def __init__(self, case: Case, samples: int, penalty: float = 4e-4 / 128, learning_rate: float = 1e-2) -> None:
        self.case = case
        self.samples = samples
        self.penalty = penalty
        self.weights = {name: weight.detach() for name, weight in case.model.named_parameters()}
        self.logits = {name: nn.Parameter(torch.full_like(self.weights[name], 2.0)) for name in case.layout.names}
        self.adam = torch.optim.Adam(self.logits.values(), lr=learning_rate, foreach=False, fused=False)

    def step(self) -> float:
        """One step on the case's batch."""
        self.adam.zero_grad()
        ported = PORTED.get(self.case.name.split(" ")[0])
        if ported is None:
            loss = torch.stack([self._pass(part) for part in range(self.samples)]).mean()
        else:
            gated = {name: self.weights[name] * samples(logit, self.samples) for name, logit in self.logits.items()}
            loss = ported({**self.weights, **gated}, self.case.batch, self.samples)
        loss.backward()
        (self.penalty * torch.stack([logit.sum() for logit in self.logits.values()]).sum()).backward()
        nn.utils.clip_grad_norm_(self.logits.values(), 1.0)
        self.adam.step()
        return float(loss.detach())

    def _pass(self, part: int) -> Tensor:
        gated = {name: self.weights[name] * sample(logit) for name, logit in self.logits.items()}
        batch = {name: tensor.chunk(self.samples)[part] for name, tensor in self.case.batch.items()}
        return functional_call(self.case.model, {**self.weights, **gated}, (), batch).loss


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X (K, ..., in) times weight (K, out, in)."""
    y = torch.bmm(x.flatten(1, -2), weight.transpose(1, 2)).unflatten(1, x.shape[1:-1])
    return y if bias is None else y + bias


def _fnn(weights: Weights, batch: Any, copies: int) -> Tensor:
    inputs, labels = batch
    x = inputs.view(copies, -1, inputs.shape[-1])
    for layer in range(5):
        x = _linear(x, weights[f"layers.{layer}.weight"], weights[f"layers.{layer}.bias"])
        x = x.relu() if layer < 4 else x
    return functional.cross_entropy(x.flatten(0, 1), labels)


def _lstm(weights: Weights, batch: Any, copies: int) -> Tensor:
    inputs, labels = batch
    steps = list(inputs.view(copies, -1, *inputs.shape[1:]).unbind(2))
    for layer in range(2):
        w_ih, w_hh, bias = (weights[f"lstm.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih"))
        hidden = cell = inputs.new_zeros(copies, steps[0].shape[1], w_hh.shape[-1])
        for i, x in enumerate(steps):
            into, forget, new, out = (_linear(x, w_ih) + _linear(hidden, w_hh) + bias).chunk(4, -1)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            steps[i] = hidden
    return functional.cross_entropy(
        _linear(steps[-1], weights["output.weight"], weights["output.bias"]).flatten(0, 1), labels
    )


def _cnn(weights: Weights, batch: Any, copies: int) -> Tensor:
    images, labels = batch
    x = images.view(copies, -1, *images.shape[1:]).transpose(0, 1).flatten(1, 2)  # each image's group: its sample
    for layer in range(4):
        kernel = weights[f"convs.{layer}.weight"].flatten(0, 1)
        bias = weights[f"convs.{layer}.bias"].flatten(0, 1)
        x = functional.conv2d(x, kernel, bias, padding=1, groups=copies).relu()
        x = functional.max_pool2d(x, 2) if layer < 3 else x
    x = x.mean((2, 3)).unflatten(1, (copies, -1)).transpose(0, 1)
    logits = _linear(x, weights["output.weight"], weights["output.bias"].unsqueeze(1))
    return functional.cross_entropy(logits.flatten(0, 1), labels)


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    x = functional.layer_norm(x, x.shape[-1:])
    gain, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return x * gain[:, None, None] + shift[:, None, None]


def _attend(x: Tensor, memory: Tensor, weights: Weights, name: str, *, causal: bool = False) -> Tensor:
    q, k, v = (
        _linear(s, weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])
        .unflatten(-1, (4, -1))
        .transpose(2, 3)
        for s, part in ((x, "q"), (memory, "k"), (memory, "v"))
    )
    return _linear(
        attention(q, k, v, causal=causal).transpose(2, 3).flatten(-2),
        weights[f"{name}.output.weight"],
        weights[f"{name}.output.bias"],
    )


def _feed(x: Tensor, weights: Weights, name: str) -> Tensor:
    x = _linear(x, weights[f"{name}.linear1.weight"], weights[f"{name}.linear1.bias"]).relu()
    return _linear(x, weights[f"{name}.linear2.weight"], weights[f"{name}.linear2.bias"])


def _transformer(weights: Weights, batch: Any, copies: int) -> Tensor:
    source, target, labels = batch
    table = weights["embedding.weight"]
    x, y = (table[tokens.view(copies, -1, tokens.shape[1])] for tokens in (source, target))
    for layer in range(3):
        name = f"encoder.{layer}"
        x = _norm(x + _attend(x, x, weights, f"{name}.attention"), weights, f"{name}.norm1")
        x = _norm(x + _feed(x, weights, name), weights, f"{name}.norm2")
    for layer in range(3):
        name = f"decoder.{layer}"
        y = _norm(y + _attend(y, y, weights, f"{name}.attention", causal=True), weights, f"{name}.norm1")
        y = _norm(y + _attend(y, x, weights, f"{name}.cross"), weights, f"{name}.norm3")
        y = _norm(y + _feed(y, weights, name), weights, f"{name}.norm2")
    return functional.cross_entropy(
        _linear(y, weights["output.weight"], weights["output.bias"]).flatten(0, 2), labels.flatten()
    )


PORTED: Mapping[str, Callable[[Weights, Any, int], Tensor]] = {
    "FNN": _fnn,
    "LSTM": _lstm,
    "CNN": _cnn,
    "Transformer": _transformer,
}
"""Layers ported by hand, by the first word of a case's name."""
