# pyright: basic, reportArgumentType=false
"""The fused gate as a Triton kernel, for CUDA: noise, comparison and product in one launch, without the compiler's guards.

The same integers as ``noise.uniform``; a gate may differ from the CPU's only where u lies within 2 units in the last
place of the threshold, since the exponentials differ in their last bits.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from maskscope.core.learning.blocks import WIDTH, Rows
from maskscope.core.noise import BITS, COUNTER, MIX1, MIX2, MIX3

_ROWS = 16
"""Rows per program: 1,024 units."""

_COUNTER, _MIX1, _MIX2, _MIX3 = (tl.constexpr(word) for word in (COUNTER, MIX1, MIX2, MIX3))
_WIDTH, _SHIFT, _MASK = tl.constexpr(WIDTH), tl.constexpr(32 - BITS), tl.constexpr((1 << BITS) - 1)
_SCALE = tl.constexpr(2.0**-BITS)


@triton.jit
def _sample(out, source, weights, key0, key1, stream, rows, stride, ROWS: tl.constexpr, LOGITS: tl.constexpr):  # noqa: ANN001, ANN202, N803 # pyright: ignore
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    unit = tl.arange(0, _WIDTH)
    place = row[:, None].to(tl.int64) * _WIDTH + unit[None, :]
    first = (tl.load(key0 + row, mask=row < rows, other=0) + tl.load(stream))[:, None]
    second = (tl.load(key1 + row, mask=row < rows, other=0) ^ tl.load(stream + 1))[:, None]
    word = unit[None, :] * _COUNTER + first
    word = (word ^ ((word >> 17) & 0x7FFF)) * _MIX1
    word = word ^ ((word >> 11) & 0x1FFFFF) ^ second
    word = word * _MIX2
    word = (word ^ ((word >> 15) & 0x1FFFF)) * _MIX3
    word = word ^ ((word >> 14) & 0x3FFFF)
    number = (((word >> _SHIFT) & _MASK) + tl.load(stream + 2)) & _MASK
    uniform = (number.to(tl.float32) + 0.5) * _SCALE
    threshold = tl.load(source + place, mask=inside, other=0.0)
    if LOGITS:
        threshold = 1 / (1 + tl.exp(threshold))
    weight = tl.load(weights + place * stride, mask=inside, other=0.0)
    tl.store(out + place, tl.where(uniform > threshold, weight, weight * 0.0), mask=inside)


def sample(
    out: Rows, source: Rows, weights: Rows, keys: tuple[Tensor, Tensor], stream: Tensor, *, logits: bool
) -> None:
    """Weights times Gumbel-sigmoid gates, in place.

    Args:
        out: What is written.
        source: Prepared logits, or (``logits``) the logits themselves.
        weights: What the gates are multiplied with; a single number may be broadcast.
        keys: The rows' noise keys.
        stream: The sample's key words and rotation.
        logits: What ``source`` holds.
    """
    rows = out.shape[0]
    stride = 0 if weights.stride() == (0, 0) else 1
    grid = (triton.cdiv(rows, _ROWS),)
    _sample[grid](out, source, weights, *keys, stream, rows, stride, ROWS=_ROWS, LOGITS=logits)
