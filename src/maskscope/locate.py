"""Where data files and pretrained weights lie: one setting names one folder, with one layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

SETTING = "MASKSCOPE_DATA"
"""Environment variable: a folder with ``mnist/``, ``cifar10/``, ``scan/``, ``resnet-cifar10/`` in it."""


def named(data: Path | None = None) -> Path | None:
    """The folder that somebody named, by an argument or by the setting; None: nobody did."""
    if data is not None:
        return data.expanduser()
    setting = os.environ.get(SETTING)
    return Path(setting).expanduser() if setting else None


def kept() -> Path:
    """What was made or fetched once for this user: ``$XDG_CACHE_HOME/maskscope``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "maskscope"


def cache() -> Path:
    """The user's cache folder for data."""
    return kept() / "data"


def find(folder: str, names: Sequence[str], data: Path | None = None) -> Path | None:
    """The first of some files or folders that is there, or None.

    Args:
        folder: Within the data folder, such as ``mnist``.
        names: What it may be called, preferred first.
        data: The data folder. Default: the setting's, else the cache.

    Examples:
        >>> find("mnist", ["train-images-idx3-ubyte"], Path("no such folder")) is None
        True
    """
    root = named(data) or cache()
    return next((path for name in names if (path := root / folder / name).exists()), None)


def missing(folder: str, names: Sequence[str], origin: str, data: Path | None = None) -> FileNotFoundError:
    """What to raise where ``find`` finds nothing: which file, into which folder, and where from.

    Args:
        folder: As for ``find``.
        names: As for ``find``.
        origin: Where it can be got, after "get it".
        data: As for ``find``.

    Examples:
        >>> print(missing("mnist", ["a", "a.gz"], "from https://example.org/a.gz", Path("/data")))
        no file a or a.gz in /data/mnist: get it from https://example.org/a.gz and put it there
    """
    root = named(data) or cache()
    text = f"no file {' or '.join(names)} in {root / folder}: get it {origin} and put it there"
    if data is not None:
        return FileNotFoundError(text)
    state = f"is {os.environ[SETTING]}" if os.environ.get(SETTING) else "is not set"
    if not root.is_dir():
        state += ", a folder that does not exist" if named() else ""
    return FileNotFoundError(
        f"{text}, or let --data-dir or {SETTING} (which {state}) name the folder that {folder}/ is in"
    )
