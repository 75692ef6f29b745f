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
COUNTER, MIX1, MIX2, MIX3 = (_signed(word) for word in (0x9E3779B1, 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB))


class Draw(NamedTuple):
    """One stream of numbers: two key words, and a rotation that places the sample in its stratum."""

    key0: int
    key1: int
    rotation: int

    def of(self, name: str) -> Draw:
        """A parameter's own stream within this one."""
        first, second = name_keys(name)
        return Draw(_signed(self.key0 + first), self.key1 ^ second, self.rotation)


def name_keys(name: str) -> tuple[int, int]:
    """The key words of a parameter: added to the first and xored into the second word of a step's stream."""
    first, second = struct.unpack("<ii", hashlib.blake2b(name.encode(), digest_size=8).digest())
    return first, second


def draw(seed: int, step: int, sample: int, *, strata: int | None = None) -> Draw:
    """The stream of one sample at one step; ``draw(...).of(name)`` is that of one parameter.

    Args:
        seed: The mask's seed.
        step: The optimisation step, from 0.
        sample: Which of the step's samples, from 0.
        strata: With K strata the samples of a step share one draw u and use frac(u + k/K): each alone is exactly
            uniform, together they cover (0, 1) evenly. None: independent samples.

    Examples:
        >>> draw(0, 0, 1, strata=4).rotation == 2**23 // 4
        True
    """
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed is a whole number of 64 bits, got {seed!r}")
    stream = 0 if strata else sample
    packed = struct.pack("<qqq", seed, step, stream)
    key0, key1 = struct.unpack("<ii", hashlib.blake2b(packed, digest_size=8).digest())
    return Draw(key0, key1, (sample << BITS) // strata if strata else 0)


def uniform(
    index: Int32[Tensor, "*units"], key0: int | Tensor, key1: int | Tensor, rotation: int | Tensor
) -> Float32[Tensor, "..."]:
    """Uniform numbers strictly inside (0, 1), one per unit index, on a grid of 2^-23.

    Key words may be tensors that broadcast with the index: blocks of units, each with its own.

    Examples:
        >>> uniform(torch.arange(3, dtype=torch.int32), *draw(0, 0, 0).of("weight"))
        tensor([0.4901, 0.0723, 0.1585])
    """
    # Right shifts of signed words drag the sign in; the masks take it out again (no unsigned shift on the CPU).
    word = index * COUNTER + key0
    word = (word ^ ((word >> 17) & 0x7FFF)) * MIX1
    word = word ^ ((word >> 11) & 0x1FFFFF) ^ key1
    word = word * MIX2
    word = (word ^ ((word >> 15) & 0x1FFFF)) * MIX3
    word = word ^ ((word >> 14) & 0x3FFFF)
    number = (((word >> (32 - BITS)) & ((1 << BITS) - 1)) + rotation) & ((1 << BITS) - 1)
    return (number.to(torch.float32) + 0.5) * 2.0**-BITS


def logistic(number: Float32[Tensor, "*units"]) -> Float32[Tensor, "*units"]:
    """Logistic(0, 1) noise log(u / (1 - u)) from uniform numbers, accurate to a few units in the last place.

    In plain arithmetic, since torch's eager and compiled logarithms differ in the last bit: with x = m 2^e and m
    within a factor sqrt(2) of 1, log x = e log 2 + 2 artanh((m - 1) / (m + 1)), by its power series.

    Examples:
        >>> logistic(torch.tensor([0.5, 0.75])).tolist()
        [0.0, 1.0986123085021973]
    """
    return _log(number) - _log(1 - number)


def _log(x: Float32[Tensor, "*units"]) -> Float32[Tensor, "*units"]:
    bits = x.view(torch.int32)
    # Adding the distance from sqrt(1/2) to 1 before taking the exponent centres the mantissa around 1.
    exponent = ((bits + (0x3F800000 - 0x3F3504F3)) >> 23) - 127
    mantissa = (bits - (exponent << 23)).view(torch.float32)
    t = (mantissa - 1) / (mantissa + 1)
    square = t * t
    series = square * (2 / 9) + 2 / 7
    series = square * series + 2 / 5
    series = square * series + 2 / 3
    return exponent.to(torch.float32) * 0.6931471805599453 + (t * 2 + t * square * series)
