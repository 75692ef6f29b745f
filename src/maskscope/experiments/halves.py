"""Which parameters a half-mask test masks, where it is not the first half of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_MOST = 5


def random_halves(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Up to five different random halves of a network's tensors, of an odd number the larger part. Source: published code.

    Examples:
        >>> random_halves(["a", "b", "c"])
        (('b', 'c'), ('a', 'c'), ('a', 'b'))
    """
    random, size = np.random.RandomState(0), -(-len(names) // 2)
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(_MOST, math.comb(len(names), size)):
        found[tuple(sorted(random.choice(names, size, replace=False).tolist()))] = None
    return tuple(found)
