"""What a network was when a mask was learned on it, or what it was tested on: names, shapes and digests of the values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from maskscope.core.batches import Batch, rebuilt


@dataclass(frozen=True)
class ParameterPrint:
    """One parameter's name, shape, dtype and a digest of its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """All parameters of a network (not its buffers), tied ones once."""

    parameters: tuple[ParameterPrint, ...]

    @property
    def digest(self) -> str:
        """One digest of everything, 16 hexadecimal digits."""
        return hashlib.blake2b(repr(self.parameters).encode(), digest_size=8).hexdigest()

    def structural_difference(self, other: Fingerprint) -> str | None:
        """What differs in names and shapes, as a phrase, or None.

        Examples:
            >>> from torch import nn
            >>> fingerprint(nn.Linear(2, 3)).structural_difference(fingerprint(nn.Linear(2, 4)))
            "2 of 2 parameters have another shape, first 'weight': (3, 2) against (4, 2)"
        """
        here = {item.name: item for item in self.parameters}
        there = {item.name: item for item in other.parameters}
        only = sorted(set(here) ^ set(there))
        if only:
            return f"{len(only)} parameters exist on one side only, first {only[0]!r}"
        changed = [name for name in here if here[name].shape != there[name].shape]
        if changed:
            first = changed[0]
            return (
                f"{len(changed)} of {len(here)} parameters have another shape, first {first!r}: "
                f"{here[first].shape} against {there[first].shape}"
            )
        return None

    def value_difference(self, other: Fingerprint) -> str | None:
        """What differs in values or dtypes (names and shapes being equal), as a phrase, or None."""
        there = {item.name: item for item in other.parameters}
        changed = [item for item in self.parameters if item != there[item.name]]
        if not changed:
            return None
        first = changed[0]
        dtypes = {item.dtype for item in self.parameters}, {item.dtype for item in other.parameters}
        why = f"dtypes {sorted(dtypes[0])} against {sorted(dtypes[1])}; " if dtypes[0] != dtypes[1] else ""
        return f"{why}{len(changed)} of {len(self.parameters)} parameters have other values, first {first.name!r}"


def fingerprint(model: nn.Module) -> Fingerprint:
    """Read a network's fingerprint. Costs one pass over the weights (about a second per gigabyte).

    Examples:
        >>> from torch import nn
        >>> model = nn.Linear(2, 3)
        >>> fingerprint(model) == fingerprint(model)
        True
    """
    prints: list[ParameterPrint] = []
    for name, parameter in model.named_parameters():
        digest = hashlib.blake2b(_raw(parameter).data, digest_size=8).hexdigest()
        prints.append(ParameterPrint(name, tuple(parameter.shape), str(parameter.dtype).removeprefix("torch."), digest))
    return Fingerprint(tuple(prints))


def batches_digest(batches: Iterable[Batch]) -> str:
    """Sixteen hexadecimal digits over the tensors, arrays and texts of some batches, in their order; not over single numbers.

    Examples:
        >>> batch = (torch.ones(2), ["a", "b"])
        >>> batches_digest([batch]) == batches_digest([batch]) != batches_digest([batch, batch])
        True
    """
    found = hashlib.blake2b(digest_size=8)

    def add(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            take_in(leaf, found)
        elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
            found.update(f"{leaf.dtype} {leaf.shape} ".encode())
            found.update(leaf.tobytes())
        else:
            found.update(repr(leaf).encode())
        return leaf

    for batch in batches:
        found.update(b"batch ")
        rebuilt(batch, add)
    return found.hexdigest()


def take_in(values: Tensor, found: hashlib.blake2b) -> None:
    """A tensor's type, shape and bytes into a digest."""
    found.update(f"{values.dtype} {tuple(values.shape)} ".encode())
    found.update(_raw(values).data)


def _raw(values: Tensor) -> UInt8[np.ndarray, " bytes"]:
    """The bytes of a tensor, wherever it is."""
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
