"""Uniform noise as a pure function of (seed, step, sample, parameter, unit).

A counter-based generator in 32-bit integer arithmetic instead of torch's serial stream. So a run resumes bit for bit,
another selection leaves the draws of the other parameters alone, samples can be computed in any order or place, and
backward draws the same numbers again instead of storing them.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

BITS = 23
"""(n + 1/2) / 2^24 would round to 1 in float32 for the largest n; with 23 bits it is exact and inside (0, 1)."""


def _signed(word: int) -> int:
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word


# Odd multipliers and shifts of a well-mixing 32-bit permutation ("triple32" of the public hash-prospector search),
# preceded by a golden-ratio counter. The second key enters in the middle: without it two streams would be shifted
# copies of each other.
_COUNTER, _MIX1, _MIX2, _MIX3 = (_signed(word) for word in (0x9E3779B1, 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB))


class Draw(NamedTuple):
    """One stream of numbers: two key words, and a rotation that places the sample in its stratum."""

    key0: int
    key1: int
    rotation: int


def draw(seed: int, step: int, sample: int, name: str, *, strata: int | None = None) -> Draw:
    """The stream of one sample of one parameter at one step.

    Args:
        seed: The mask's seed.
        step: The optimisation step, from 0.
        sample: Which of the step's samples, from 0.
        name: The parameter's name.
        strata: With K strata the samples of a step share one draw u and use frac(u + k/K): each alone is exactly
            uniform, together they cover (0, 1) evenly. None: independent samples.

    Example:
        >>> draw(0, 0, 1, "weight", strata=4).rotation == 2**23 // 4
        True
    """
    stream = 0 if strata else sample
    packed = struct.pack("<qqq", seed, step, stream) + name.encode()
    key0, key1 = struct.unpack("<ii", hashlib.blake2b(packed, digest_size=8).digest())
    return Draw(key0, key1, (sample << BITS) // strata if strata else 0)


def uniform(
    index: Int32[Tensor, " units"], key0: int | Tensor, key1: int | Tensor, rotation: int | Tensor
) -> Float32[Tensor, " units"]:
    """Uniform numbers strictly inside (0, 1), one per unit index, on a grid of 2^-23.

    Example:
        >>> uniform(torch.arange(3, dtype=torch.int32), *draw(0, 0, 0, "weight"))
        tensor([0.2881, 0.3045, 0.7405])
    """
    # Right shifts of signed words drag the sign in; the masks take it out again (no unsigned shift on the CPU).
    word = index * _COUNTER + key0
    word = (word ^ ((word >> 17) & 0x7FFF)) * _MIX1
    word = word ^ ((word >> 11) & 0x1FFFFF) ^ key1
    word = word * _MIX2
    word = (word ^ ((word >> 15) & 0x1FFFF)) * _MIX3
    word = word ^ ((word >> 14) & 0x3FFFF)
    number = (((word >> (32 - BITS)) & ((1 << BITS) - 1)) + rotation) & ((1 << BITS) - 1)
    return (number.to(torch.float32) + 0.5) * 2.0**-BITS
