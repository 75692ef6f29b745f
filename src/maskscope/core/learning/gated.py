"""A masked weight in a step: with gates as bits, multiplied without being written unless somebody looks; or written."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils._pytree import tree_map_only

from maskscope.core.learning.native import Library, Part
from maskscope.core.learning.sinks import IntoLogits, IntoWeight


class WrittenWeight:
    """A leaf that holds a gated weight, written into it; its gradient is collected in place, or used at once.

    Args:
        name: The parameter's.
        leaf: The gated weight.
    """

    def __init__(self, name: str, leaf: Tensor) -> None:
        """Gradients are kept in ``leaf.grad``, which is there."""
        self.name = name
        self.leaf = leaf
        self._use: Callable[[Tensor], None] | None = None

    def use_at_once(self, use: Callable[[Tensor], None]) -> None:
        """From now on gradients are used as soon as they are there, and not kept."""
        self._use = use
        _use_at_once(self.leaf, self._used)

    def collect(self, dy: Float32[Tensor, "rows out"], x: Float32[Tensor, "rows in"]) -> None:
        """Dy^T x is part of its gradient."""
        if self.leaf.grad is not None:
            self.leaf.grad.addmm_(dy.t(), x)
        else:
            self._used(dy.t() @ x)

    def _used(self, gradient: Tensor) -> None:
        if self._use is not None:
            self._use(gradient)


def _use_at_once(leaf: Tensor, use: Callable[[Tensor], None]) -> None:
    """Have a leaf's gradient used as soon as autograd has it, and not kept. ``use`` is a method; its object is not kept."""
    weakly = weakref.WeakMethod(use)

    def hook(leaf: Tensor) -> None:
        with itself():
            found, leaf.grad = leaf.grad, None
        use = weakly()  # no circle: what autograd holds, the collector of garbage does not see
        if found is not None and use is not None:
            use(found.to_dense() if found.is_sparse else found)

    with itself():
        leaf.grad = None
        leaf.register_post_accumulate_grad_hook(hook)


class GatedWeight:
    """A matrix under the samples of one step after another.

    Args:
        name: The parameter's.
        weight: The network's own, detached.
        bits: Its gates, for each sample of a step.
        sink: Where its gradient goes.
        native: The products.
    """

    def __init__(
        self,
        name: str,
        weight: Float32[Tensor, "out in"],
        bits: list[Int64[Tensor, " words"]],
        sink: IntoWeight | IntoLogits,
        native: Library,
    ) -> None:
        """Nothing is drawn, nothing collected."""
        self.name = name
        self.weight = weight
        self.sink = sink
        self.native = native
        self.leaf = weight.detach().requires_grad_()
        """What stands for it in the graph; holds the gated weight once it was looked at."""
        _use_at_once(self.leaf, self._used)
        self.stand_in = StandIn.of(self)
        """What the network sees in its place."""
        _use_at_once(self.stand_in, self._used)  # of functions that autograd is given the stand-in by
        self._bits = bits
        self._sample = 0
        self._written: Tensor | None = None
        self._shown = False
        self._version = 0

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

    @property
    def changed(self) -> bool:
        """Whether the network has written into it under this sample, so that it is no longer weight times gates."""
        return self._shown and self.leaf._version != self._version

    def collect(self, dy: Float32[Tensor, "rows out"], x: Float32[Tensor, "rows in"], *, fresh: bool = False) -> None:
        """Dy^T x is part of its gradient."""
        self.sink.add_product(Part(dy.detach(), x.detach(), self.bits, fresh))

    def looked_at(self) -> Tensor:
        """The gated weight itself, for whatever is not one of these products; autograd collects its gradient."""
        if self._written is None:
            with torch._C._DisableFuncTorch():  # pyright: ignore[reportPrivateUsage] # or it would be gone with the transform
                self._written = torch.empty_like(self.weight)
                self.leaf.data = self._written
        if not self._shown:
            self.native.gate(self._written, self.weight, self.bits)
            self._shown, self._version = True, self.leaf._version
        return self.leaf

    def _used(self, gradient: Tensor) -> None:
        self.sink.add(gradient, self.bits)


class StandIn(Tensor):
    """Looks like a gated weight, and is replaced by it as soon as anything is computed with it.

    So a layer whose product is not known here, a tied embedding or a model's own arithmetic, needs no porting.
    """

    owner: weakref.ref[GatedWeight]

    @staticmethod
    def of(gated: GatedWeight) -> StandIn:
        """Of a weight's shape, type and device. Whatever reads its memory without asking reads NaN, which is seen, not other weights."""
        nowhere = gated.weight.new_full((), torch.nan).expand(gated.weight.shape)
        made = Tensor._make_subclass(StandIn, nowhere, True)  # noqa: FBT003 # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
        made.owner = weakref.ref(gated)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Properties of the stand-in, everything else of the gated weight."""
        with itself():
            if func not in _SEEN:
                args, kwargs = tree_map_only(StandIn, _gated, (args, kwargs))
            return func(*args, **(kwargs or {}))


itself = torch._C.DisableTorchFunctionSubclass  # pyright: ignore[reportPrivateUsage]
"""Within it a stand-in is what it is, not what it stands for."""

_SEEN = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "requires_grad", "ndim", "is_cuda", "is_leaf")
}
"""What may be asked without computing the gated weight."""


def resolved(tensor: Any) -> Any:
    """The gated weight in place of its stand-in, for functions that autograd calls without asking it; anything else as it is."""
    return _gated(tensor) if isinstance(tensor, StandIn) else tensor


def _gated(stand_in: StandIn) -> Tensor:
    owner = stand_in.owner()
    if owner is None:
        raise RuntimeError("a weight of a step of learning was used after that step; keep a copy, not the weight")
    return owner.looked_at()
