"""On what a run was made: versions, commit, machine, threads."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from maskscope.core.files import Damaged
from maskscope.runs.store import RunFolder, read_record, write_record, write_text


@dataclass(frozen=True)
class Environment:
    """Provenance of a run."""

    maskscope: str
    torch: str
    python: str
    commit: str
    """Of the working tree maskscope was imported from; empty outside one. ``+`` marks uncommitted changes."""
    machine: str
    threads: int
    """Of torch; results are identical bit for bit at one count, and a resumed run keeps it."""
    started: str
    """ISO time, UTC."""
    device: str = "cpu"
    """What it was begun on: ``cpu``, or an accelerator's name."""


def environment(threads: int, started: str, device: torch.device) -> Environment:
    """What this process runs on."""
    try:
        own = version("maskscope")
    except PackageNotFoundError:
        own = "not installed"
    return Environment(
        own,
        torch.__version__,
        platform.python_version(),
        _commit(),
        f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        threads,
        started,
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


@contextmanager
def at_work(folder: RunFolder, config: str, threads: int, device: torch.device) -> Generator[None]:
    """Own a run's folder, with its configuration in it and its thread count set.

    Args:
        folder: The run's.
        config: As JSON; written if the run has not begun yet.
        threads: As for ``threads_of``.
        device: As for ``threads_of``.

    Raises:
        InUse: Another process owns the folder.
        OSError: The folder cannot be written to.
    """
    with folder.owned(), threads_of(folder, threads, device):
        path = folder.path / "config.json"
        if not path.exists():
            write_text(path, config + "\n")
        yield


@contextmanager
def threads_of(folder: RunFolder, threads: int, device: torch.device) -> Generator[None]:
    """Torch's thread count for a run: the one it was begun with, for results depend on it in the last bits.

    Args:
        folder: The run's.
        threads: If it has not begun yet.
        device: What it is begun on, to be noted.
    """
    path, before = folder.path / "env.json", torch.get_num_threads()
    try:
        known = read_record(path, Environment) if path.exists() else None
    except Damaged:
        known = None
    torch.set_num_threads(known.threads if known else threads)
    try:
        if known is None:
            write_record(path, environment(threads, datetime.now(UTC).isoformat(timespec="seconds"), device))
        yield
    finally:
        torch.set_num_threads(before)


def _commit() -> str:
    git, here = shutil.which("git"), Path(__file__).resolve().parent
    if git is None:
        return ""
    commands = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    answers = [
        subprocess.run([git, "-C", str(here), *command], capture_output=True, text=True, check=False)
        for command in commands
    ]
    if any(answer.returncode for answer in answers):
        return ""
    return answers[0].stdout.strip() + ("+" if answers[1].stdout.strip() else "")
