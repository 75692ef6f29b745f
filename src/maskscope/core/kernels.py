"""Noise and gate as one fused pass over the logits; compiled where it pays, with identical bits either way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor

from maskscope.core.gates import Gate
from maskscope.core.noise import Draw, uniform

Mode = Literal["auto", "compiled", "eager"]

BLOCK = 1 << 15
"""Units per eager block: the dozen temporaries stay in the second-level cache, and torch does not cut it among threads
(a cut off the vector's border gives other last bits there)."""

VECTOR = 64
"""The compiled kernel gets a multiple of this many units; the compiler's scalar tail loop uses another exp than its
vector loop (last bit differs), so the remainder always runs eagerly."""

_SAVED_PER_UNIT = 1.6e-8
"""Seconds the compiled pass saves per unit, sample and step (sample and slope, measured on 2 cores)."""
_COMPILE_SECONDS = 15.0
"""What compiling costs at the first use on a machine; later processes read it from torch's cache in about 3 s."""

_Pass = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Kernel:
    """A gate's ``sample`` and ``slope`` with their noise, over a run of units.

    Args:
        gate: The gate.
        mode: ``compiled``, ``eager``, or ``auto``: compiled if the work to come is worth it.
        work: Units times samples times steps to come; used by ``auto``.

    Examples:
        >>> from maskscope.core.gates import GumbelSigmoid
        >>> from maskscope.core.noise import draw
        >>> Kernel(GumbelSigmoid()).sample(torch.zeros(4), draw(0, 0, 0, "weight"))
        tensor([0., 0., 1., 0.])
    """

    def __init__(self, gate: Gate, mode: Mode = "auto", work: float = 0.0) -> None:
        """Compile nothing yet; the first call does."""
        self.gate = gate
        worth_it = work * _SAVED_PER_UNIT > _COMPILE_SECONDS
        self.compiled = mode == "compiled" or (mode == "auto" and worth_it)
        self._passes: dict[str, _Pass] = {}

    def sample(self, logits: Float32[Tensor, " units"], stream: Draw) -> Float32[Tensor, " units"]:
        """Gate values of a run of units."""
        return self._run("sample", self.gate.sample, logits, stream)

    def slope(self, logits: Float32[Tensor, " units"], stream: Draw) -> Float32[Tensor, " units"]:
        """Derivatives of the same sample; the noise is drawn again, not stored."""
        return self._run("slope", self.gate.slope, logits, stream)

    def _run(self, which: str, function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, stream: Draw) -> Tensor:
        count, done = logits.shape[0], 0
        pieces: list[Tensor] = []
        if self.compiled and count >= VECTOR:
            whole = count - count % VECTOR
            piece = self._compiled_or_none(which, function, logits[:whole], stream)
            if piece is not None:
                pieces, done = [piece], whole
        for start in range(done, count, BLOCK):
            stop = min(start + BLOCK, count)
            index = torch.arange(start, stop, dtype=torch.int32, device=logits.device)
            pieces.append(function(logits[start:stop], uniform(index, *stream)))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _compiled_or_none(
        self, which: str, function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, stream: Draw
    ) -> Tensor | None:
        """The compiled pass; where the compiler fails, None, one warning, and eager from then on."""
        words = [torch.tensor(word, dtype=torch.int32, device=logits.device) for word in stream]
        try:
            return self._fused(which, function)(logits, words[0], words[1], words[2])
        except Exception as error:
            warnings.warn(
                f"torch.compile does not work here ({type(error).__name__}); going on without it: the same masks, the "
                "gate about 7 times slower. A C++ compiler (g++ or clang) would help.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.compiled = False
            return None

    def _fused(self, which: str, function: Callable[[Tensor, Tensor], Tensor]) -> _Pass:
        if which not in self._passes:

            def whole(logits: Tensor, key0: Tensor, key1: Tensor, rotation: Tensor) -> Tensor:
                index = torch.arange(logits.shape[0], dtype=torch.int32, device=logits.device)
                return function(logits, uniform(index, key0, key1, rotation))

            self._passes[which] = torch.compile(whole, dynamic=True)
        return self._passes[which]
