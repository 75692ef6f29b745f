"""MNIST: its files, and the task of telling digits apart under permutations of their pixels."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from maskscope.data.arithmetic import Split, drawn, in_order
from maskscope.data.files import Published, located
from maskscope.data.images import File, Scaling, measured, rows_of

Labelled = tuple[Float[Tensor, "batch 784"], Int64[Tensor, " batch"]]
"""A batch: scaled pixels and digits."""

_SIDE = 28
_PIXELS = _SIDE * _SIDE

# LeCun's own address no longer serves the files; this mirror has them byte for byte.
_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def _published(stem: str, md5: str) -> Published:
    return Published("mnist", (stem, f"{stem}.gz"), f"{_ADDRESS}{stem}.gz", md5)


_IMAGES: dict[File, Published] = {
    "train": _published("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "test": _published("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
}
_LABELS: dict[File, Published] = {
    "train": _published("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
    "test": _published("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
}


def images(file: File, data: Path | None = None) -> UInt8[Tensor, "examples 784"]:
    """The images of a file, row by row of pixels.

    Args:
        file: Which one.
        data: The data folder (see ``located``).

    Raises:
        ValueError: The file is damaged or not what it should be.
    """
    return read_idx(located(_IMAGES[file], data), (_SIDE, _SIDE)).flatten(1)


def labels(file: File, data: Path | None = None) -> UInt8[Tensor, " examples"]:
    """The digits of a file.

    Args:
        file: Which one.
        data: The data folder (see ``located``).

    Raises:
        ValueError: The file is damaged or not what it should be.
    """
    path = located(_LABELS[file], data)
    digits = read_idx(path, ())
    if bool((digits > 9).any()):
        raise ValueError(f"{path} has the label {int(digits.max())}, expected digits 0 to 9; copy or download it again")
    return digits


@lru_cache(maxsize=8)
def read_idx(path: Path, sizes: tuple[int, ...]) -> UInt8[Tensor, "examples ..."]:
    """An idx file of bytes, gzipped or not.

    Args:
        path: The file.
        sizes: What all its dimensions but the first must be.

    Raises:
        ValueError: Truncated, damaged, or another file.
    """
    again = "copy or download it again"
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content: programs that unpack a download often leave the name as it was
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file ({error}); {again}") from error
    magic, header = bytes([0, 0, 8, 1 + len(sizes)]), 4 * (2 + len(sizes))
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"{path} is not an idx file of bytes in {1 + len(sizes)} dimensions: it starts with {content[:4].hex() or 'nothing'}, "
            f"expected {magic.hex()} and a header of {header} bytes; {again}"
        )
    examples, *found = np.frombuffer(content, ">u4", 1 + len(sizes), offset=4).tolist()
    if not examples:
        raise ValueError(f"{path} holds no examples, its header says so; {again}")
    if tuple(found) != sizes:
        raise ValueError(f"{path} holds examples of size {tuple(found)}, expected {sizes}; is it another data set?")
    expected = header + examples * math.prod(sizes)
    if len(content) != expected:
        raise ValueError(f"{path} has {len(content):,} bytes, its header says {expected:,}; {again}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).view(examples, *sizes)


@dataclass(frozen=True)
class PermutedMNIST:
    """Digits whose pixels are permuted, in each of several ways: tasks that share a difficulty and no input.

    Source: Csordas et al. 2021, permuted MNIST; splits, seeds and scaling of the published code.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> PermutedMNIST().order(0)[:3].tolist(), PermutedMNIST().order(1)[:3].tolist()
        ([0, 1, 2], [649, 265, 111])
    """

    kind: Literal["permuted-mnist"] = "permuted-mnist"
    permutations: int = 11
    """How many; the first leaves the pixels where they are."""
    train: int | None = None
    """Train on the first so many examples only; None: on all."""

    inputs = _PIXELS
    outputs = 10
    solved = 0.9
    """Below this accuracy a permutation counts as not learned."""
    chance = 0.1
    """Accuracy of guessing a digit."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.permutations < 1 or (self.train is not None and self.train < 1):
            raise ValueError(f"permuted MNIST needs permutations and examples to train on, got {self}")

    def order(self, permutation: int) -> Int64[Tensor, "pixels=784"]:
        """Which pixel of the image is at each input. Source: published code.

        Raises:
            KeyError: No such permutation.
        """
        if not 0 <= permutation < self.permutations:
            raise KeyError(f"no permutation {permutation}; there are 0 to {self.permutations - 1}")
        if permutation == 0:
            return torch.arange(_PIXELS)
        return torch.from_numpy(np.random.RandomState(permutation).permutation(_PIXELS))

    def batches(self, split: Split, size: int, seed: int, permutation: int) -> Callable[[int], Labelled]:
        """Batches as a function of the step: sampling with replacement, as in the published loader."""
        pick, examples = self._pick(split, permutation)
        return drawn(pick, examples, size, seed)

    def tests(self, split: Split = "valid", permutation: int = 0, size: int = 1000) -> list[Labelled]:
        """A whole split in order, in batches."""
        pick, examples = self._pick(split, permutation)
        return in_order(pick, examples, size)

    def _pick(
        self, split: Split, permutation: int
    ) -> tuple[Callable[[Int64[Tensor, " batch"] | slice], Labelled], int]:
        order = self.order(permutation)
        file: File = "test" if split == "test" else "train"
        pixels, digits = images(file), labels(file)
        if len(pixels) != len(digits):
            raise ValueError(
                f"MNIST's {file} files do not belong together: {len(pixels):,} images in {located(_IMAGES[file])}, "
                f"{len(digits):,} labels in {located(_LABELS[file])}"
            )
        rows = torch.arange(len(digits)) if split == "test" else rows_of(split, len(digits))
        rows = rows[: self.train] if split == "train" else rows
        scaling = _scaling(located(_IMAGES["train"]))

        def pick(chosen: Int64[Tensor, " batch"] | slice) -> Labelled:
            here = rows[chosen]
            return scaling(pixels[here][:, order].unsqueeze(1)).squeeze(1), digits[here].long()

        return pick, len(rows)


@lru_cache(maxsize=2)
def _scaling(training_images: Path) -> Scaling:
    """One mean and deviation for all pixels: an image has one channel. Source: published code."""
    return measured(read_idx(training_images, (_SIDE, _SIDE)).unsqueeze(1))
