"""On what a run was made: versions, commit, machine, threads."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


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


def environment(threads: int, started: str) -> Environment:
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
    )


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
