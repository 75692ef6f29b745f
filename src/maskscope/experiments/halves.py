"""Which parameters a half-mask test masks, where it is not the first half of the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def random_halves(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Five random halves of a network's tensors; each is masked alone, and then the others. Source: published code (LSTMs).

    Examples:
        >>> random_halves(["a", "b", "c", "d"])[0]
        ('c', 'd')
    """
    random = np.random.RandomState(0)
    return tuple(tuple(sorted(random.choice(names, len(names) // 2, replace=False).tolist())) for _ in range(5))
