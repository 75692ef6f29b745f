"""A mask: which units are kept. An immutable value with set algebra and a file format."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskscope.core.files import load_tensors, save_tensors
from maskscope.core.fingerprint import Fingerprint, ParameterPrint, fingerprint
from maskscope.core.layout import Layout
from maskscope.core.segments import IndexedSegment, Segment
from maskscope.core.select import layer as layer_of

FORMAT = "maskscope-mask-1"


@dataclass(frozen=True)
class Origin:
    """Where a mask came from. Not part of its value: equal masks may have different origins."""

    label: str = ""
    """A short name, such as ``add`` or ``(add & mul)``."""
    subtask: str = ""
    seed: int | None = None
    gate: str = ""
    """The gate and its settings, as text."""
    threshold: float | None = None
    """Logits above it are kept; None where no logits were involved."""
    penalty: float | None = None
    """Added to the mean loss per unit of summed logit."""
    steps: int | None = None
    model: Fingerprint | None = None
    """The network it was learned on."""
    replaced: str = ""
    """Digest of what removed weights became while it was learned; empty: zero."""

    def derived(self, label: str, seed: int | None = None, *, beside: Origin | None = None) -> Origin:
        """Of a mask made from this one's: of the same network, and with the same in place of what is removed.

        Args:
            label: Its name.
            seed: Of a draw.
            beside: Of another mask that it was made from too.

        Examples:
            >>> Origin("add", steps=100, replaced="9f").derived("~add")
            Origin(label='~add', subtask='', seed=None, gate='', threshold=None, penalty=None, steps=None, model=None, replaced='9f')
        """
        other = beside or self
        model = self.model if self.model == other.model else None
        return Origin(label, seed=seed, model=model, replaced=self.replaced or other.replaced)


@dataclass(frozen=True)
class Count:
    """How much of one parameter a mask keeps."""

    parameter: str
    layer: str
    kept_units: int
    units: int
    kept_weights: int
    weights: int

    @property
    def density(self) -> float:
        """Share of the parameter's weights that is kept."""
        return self.kept_weights / self.weights


