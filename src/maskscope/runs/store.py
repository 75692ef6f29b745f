"""A run's folder: where its files are, and that one process owns it at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from maskscope.core.files import Damaged, replacing

T = TypeVar("T")


class InUse(RuntimeError):  # noqa: N818 - says what the folder is
    """Another process owns the run folder."""


def segment(name: str) -> str:
    """A name as one path segment: letters, digits, ``.``, ``_`` and ``-`` stay, others become ``%XX``.

    Raises:
        ValueError: An empty name.

    Examples:
        >>> segment("pair 1"), segment("../x")
        ('pair%201', '%2E%2E%2Fx')
    """
    if not name:
        raise ValueError("a name must not be empty: it becomes part of a path")
    safe = "".join(c if re.match(r"[A-Za-z0-9_.-]", c) else "".join(f"%{b:02X}" for b in c.encode()) for c in name)
    return safe.replace(".", "%2E") if safe.startswith(".") else safe


def write_text(path: Path, text: str) -> None:
    """Write a whole file: to a temporary name first, flushed to disk, then renamed.

    Raises:
        OSError: The folder is not writable or the disk is full; a file already there is left as it was.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@lru_cache(maxsize=64)
def _adapter(kind: type) -> Any:
    """Made once for each class: that takes as long as reading a file with it."""
    return TypeAdapter(kind)


def dumped(record: object) -> str:
    """A dataclass as indented JSON.

    Examples:
        >>> print(dumped(RunFolder(Path("a"))))
        {
         "path": "a"
        }
    """
    return _adapter(type(record)).dump_json(record, indent=1).decode()


def parsed(text: str | bytes, kind: type[T]) -> T:
    """A dataclass back from JSON, checked field by field.

    Raises:
        pydantic.ValidationError: With the path of every wrong field.

    Examples:
        >>> parsed('{"path": "a"}', RunFolder).path.name
        'a'
    """
    return _adapter(kind).validate_json(text)


def write_record(path: Path, record: object) -> None:
    """Write a dataclass as indented JSON."""
    write_text(path, dumped(record) + "\n")


def read_record(path: Path, kind: type[T]) -> T:
    """Read a record back, checked field by field.

    Raises:
        Damaged: Not whole, or with other fields; the message names them.
    """
    try:
        return parsed(path.read_bytes(), kind)
    except ValidationError as error:
        raise Damaged(f"{path} does not hold what it should: {error}") from error


@dataclass(frozen=True)
class RunFolder:
    """Where one seed of one experiment lives."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained network."""
        return self.path / "model.safetensors"

    @property
    def training(self) -> Path:
        """How training went."""
        return self.path / "training.json"

    @property
    def results(self) -> Path:
        """Accuracies, overlaps, counts."""
        return self.path / "results.json"

    @property
    def checkpoint(self) -> Path:
        """The state of the step under way."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def tests(self) -> Path:
        """Tests done so far, while there are no results yet."""
        return self.path / "checkpoint" / "tests.jsonl"

    @property
    def metrics(self) -> Path:
        """One line per reading, appended."""
        return self.path / "metrics.jsonl"

    def mask(self, subtask: str, seed: int) -> Path:
        """A learned mask."""
        return self.path / "masks" / segment(subtask) / f"learned-seed{seed}.safetensors"

    def mask_record(self, subtask: str, seed: int) -> Path:
        """How learning that mask went."""
        return self.mask(subtask, seed).with_suffix(".json")

    @contextmanager
    def owned(self) -> Generator[None]:
        """Own the folder; a second process is refused. The lock goes with the process, however it ends.

        Raises:
            InUse: Another process owns it.
            OSError: The folder cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"cannot write to the run folder ({error.strerror}); choose another with --out",
                str(self.path),
            ) from error
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InUse(f"another process is working in {self.path}; wait for it or choose another --out") from error
        try:
            yield
        finally:
            lock.release()

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics_size(self) -> int:
        """The length of the metrics in bytes, noted in checkpoints."""
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def mend_metrics(self) -> None:
        """End a last line that a power failure cut short, so that the next one does not stick to it."""
        if self.metrics_size() and not self.metrics.read_bytes().endswith(b"\n"):
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write("\n")

    def cut_metrics(self, size: int) -> None:
        """Drop what was written after a checkpoint; those steps will be done again."""
        if self.metrics_size() > size:
            with self.metrics.open("rb+") as file:
                file.truncate(size)


@runtime_checkable
class Variant(Protocol):
    """A configuration that has a folder."""

    @property
    def variant(self) -> str:
        """Which member of its family."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that changes numbers."""
        ...


def folder_of(root: Path, experiment: Variant, seed: int) -> RunFolder:
    """Where one seed of one experiment lives under a root folder."""
    return RunFolder(root / f"{experiment.variant}-{experiment.digest}" / f"seed-{seed}")
