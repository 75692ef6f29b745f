"""Linear layers whose weight gradient is collected where it is wanted, and whose gated weight is not written if it need not be.

Two ways, the same gradients. With a ``GatedWeight`` the product applies the gates itself. Without, torch multiplies the
written weight; its gradient is added in the product, where torch would compute it into fresh memory and then add it to
what is there, and narrow products are turned round: with few rows, W x^T is up to a third faster than x W^T on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from maskscope.core.learning.gated import GatedWeight, WrittenWeight, resolved
from maskscope.core.learning.sinks import WIDE

_NARROW = 64
"""Rows up to which a product is turned round on a CPU (measured with MKL: 32 rows gain a fifth to a third, 128 little)."""


class Collecting:
    """Whether weight gradients are being collected, and which have been.

    Only during a step's own backward pass: an objective that differentiates the network itself must get its gradients.
    """

    def __init__(self) -> None:
        """Off."""
        self.on = False
        self.reached: set[str] = set()

    @property
    def now(self) -> bool:
        """Collect instead of returning a gradient."""
        return self.on and not torch.is_grad_enabled()


def forwards(
    model: nn.Module, weights: Mapping[str, WrittenWeight | GatedWeight], collecting: Collecting
) -> dict[nn.Module, Callable[..., Any]]:
    """Another forward for every linear layer whose weight is one of these.

    Exactly ``nn.Linear``, and, for gated weights, the layer of GPT-2 that holds the transposed matrix.
    """
    owners = owners_of(model)
    found: dict[nn.Module, Callable[..., Any]] = {}
    for module in model.modules():
        turned = _is_turned(module)
        if (type(module) is nn.Linear or turned) and "forward" not in vars(module):
            weight = weights.get(owners.get(id(module.weight), ""))
            if isinstance(weight, GatedWeight):
                found[module] = _GatedForward(module, weight, turned, collecting)
            elif weight is not None and not turned:
                found[module] = _Forward(module, weight, collecting)
    return found


def _is_turned(module: nn.Module) -> bool:
    """GPT-2's linear layer, x W + b with W (in, out); told by name, for transformers is not needed here."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def unseen(model: nn.Module) -> set[str]:
    """Parameters of scripted parts, which read memory without asking the tensors."""
    owners = owners_of(model)
    scripted = (module for module in model.modules() if isinstance(module, torch.jit.ScriptModule))
    return {owners.get(id(parameter), "") for module in scripted for parameter in module.parameters()} - {""}


def owners_of(model: nn.Module) -> dict[int, str]:
    """Which parameter a tensor is, by identity; a weight that is computed is none."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def plain(x: Tensor) -> bool:
    """Whether gradients of products with this input may be collected: nothing else is to be done with them."""
    return (
        x.dtype == torch.float32
        and x.layout == torch.strided
        and not x.is_nested
        and torch.is_grad_enabled()
        and forward_ad._current_level < 0  # pyright: ignore[reportPrivateUsage]
        and not torch.is_autocast_enabled(x.device.type)
        and not torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
    )


def dense(x: Tensor, *shape: int) -> bool:
    """Whether C may read a tensor as what it expects: it looks at nothing but the address. Only the last sizes are given."""
    return x.is_cpu and x.dtype == torch.float32 and x.shape[-len(shape) :] == shape


class _Forward:
    """What ``nn.Linear.forward`` computes."""

    def __init__(self, module: nn.Module, written: WrittenWeight, collecting: Collecting) -> None:
        self.module = module
        self.written = written
        self.collecting = collecting

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        weight, bias = self.module.weight, self.module.bias
        if weight is not self.written.leaf or not plain(input):  # another weight: of a functional call, say
            return functional.linear(input, weight, bias)  # pyright: ignore[reportArgumentType]
        return _Linear.apply(input, weight, bias, self.written, self.collecting)  # pyright: ignore[reportReturnType]


class _GatedForward:
    """The same, of a weight or of its transpose."""

    def __init__(self, module: nn.Module, gated: GatedWeight, turned: bool, collecting: Collecting) -> None:  # noqa: FBT001
        self.module = module
        self.gated = gated
        self.turned = turned
        self.collecting = collecting
        self.outputs, self.inputs = reversed(gated.weight.shape) if turned else gated.weight.shape

    def __call__(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's own name
        gated, bias, input = self.gated, resolved(self.module.bias), resolved(input)  # noqa: A001
        if self.module.weight is not gated.stand_in or gated.changed or not plain(input):
            return self._by_torch(input, bias)
        wide = input.numel() > WIDE * self.inputs
        fits = dense(input, self.inputs) and (bias is None or (dense(bias, self.outputs) and bias.is_contiguous()))
        if not fits or (wide and self.turned):
            return self._by_torch(input, bias)  # where it does not fit, torch says so
        if wide:
            return _Linear.apply(input, gated.looked_at(), bias, gated, self.collecting)  # pyright: ignore[reportReturnType]
        return _GatedLinear.apply(input, gated.leaf, bias, gated, self.turned, self.collecting)  # pyright: ignore[reportReturnType]

    def _by_torch(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """With the weight that the layer has now; a nested input would read the memory of a stand-in."""
        if self.turned:
            return type(self.module).forward(self.module, x)
        return functional.linear(x, resolved(self.module.weight), bias)


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        _leaf: Tensor,
        bias: Tensor | None,
        gated: GatedWeight,
        turned: bool,  # noqa: FBT001
        collecting: Collecting,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        ctx.save_for_backward(x)
        ctx.gated, ctx.turned, ctx.collecting = gated, turned, collecting
        y = gated.backward(rows) if turned else gated.forward(rows, bias)
        if turned and bias is not None:
            y += bias
        return y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (y,), (x,), gated = gradients, ctx.saved_tensors, ctx.gated
        y, rows = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled():  # to be differentiated once more
                weight = gated.looked_at()
                for_x = y @ (weight.t() if ctx.turned else weight)
            else:
                for_x = gated.forward(y.contiguous()) if ctx.turned else gated.backward(y.contiguous())
            for_x = for_x.view(x.shape)
        left, right = (rows, y) if ctx.turned else (y, rows)
        if ctx.collecting.now:
            gated.collect(left, right)
            ctx.collecting.reached.add(gated.name)
        else:
            for_weight = left.t() @ right
        if ctx.needs_input_grad[2]:
            for_bias = y.sum(0)
        return for_x, for_weight, for_bias, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        owner: WrittenWeight | GatedWeight,
        collecting: Collecting,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.owner, ctx.collecting = owner, collecting
        if not _narrow(x):
            return functional.linear(x, weight, bias)
        flat = x.reshape(-1, x.shape[-1]).t()
        turned = weight @ flat if bias is None else torch.addmm(bias.unsqueeze(1), weight, flat)
        return turned.t().contiguous().view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (y,), (x, weight) = gradients, ctx.saved_tensors
        flat = y.reshape(-1, y.shape[-1])
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = (weight.t() @ flat.t()).t().contiguous() if _narrow(y) else flat @ weight
            for_x = for_x.view(x.shape)
        rows = x.reshape(-1, x.shape[-1])
        if ctx.collecting.now:
            ctx.owner.collect(flat, rows)
            ctx.collecting.reached.add(ctx.owner.name)
        else:
            for_weight = flat.t() @ rows
        if ctx.needs_input_grad[2]:
            for_bias = flat.sum(0)
        return for_x, for_weight, for_bias, None, None


def _narrow(x: Tensor) -> bool:
    return x.is_cpu and x.numel() <= _NARROW * x.shape[-1]
