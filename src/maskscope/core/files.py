"""Whole files or none; tensors with a JSON header and a checksum over both. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Saved(NamedTuple):
    """Tensors with their header, as read back from a file."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]


class Damaged(ValueError):  # noqa: N818 - says what the file is
    """A file that is not whole or not what its checksum says."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary file that takes the place of ``path``, flushed to disk, once the block has ended without an error.

    Raises:
        OSError: The folder is not writable or the disk is full; a file already there is left as it was.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, replacing(Path(folder) / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header, with a checksum over both. Tied tensors are written once for each name."""
    whole: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        whole[name] = here.clone() if here.data_ptr() in seen else here
        seen.add(here.data_ptr())
    text = json.dumps(header, sort_keys=True)
    # One entry: safetensors writes several in any order, and equal contents should be equal files.
    entry = json.dumps({"header": text, "checksum": _checksum(text, whole)}, sort_keys=True)
    with replacing(path) as temporary:
        save_file(whole, temporary, {"maskscope": entry})


def load_tensors(path: Path) -> Saved:
    """Read what ``save_tensors`` wrote.

    Raises:
        Damaged: Truncated or altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is not a whole file ({error}); was it cut short? Make or copy it again") from error
    if "maskscope" not in metadata:
        raise Damaged(f"{path} has no maskscope header; it was written by another program")
    try:
        entry = json.loads(metadata["maskscope"])
        text, checksum = entry["header"], entry["checksum"]
    except (json.JSONDecodeError, KeyError) as error:
        raise Damaged(f"{path} was altered after it was written: its header cannot be read") from error
    if checksum != _checksum(text, tensors):
        raise Damaged(f"{path} was altered after it was written: its checksum does not agree; make or copy it again")
    return Saved(tensors, cast("dict[str, Any]", json.loads(text)))


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
