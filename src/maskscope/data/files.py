"""Data files: found where the setting says, else downloaded once from their official address and checked."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from maskscope.core.files import replacing
from maskscope.locate import SETTING, cache, find, missing, named

_TIMEOUT = 30.0
"""Seconds without an answer."""

_CHUNK = 1 << 20
"""Bytes at a time."""


class Published(NamedTuple):
    """A file that is published somewhere."""

    folder: str
    """Of the data folder, such as ``mnist``."""
    names: tuple[str, ...]
    """What it may be called there, unpacked or not; the first that is there counts."""
    address: str
    """Where it is published; once downloaded it is called as the address ends."""
    md5: str
    """Of what lies at the address; guards downloads only."""


def located(published: Published, data: Path | None = None, *, download: bool = True) -> Path:
    """The path of a data file, downloaded if it has to be.

    A folder that is named, by argument or setting, is taken as it is; the cache is filled by downloads.

    Args:
        published: The file.
        data: The data folder. Default: that of the setting ``MASKSCOPE_DATA``, else the user's cache.
        download: Whether a file may be downloaded into the cache.

    Raises:
        FileNotFoundError: It is not there, and a download is not wanted.
        ConnectionError: It could not be downloaded whole and unaltered; nothing is left of it.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> file = Published("letters", ("a.txt",), "https://example.org/a.txt", "")
        >>> with TemporaryDirectory() as folder:
        ...     (Path(folder) / "letters").mkdir()
        ...     _ = (Path(folder) / "letters" / "a.txt").write_text("a")
        ...     located(file, Path(folder)).name
        'a.txt'
    """
    found = find(published.folder, published.names, data)
    if found is not None:
        return found
    if named(data) is not None or not download:
        raise missing(published.folder, published.names, f"from {published.address}", data)
    target = cache() / published.folder / published.address.rpartition("/")[2]
    fetch(published, target)
    return target


def fetch(published: Published, target: Path) -> None:
    """Download a file to a temporary name beside its place, check it, and put it there.

    Raises:
        ConnectionError: Unreachable, cut short, or another file than the published one; nothing is left of it.
    """
    advice = f"try again, or get it in another way and put it into {target.parent} (or a folder that {SETTING} names)"
    with replacing(target) as temporary:
        try:
            received, promised, md5 = _copied(published.address, temporary)
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):  # it is the answer too, and holds the connection
                error.close()
            raise ConnectionError(f"{published.address} could not be downloaded ({error}); {advice}") from error
        if promised is not None and received != promised:
            raise ConnectionError(
                f"{published.address} was cut short: {received:,} of {promised:,} bytes came; {advice}"
            )
        if md5 != published.md5:
            raise ConnectionError(
                f"{published.address} gave another file than the published one: md5 {md5} of {received:,} bytes, "
                f"expected {published.md5}; {advice}"
            )


def _copied(address: str, to: Path) -> tuple[int, int | None, str]:
    """The number of bytes that came, the number promised, and their md5."""
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    with urlopen(address, timeout=_TIMEOUT) as answer, to.open("wb") as file:
        length = answer.headers.get("Content-Length")
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    return received, int(length) if length else None, digest.hexdigest()
