"""Where the gradients of a gated weight go: to its logits straight away, or to a gradient of the weight first."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from maskscope.core.learning.native import Library, Part

ENOUGH = 512
"""Examples whose shares of a gradient are computed together, where parts are smaller: slopes are then computed once for all,
and the gradient's memory is gone through once."""

WIDE = 256
"""Examples above which torch multiplies, with gates or slopes in a pass of their own: what that pass costs is then spread over so
many that torch's larger choice of tiles counts for more (Transformer d100, 2,048 rows: ours take a quarter more a step)."""


class IntoWeight:
    """Collects d(loss)/d(gated weight), for slopes that are still to come; zero, if nothing came."""

    def __init__(self, gradient: Float32[Tensor, "out in"]) -> None:
        """In place."""
        self.gradient = gradient
        self._begun = False

    def begin(self) -> None:
        """Forget."""
        self._begun = False

    def add_product(self, part: Part) -> None:
        """At once."""
        if self._begun:
            self.gradient.addmm_(part.dy.t(), part.x)
        else:
            torch.mm(part.dy.t(), part.x, out=self.gradient)
            self._begun = True

    def add(self, gradient: Tensor, bits: Tensor) -> None:  # noqa: ARG002 - slopes come later
        """At once."""
        self.finish()
        self.gradient.add_(gradient)

    def settle(self) -> None:
        """Nothing waits."""

    def finish(self) -> None:
        """Zero, if nothing came."""
        if not self._begun:
            self.gradient.zero_()
            self._begun = True


class IntoLogits:
    """Collects d(loss)/d(logit) by the expected slope, over what the penalty gives. No gradient of a weight is written."""

    def __init__(
        self, total: Tensor, weight: Tensor, logits: Tensor, penalty: Float32[Tensor, ""], native: Library
    ) -> None:
        """All in the weight's shape; the penalty may change between steps."""
        self.total = total
        self.weight = weight
        self.logits = logits
        self.penalty = penalty
        self.native = native
        self._begun = False
        self._waiting: list[Part] = []
        self._settled = 0
        """How many of them nobody else can change."""

    def begin(self) -> None:
        """Forget."""
        self._begun = False
        self._waiting.clear()
        self._settled = 0

    def add_product(self, part: Part) -> None:
        """Together with others, where it is small; by torch's product, where it is large."""
        if part.dy.shape[0] > WIDE:
            self.add(part.dy.t() @ part.x, part.bits)
            return
        self._waiting.append(part)
        if sum(part.dy.shape[0] for part in self._waiting) >= ENOUGH:
            self._flush()

    def add(self, gradient: Tensor, bits: Tensor) -> None:
        """At once."""
        self.finish()
        self.native.collect(self.total, gradient.contiguous(), self.weight, self.logits, bits)

    def settle(self) -> None:
        """What waits stays what it is now: a copy of what others hold too (a batch, a buffer), for they may change it.

        To be called when backward is through and its graph is gone: what only the graph held is then held here alone.
        """
        for i in range(self._settled, len(self._waiting)):
            part = self._waiting[i]
            self._waiting[i] = Part(part.dy if part.fresh else _own(part.dy), _own(part.x), part.bits, fresh=True)
        self._settled = len(self._waiting)

    def finish(self) -> None:
        """The penalty's alone, if nothing came."""
        self._flush()
        if not self._begun:
            self.total.fill_(float(self.penalty))
            self._begun = True

    def _flush(self) -> None:
        if self._waiting:
            base = None if self._begun else float(self.penalty)
            self.native.collect_products(self.total, self.weight, self.logits, self._waiting, base)
            self._waiting.clear()
            self._settled = 0
            self._begun = True


_ALONE = 2
"""Holders of a tensor's memory if nobody else has it: the tensor, and the object that is asked for."""


def _own(tensor: Tensor) -> Tensor:
    """The tensor if nobody else has its memory, else a copy."""
    memory = tensor.untyped_storage()
    alone = memory.resizable() and torch._C._storage_Use_Count(memory._cdata) <= _ALONE  # pyright: ignore # numpy's is not resizable
    return tensor if alone else tensor.clone()
