"""A weight whose gates are bits: multiplied without being written, unless somebody looks at it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils._pytree import tree_map_only

from maskscope.core.learning.native import Library

ENOUGH = 128
"""Examples whose share of a gradient is computed in one product, where parts are smaller: the whole of a usual batch.
Products over fewer are slower, and each goes through the gradient's memory once."""


class GatedWeight:
    """A matrix under the samples of one step after another, and the place where its gradient is collected.

    Args:
        name: The parameter's.
        weight: The network's own, detached.
        bits: Its gates, for each sample of a step.
        gradient: Where d(loss)/d(gated weight) is collected.
        native: The products.
    """

    def __init__(
        self,
        name: str,
        weight: Float32[Tensor, "out in"],
        bits: list[Int64[Tensor, " words"]],
        gradient: Float32[Tensor, "out in"],
        native: Library,
    ) -> None:
        """Nothing is drawn, nothing collected."""
        self.name = name
        self.weight = weight
        self.gradient = gradient
        self.native = native
        self.leaf = weight.detach().requires_grad_()
        """What stands for it in the graph; holds the gated weight once it was looked at."""
        self.leaf.grad = gradient
        self.stand_in = StandIn.of(self)
        """What the network sees in its place."""
        self._bits = bits
        self._sample = 0
        self._written: Tensor | None = None
        self._shown = False
        self._begun = False
        self._waiting: list[tuple[Tensor, Tensor]] = []

    @property
    def bits(self) -> Int64[Tensor, " words"]:
        """The gates of the sample shown."""
        return self._bits[self._sample]

    def show(self, sample: int) -> None:
        """From now on, this sample of the step."""
        self._sample, self._shown = sample, False

    def forward(self, x: Float32[Tensor, "rows in"], bias: Tensor | None = None) -> Float32[Tensor, "rows out"]:
        """X times the gated weight's transpose, plus a bias."""
        return self.native.forward(x, self.weight, self.bits, bias)

    def backward(self, dy: Float32[Tensor, "rows out"]) -> Float32[Tensor, "rows in"]:
        """Dy times the gated weight."""
        return self.native.backward(dy, self.weight, self.bits)

    def looked_at(self) -> Tensor:
        """The gated weight itself, for whatever is not one of these products; autograd collects its gradient."""
        self._clear()
        if self._written is None:
            self._written = torch.empty_like(self.weight)
            self.leaf.data = self._written
        if not self._shown:
            self.native.gate(self._written, self.weight, self.bits)
            self._shown = True
        return self.leaf

    def begin(self) -> None:
        """Forget the gradient; what comes first need not be added to it."""
        self._begun = False

    def collect(self, dy: Float32[Tensor, "rows out"], x: Float32[Tensor, "rows in"]) -> None:
        """Add dy^T x to the gradient, at once or with what else comes."""
        self._waiting.append((dy.detach(), x.detach()))
        if sum(rows.shape[0] for rows, _ in self._waiting) >= ENOUGH:
            self._add()

    def finish(self) -> None:
        """Nothing waits any more; zero, if nothing came."""
        self._add()
        self._clear()

    def _add(self) -> None:
        if not self._waiting:
            return
        dy, x = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        if self._begun:
            self.gradient.addmm_(dy.t(), x)
        else:
            torch.mm(dy.t(), x, out=self.gradient)
            self._begun = True

    def _clear(self) -> None:
        if not self._begun:
            self.gradient.zero_()
            self._begun = True


class StandIn(Tensor):
    """Looks like a gated weight, and is replaced by it as soon as anything is computed with it.

    So a layer whose product is not known here, a tied embedding or a model's own arithmetic, needs no porting.
    """

    owner: weakref.ref[GatedWeight]

    @staticmethod
    def of(gated: GatedWeight) -> StandIn:
        """Over the memory of the network's weight, of which only shape, type and device are seen."""
        made = Tensor._make_subclass(StandIn, gated.weight, True)  # noqa: FBT003 # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
        made.owner = weakref.ref(gated)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Properties of the stand-in, everything else of the gated weight."""
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
            if func not in _SEEN:
                args, kwargs = tree_map_only(StandIn, _gated, (args, kwargs))
            return func(*args, **(kwargs or {}))


_SEEN = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "requires_grad", "ndim", "is_cuda", "is_leaf")
}
"""What may be asked without computing the gated weight."""


def _gated(stand_in: StandIn) -> Tensor:
    owner = stand_in.owner()
    if owner is None:
        raise RuntimeError("a weight of a step of learning was used after that step; keep a copy, not the weight")
    return owner.looked_at()
