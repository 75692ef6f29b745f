"""CIFAR-10's files: the official binary layout, read from the archive or from where it was unpacked."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from maskscope.data.files import Published, located
from maskscope.data.images import File, Images, Scaling, measured

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of their labels."""

_FOLDER = "cifar-10-batches-bin"
_ARCHIVE = Published(
    "cifar10",
    (
        _FOLDER,
        *(f"cifar-10-binary{part}.tar.{packed}" for part in ("", "-subset") for packed in ("gz", "xz")),
    ),
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)

_NAMES = "batches.meta.txt"
_MEMBERS: dict[File, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
"""Bytes: the label, then red, green and blue, each row by row."""

_CHUNK = 1 << 20


def images(file: File, data: Path | None = None) -> Images:
    """The images and labels of a file, as many as there are.

    Args:
        file: Which one.
        data: The data folder (see ``located``).

    Raises:
        ValueError: An archive or member that is damaged, missing or not what it should be.
    """
    return read_records(located(_ARCHIVE, data))[file]


def scaling_of_training_images(data: Path | None = None) -> Scaling:
    """Mean and deviation of the training file's channels. Source: published code, CNN.

    Args:
        data: The data folder (see ``located``).
    """
    return _scaling(located(_ARCHIVE, data))


@lru_cache(maxsize=2)
def _scaling(path: Path) -> Scaling:
    return measured(read_records(path)["train"].images)


@lru_cache(maxsize=2)
def read_records(path: Path) -> dict[File, Images]:
    """All images of an archive, or of the folder it was unpacked to. Nothing is written, nothing unpickled.

    Raises:
        ValueError: Damaged, missing or not what it should be; says which member.
    """
    wanted = (*_MEMBERS["train"], *_MEMBERS["test"], _NAMES)
    found = _unpacked(path, wanted) if path.is_dir() else _packed(path, wanted)
    absent = [name for name in wanted if name not in found]
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}; was it cut short? Copy or download it again")
    names = tuple(found[_NAMES].decode(errors="replace").split())
    if names != CLASSES:
        raise ValueError(f"{path}, {_NAMES}: the classes are {names}, expected {CLASSES}; is it another data set?")
    return {file: _joined(path, {name: found[name] for name in members}) for file, members in _MEMBERS.items()}


def _unpacked(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in wanted if (path / name).is_file()}


def _packed(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if name in wanted and member.isfile() else None
                if content is not None:
                    found[name] = content.read()
            while archive.fileobj.read(_CHUNK):  # the checksum comes at the very end
                pass
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole archive ({error}); copy or download it again") from error
    return found


def _joined(path: Path, members: dict[str, bytes]) -> Images:
    for name, content in members.items():
        if not content or len(content) % _RECORD:
            raise ValueError(
                f"{path}, {name}: {len(content):,} bytes are no whole number of records of {_RECORD:,}; "
                "copy or download it again"
            )
    records = np.concatenate([np.frombuffer(content, np.uint8).reshape(-1, _RECORD) for content in members.values()])
    labels = records[:, 0].copy()
    if labels.max() >= len(CLASSES):
        wrong = [name for name, content in members.items() if max(content[::_RECORD]) >= len(CLASSES)]
        raise ValueError(
            f"{path}, {', '.join(wrong)}: a label of {labels.max()}, expected 0 to {len(CLASSES) - 1}; is it CIFAR-100, or "
            "damaged?"
        )
    pixels = np.ascontiguousarray(records[:, 1:]).reshape(-1, *_SHAPE)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))
