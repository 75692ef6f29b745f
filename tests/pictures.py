"""Small files in the layouts of MNIST and CIFAR-10, and where the real ones are."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

import maskscope
from maskscope.data.cifar10_archive import CLASSES
from maskscope.locate import SETTING

REAL = Path(os.environ.get(SETTING) or Path(maskscope.__file__).parents[2].parent / "shared" / "data")

needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no folder {REAL}; set {SETTING} to the data folder")


def idx(values):
    """An array of bytes as the content of an idx file."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(root, train=50, test=20, packed=True):
    """Random digits in the four files; returns the images and labels of both."""
    random = np.random.default_rng(0)
    written = {}
    (root / "mnist").mkdir(parents=True, exist_ok=True)
    for file, stem, count in (("train", "train", train), ("test", "t10k", test)):
        images, labels = random.integers(256, size=(count, 28, 28)), random.integers(10, size=count)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = root / "mnist" / f"{stem}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
        written[file] = (images, labels)
    return written


def cifar_members(per_batch=40, test=60):
    """Random images as the members of CIFAR-10's archive; an image's first pixel is its class, ten times."""
    random = np.random.default_rng(0)
    counts = {**{f"data_batch_{number}.bin": per_batch for number in range(1, 6)}, "test_batch.bin": test}
    members = {"batches.meta.txt": ("\n".join(CLASSES) + "\n").encode()}
    for name, count in counts.items():
        records = random.integers(256, size=(count, 3073)).astype(np.uint8)
        records[:, 0] = np.arange(count) % 10
        records[:, 1] = records[:, 0] * 10
        members[name] = records.tobytes()
    return members


def write_cifar(root, members=None, packed="xz"):
    """The members as an archive, or unpacked; returns its path."""
    members = cifar_members() if members is None else members
    folder = root / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    if packed == "":
        unpacked = folder / "cifar-10-batches-bin"
        unpacked.mkdir()
        for name, content in members.items():
            (unpacked / name).write_bytes(content)
        return unpacked
    path = folder / f"cifar-10-binary{'' if packed == 'gz' else '-subset'}.tar.{packed}"
    with tarfile.open(path, f"w:{packed}", **({"preset": 0} if packed == "xz" else {})) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path
