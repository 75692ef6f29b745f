"""The only place that seeds torch's global generators, and the way other seeds are made from one."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def derive(*parts: int | str) -> int:
    """A seed from names and numbers: different parts, unrelated seeds; the same parts, the same seed everywhere.

    Examples:
        >>> derive(0, "mask", "pair 1") == derive(0, "mask", "pair 1")
        True
        >>> 0 <= derive(0) < 2**63
        True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's generators for code that takes none (initialisation, dropout), and restore them afterwards.

    Examples:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     again = torch.rand(1)
        >>> torch.equal(first, again)
        True
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
