"""Questions of the Mathematics Dataset as a text file that is generated once, checked by a digest whenever it is read."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from filelock import FileLock

from maskscope.core.files import Damaged, replacing
from maskscope.data import mathematics_generation
from maskscope.data.mathematics_generation import DRAWS_PER_QUESTION, RELEASE, TRAINED, Level, Task, levels_of
from maskscope.locate import kept
from maskscope.progress import bars

Part = tuple[Literal["train", "valid"], Level]

FORMAT = 1
"""Of the file, and of how questions are drawn and split."""

_KEPT_EVERY = 500
"""Questions after which what is there can be gone on with: some seconds of work."""


class Question(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Collection:
    """Which questions a file holds.

    Examples:
        >>> Collection("comparison__sort", train=10, valid=5, seed=0).name
        'comparison__sort-10-train-5-valid-seed0-release1.0.1-format1.tsv'
    """

    task: Task
    train: int
    """Questions to train on, of each level of training."""
    valid: int
    """Held-out questions, of each level."""
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task}-{self.train}-train-{self.valid}-valid-seed{self.seed}-release{RELEASE}-format{FORMAT}.tsv"

    @property
    def parts(self) -> list[Part]:
        """The parts of the file, in order."""
        valid: list[Part] = [("valid", level) for level in levels_of(self.task)]
        return [*(("train", level) for level in TRAINED), *valid]

    def wanted(self, level: Level) -> int:
        """How many questions of a level, to train on and held out."""
        return self.valid + (self.train if level in TRAINED else 0)


def folder() -> Path:
    """Where the files are: ``maskscope/mathematics`` in ``MASKSCOPE_CACHE``, ``XDG_CACHE_HOME`` or ``~/.cache``."""
    outer = os.environ.get("MASKSCOPE_CACHE")
    return (Path(outer) / "maskscope" if outer else kept()) / "mathematics"


def cached(collection: Collection) -> Path:
    """The file of a collection, generated if it is not there; a second process waits for the first.

    What was stopped goes on where it was; until the file is there, its questions lie beside it, in one named ``.NAME.part``.

    Warns:
        UserWarning: A level gave fewer different questions than wanted.

    Raises:
        ImportError: It is not there, and neither is the generator.
        RuntimeError: The generator failed.
        OSError: The cache folder is not writable or the disk is full.
    """
    path = folder() / collection.name
    if path.exists():
        return path
    mathematics_generation.check_installed()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            partial = path.with_name(f".{path.name}.part")
            found = _generate(collection, partial)
            with replacing(path) as temporary:
                temporary.write_bytes(_file(collection, _split(collection, found)))
            partial.unlink()
            mathematics_generation.beside(partial).unlink(missing_ok=True)
    return path


def read(path: Path) -> dict[Part, list[Question]]:
    """The parts of a file, in order.

    Raises:
        Damaged: Cut short, altered or renamed.
    """
    first, _, body = path.read_bytes().partition(b"\n")
    parts: dict[Part, list[Question]] = {}
    try:
        header = json.loads(first)
        digest = header.pop("digest")
        if digest != _digest(header, body):
            raise ValueError(f"its digest is {_digest(header, body)}, not {digest}")  # noqa: TRY301 - one message below
        name = Collection(**{field: header[field] for field in ("task", "train", "valid", "seed")}).name
        if name != path.name:
            raise ValueError(f"it holds {name}")  # noqa: TRY301
        for line in body.decode().splitlines():
            split, level, question, answer = line.split("\t")
            part: Any = (split, level)
            parts.setdefault(part, []).append(Question(question, answer))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{path} was cut short, altered or renamed after it was written ({error}); delete it and it is generated again"
        ) from error
    return parts


def _generate(collection: Collection, path: Path) -> dict[Level, list[Question]]:
    """Questions of each level, from a program of its own: our random state stays, and its string hashing is fixed.

    It writes them to the file, or goes on with what is there.
    """
    wanted: dict[Level, int] = {level: collection.wanted(level) for level in levels_of(collection.task)}
    # -u: every question is told of at once; -P: the folder of the file is not searched
    program = [sys.executable, "-u", "-P", mathematics_generation.__file__]
    arguments = [collection.task, str(collection.seed), str(path), str(_KEPT_EVERY)]
    counts = [f"{level}={count}" for level, count in wanted.items()]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        bars() as display,
        subprocess.Popen(
            [*program, *arguments, *counts],
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": ""},  # the package's assertions leave draws out
            start_new_session=True,  # Ctrl-C reaches us only, and we end it
        ) as process,
    ):
        try:
            tasks = {level: display.add_task(f"{collection.task} {level}", total=wanted[level]) for level in wanted}
            for line in process.stdout or ():
                name, so_many = line.split("\t")
                display.update(tasks[cast("Level", name)], completed=int(so_many))
        except BaseException:
            process.kill()
            raise
        if process.wait():
            complaints.seek(0)
            raise RuntimeError(f"generating {collection} failed: {' | '.join(complaints.read().splitlines()[-3:])}")
    found: dict[Level, list[Question]] = {level: [] for level in wanted}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, question, answer = line.split("\t")
        found[cast("Level", name)].append(Question(question, answer))
    for level, count in wanted.items():
        if len(found[level]) < count:
            warnings.warn(
                f"{collection.task}: {DRAWS_PER_QUESTION * count:,} draws gave only {len(found[level]):,} of {count:,} "
                f"different questions of level {level!r}; going on with those",
                stacklevel=3,
            )
    return found


def _split(collection: Collection, found: dict[Level, list[Question]]) -> dict[Part, list[Question]]:
    """Hold out a random choice of a level's questions. The last ones would be the rare ones: others came before."""
    parts: dict[Part, list[Question]] = {part: [] for part in collection.parts}
    for level, questions in found.items():
        held = len(questions) * collection.valid // collection.wanted(level)
        chosen = set(random.Random(collection.seed).sample(range(len(questions)), held))
        for place, question in enumerate(questions):
            parts["valid" if place in chosen else "train", level].append(question)
    return parts


def _file(collection: Collection, parts: dict[Part, list[Question]]) -> bytes:
    """The whole file: a line of JSON, then ``split TAB level TAB question TAB answer``."""
    body = "".join(f"{part[0]}\t{part[1]}\t{q}\t{a}\n" for part in collection.parts for q, a in parts[part]).encode()
    header = {**asdict(collection), "format": FORMAT, "packages": mathematics_generation.packages()}
    return json.dumps({**header, "digest": _digest(header, body)}).encode() + b"\n" + body


def _digest(header: dict[str, Any], body: bytes) -> str:
    return hashlib.blake2b(json.dumps(header, sort_keys=True).encode() + b"\n" + body, digest_size=16).hexdigest()