@dataclass(frozen=True, repr=False)
class Mask:
    """Kept or not, per unit of a layout.

    Holds packed bits (an eighth of a byte per unit), so it cannot be changed; ``kept`` unpacks a fresh copy.

    Raises:
        ValueError: The bits do not fit the layout.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> everything = Mask.full(layout(nn.Linear(2, 3)))
        >>> everything.kept_units, (~everything).kept_units
        (6, 0)
        >>> (everything & ~everything).is_empty
        True
    """

    layout: Layout
    bits: bytes = field(repr=False)
    origin: Origin = field(default_factory=Origin, compare=False)

    def __post_init__(self) -> None:
        """Check the number of bytes, and that the bits after the last unit are zero."""
        units = self.layout.units
        if len(self.bits) != (units + 7) // 8:
            raise ValueError(
                f"{units} units need {(units + 7) // 8} bytes, got {len(self.bits)}; build masks with Mask.of"
            )
        if units % 8 and self.bits[-1] & (0xFF >> units % 8):
            raise ValueError("bits after the last unit must be zero; build masks with Mask.of")

    def __repr__(self) -> str:
        """One line."""
        label = f"{self.origin.label!r}: " if self.origin.label else ""
        kept, units = self.kept_units, self.layout.units
        return f"Mask({label}{kept:,} of {units:,} units kept, {self.density:.1%} of {self.layout.weights:,} weights)"

    @classmethod
    def of(cls, layout: Layout, kept: Tensor, origin: Origin | None = None) -> Mask:
        """A mask from one boolean per unit.

        Raises:
            ValueError: Not one boolean per unit of the layout.
        """
        if kept.dtype != torch.bool or kept.shape != (layout.units,):
            raise ValueError(
                f"expected {layout.units} booleans, one per unit, got {kept.dtype} of shape {tuple(kept.shape)}; "
                "a mask takes hard decisions only"
            )
        packed = np.packbits(kept.detach().cpu().numpy()).tobytes()
        return cls(layout, packed, origin or Origin())

    @classmethod
    def full(cls, layout: Layout) -> Mask:
        """Keeps everything."""
        return cls.of(layout, torch.ones(layout.units, dtype=torch.bool), Origin(label="full network"))

    @classmethod
    def empty(cls, layout: Layout) -> Mask:
        """Keeps nothing."""
        return cls.of(layout, torch.zeros(layout.units, dtype=torch.bool), Origin(label="nothing"))

    @property
    def kept(self) -> Bool[Tensor, " units"]:
        """One boolean per unit; a fresh copy each time."""
        flat = np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=self.layout.units)
        return torch.from_numpy(flat.astype(np.bool_))

    @property
    def gates(self) -> Float[Tensor, " units"]:
        """The mask as numbers, 1 for kept."""
        return self.kept.to(torch.float32)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits over what is kept."""
        return hashlib.blake2b(self.bits, digest_size=8).hexdigest()

    @property
    def kept_units(self) -> int:
        """How many units are kept."""
        return int.from_bytes(self.bits, "big").bit_count()

    @property
    def kept_weights(self) -> int:
        """How many weights are kept."""
        return sum(count.kept_weights for count in self.counts())

    @property
    def density(self) -> float:
        """Share of the masked weights that is kept."""
        return self.kept_weights / self.layout.weights

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return self.kept_units == 0

    @property
    def is_full(self) -> bool:
        """Whether everything is kept."""
        return self.kept_units == self.layout.units

    def counts(self) -> tuple[Count, ...]:
        """How much is kept of each parameter, in units and in weights."""
        kept = self.kept
        return tuple(_count(segment, kept) for segment in self.layout.segments)

    def parameter(self, name: str) -> Bool[Tensor, "..."]:
        """The mask of one parameter, in its shape.

        Raises:
            KeyError: The parameter is not masked.
        """
        (found,) = self.layout.matching([name])
        segment = self.layout.by_name[found]
        return segment.expanded(segment.own(self.kept)).clone()

    def tensors(self) -> dict[str, Bool[Tensor, "..."]]:
        """Every masked parameter's mask in its shape, for other tools: ``prune.custom_from_mask``, a file of one's own.

        Examples:
            >>> from torch import nn
            >>> from maskscope.core.layout import layout
            >>> {name: tuple(kept.shape) for name, kept in Mask.full(layout(nn.Linear(2, 3))).tensors().items()}
            {'weight': (3, 2)}
        """
        kept = self.kept
        return {segment.parameter: segment.expanded(segment.own(kept)).clone() for segment in self.layout.segments}

    def named(self, label: str) -> Mask:
        """The same mask under another label."""
        return dataclasses.replace(self, origin=dataclasses.replace(self.origin, label=label))

    def __bool__(self) -> bool:
        """Refused: ``a and b`` is not ``a & b``.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a mask is neither true nor false: combine masks by &, | and ~, and ask mask.is_empty or is_full"
        )

    def __and__(self, other: Mask) -> Mask:
        """Kept by both."""
        return self._combined(other, "&", self.kept & self._other(other))

    def __or__(self, other: Mask) -> Mask:
        """Kept by either."""
        return self._combined(other, "|", self.kept | self._other(other))

    def __xor__(self, other: Mask) -> Mask:
        """Kept by exactly one."""
        return self._combined(other, "^", self.kept ^ self._other(other))

    def __sub__(self, other: Mask) -> Mask:
        """Kept by this one only."""
        return self._combined(other, "-", self.kept & ~self._other(other))

    def __invert__(self) -> Mask:
        """The complement: the layout's other units. What was not selected stays as it is in the network."""
        return Mask.of(self.layout, ~self.kept, self.origin.derived(f"~{self.origin.label or 'mask'}"))

    def _other(self, other: object) -> Bool[Tensor, " units"]:
        mask = expect_mask(other)
        if self.layout != mask.layout:
            raise ValueError(
                f"two masks compare only over the same layout: {_layout_difference(self.layout, mask.layout)}"
            )
        return mask.kept

    def _combined(self, other: Mask, sign: str, kept: Bool[Tensor, " units"]) -> Mask:
        mine, its = self.origin, other.origin
        label = f"({mine.label or 'mask'} {sign} {its.label or 'mask'})"
        return Mask.of(self.layout, kept, mine.derived(label, beside=its))

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file: packed bits, and everything else as JSON in its header.

        Written to a temporary name first and renamed, so a file is either whole or not there.

        Raises:
            OSError: The folder cannot be written to; a file already there is left as it was.
        """
        path = Path(path)
        header = {
            "format": FORMAT,
            "layout": [_described(segment) for segment in self.layout.segments],
            "origin": dataclasses.asdict(self.origin),
        }
        indices = {
            f"index/{segment.parameter}": segment.numbers
            for segment in self.layout.segments
            if isinstance(segment, IndexedSegment)
        }
        save_tensors(path, {"kept": torch.frombuffer(bytearray(self.bits), dtype=torch.uint8), **indices}, header)
        return path

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None, *, allow_other_weights: bool = False) -> Mask:
        """Read a mask file, and refuse it for another network.

        Args:
            path: A file that ``save`` wrote.
            model: The network it is meant for. Names and shapes must agree, and the values too.
            allow_other_weights: Accept other values: a fine-tuned, donor, random or bfloat16 copy.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, altered, not a mask, or for another network; the message says which.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no mask file at {path}")
        tensors, header = load_tensors(path)
        if header.get("format") != FORMAT:
            raise ValueError(f"{path} is not a mask file: format {header.get('format')!r}, expected {FORMAT!r}")
        bits = tensors["kept"].numpy().tobytes()
        mask = cls(_layout_from(header["layout"], tensors), bits, _origin_from(header["origin"]))
        if model is not None:
            mask.check(model, allow_other_weights=allow_other_weights)
        return mask

    def check(self, model: nn.Module, *, allow_other_weights: bool = False) -> None:
        """Refuse a network this mask was not learned on.

        Raises:
            KeyError: Parameters are missing.
            ValueError: Shapes or values differ; the message says what.
        """
        self.layout.check({name: parameter.shape for name, parameter in model.named_parameters()})
        if self.origin.model is None:
            return
        here = fingerprint(model)
        difference = self.origin.model.structural_difference(here)
        if difference:
            raise ValueError(f"the mask was learned on another network: {difference}")
        difference = self.origin.model.value_difference(here)
        if difference and not allow_other_weights:
            raise ValueError(
                f"the mask was learned on other weights: {difference}. For a fine-tuned, donor, random or bfloat16 "
                "copy pass allow_other_weights=True"
            )


def expect_mask(value: object) -> Mask:
    """The value, if it is a mask.

    Raises:
        TypeError: It is not; the most common case is what ``learn_mask`` returns.
    """
    if not isinstance(value, Mask):
        raise TypeError(f"expected a Mask, got {type(value).__name__}; what learn_mask returns holds it as .mask")
    return value


def _count(segment: Segment, kept: Bool[Tensor, " units"]) -> Count:
    mine = int(segment.own(kept).sum())
    return Count(
        segment.parameter,
        layer_of(segment.parameter),
        mine,
        segment.units,
        segment.kept_weights(segment.own(kept)),
        segment.weights,
    )


def _layout_difference(a: Layout, b: Layout) -> str:
    here, there = set(a.segments), set(b.segments)
    names = sorted({segment.parameter for segment in here ^ there})
    return f"they differ over {len(names)} parameters, first {names[0]!r}" if names else "their order differs"


def _described(segment: Segment) -> dict[str, Any]:
    """For the header; numbers of units are a tensor of their own."""
    return {name: value for name, value in dataclasses.asdict(segment).items() if name != "index"}


def _layout_from(segments: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> Layout:
    return Layout(tuple(_segment_from(item, tensors.get(f"index/{item['parameter']}")) for item in segments))


def _segment_from(item: dict[str, Any], numbers: Tensor | None) -> Segment:
    shape, view, gates = (tuple(item[name]) for name in ("shape", "view", "gates"))
    if numbers is None:
        return Segment(item["parameter"], shape, view, gates, item["offset"], item["kind"])
    index = numbers.numpy().tobytes()
    return IndexedSegment(item["parameter"], shape, view, gates, item["offset"], item["kind"], index=index)


def _origin_from(record: dict[str, Any]) -> Origin:
    model = record.pop("model")
    if model is None:
        return Origin(**record)
    prints = tuple(
        ParameterPrint(item["name"], tuple(item["shape"]), item["dtype"], item["digest"])
        for item in model["parameters"]
    )
    return Origin(**record, model=Fingerprint(prints))
