"""Makes questions of the Mathematics Dataset and writes them to a file, one a line; a file that was begun is gone on with.

A program of its own, run with ``PYTHONHASHSEED=0``: the generator draws from the global random states of Python and
NumPy and depends on the order of sets of strings. It imports no torch, so that it starts quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Task = Literal[
    "arithmetic__add_or_sub",
    "calculus__differentiate",
    "algebra__linear_1d",
    "polynomials__collect",
    "comparison__sort",
]
"""Source: Csordas et al. 2021, the five tasks of the Mathematics Dataset that the paper looks at."""

Level = Literal["easy", "medium", "hard", "interpolate", "extrapolate"]

TRAINED: tuple[Level, ...] = ("easy", "medium", "hard")
"""Levels of training: thirds of the range of entropy. The others are for testing only."""

RELEASE = "1.0.1"
"""Of the package ``mathematics_dataset``."""

LONGEST_QUESTION, LONGEST_ANSWER = 160, 30
"""Characters. Source: ``mathematics_dataset.generate_settings``."""

DRAWS_PER_QUESTION = 50
"""A level that asks for more draws than this gives fewer questions than wanted.

Only ``extrapolate`` of sorting does: 995 of 1,000 of its answers are too long.
"""

MOST_BROKEN = 20
"""Draws of a level that the package may break off by an assertion of its own; more are no accident."""

_EXTRAPOLATED = {"arithmetic__add_or_sub": "add_or_sub_big", "comparison__sort": "sort_more"}
"""The two tasks that the package extrapolates, and what it calls them then."""

_REPAIRS = {
    "sympy.solvers.diophantine import": "sympy.solvers.diophantine.diophantine import",  # moved in SymPy 1.6
    "np.object": "object",  # removed from NumPy 1.24
    ".itemset(index, value)": "[index] = value",  # removed from NumPy 2.0
    ".itemset(power, coeffs)": "[power] = coeffs",
}
"""What one module of the package, of 2019, says and what it has to say today."""


class Begun(NamedTuple):
    """Where a file that is not whole yet can be gone on with; kept beside it as JSON."""

    versions: dict[str, str]
    """Of Python and packages: questions of others would not follow on from these."""
    level: Level
    """The last one in the file."""
    found: int
    """Questions of that level."""
    draws: int
    """That they took."""
    length: int
    """Bytes of the file."""
    digest: str
    """Of those: a file that was altered since is none to go on with."""
    states: list[Any]
    """Of the random numbers of Python and NumPy."""


class Drawn(NamedTuple):
    """A question, its answer, and how many draws of its level it took until it came."""

    question: str
    answer: str
    draws: int


def levels_of(task: Task) -> tuple[Level, ...]:
    """The levels a task has.

    Examples:
        >>> levels_of("algebra__linear_1d")
        ('easy', 'medium', 'hard', 'interpolate')
    """
    return (*TRAINED, "interpolate", "extrapolate") if task in _EXTRAPOLATED else (*TRAINED, "interpolate")


def check_installed() -> None:
    """Look whether the generator is there.

    Raises:
        ImportError: It is not, or it is another release, whose questions would be others.
    """
    try:
        found = f"release {version('mathematics_dataset')}"
    except PackageNotFoundError:
        found = "none"
    if found != f"release {RELEASE}":
        raise ImportError(
            f"questions are generated with release {RELEASE} of mathematics_dataset, found {found}; "
            f"install it with: python -m pip install mathematics_dataset=={RELEASE}"
        )


def packages() -> dict[str, str]:
    """Versions of what questions depend on."""
    return {package: version(package) for package in ("mathematics_dataset", "numpy", "sympy")}


def questions(
    task: Task, level: Level, wanted: int, seed: int, seen: set[str], begun: Begun | None = None
) -> Iterator[Drawn]:
    """Different questions of a level, each with its answer, in the order they are drawn. Sets the global random states.

    Args:
        task: Which task.
        level: Which of its levels.
        wanted: How many; fewer come after ``DRAWS_PER_QUESTION`` times as many draws.
        seed: Every task and level draws its own numbers from it.
        seen: Questions that may not come again; those that come are added.
        begun: Where to go on.

    A draw that the package itself breaks off counts as one and gives nothing. ``polynomials__collect`` seldom does (once before
    213,000 questions were there): a share of Dirichlet noise with concentration 1e-9, which has to be 0, is not.

    Source: Saxton et al. 2019, Analysing mathematical reasoning abilities of neural models; published code: a question
    of an earlier level, or file, is dropped.

    Raises:
        AssertionError: The package breaks off more than ``MOST_BROKEN`` of them.
    """
    make = maker(task, level)
    if begun is None:
        number = int.from_bytes(hashlib.blake2b(f"{task} {level} {seed}".encode(), digest_size=4).digest())
        random.seed(number)
        np.random.seed(number)
    else:
        _set_states(begun.states)
    left, draws = wanted - (begun.found if begun else 0), begun.draws if begun else 0
    broken = 0
    while left > 0 and draws < wanted * DRAWS_PER_QUESTION:
        draws += 1
        try:
            problem = make()
        except AssertionError:
            broken += 1
            if broken > MOST_BROKEN:
                raise
            continue
        question, answer = str(problem.question), str(problem.answer)
        if question in seen or len(question) > LONGEST_QUESTION or len(answer) > LONGEST_ANSWER:
            continue
        seen.add(question)
        left -= 1
        yield Drawn(question, answer, draws)


def _states() -> list[Any]:
    version_of, words, normal = random.getstate()
    name, keys, *rest = np.random.get_state()
    return [[version_of, list(words), normal], [name, np.asarray(keys).tolist(), *rest]]


def _set_states(states: list[Any]) -> None:
    (version_of, words, normal), (name, keys, *rest) = states
    random.setstate((version_of, tuple(words), normal))
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def maker(task: Task, level: Level) -> Callable[[], Any]:
    """The package's function that draws a problem with ``question`` and ``answer``, of any length.

    Raises:
        ImportError: The package is not there, or it is another release.
    """
    check_installed()
    _repair("mathematics_dataset.sample", "polynomials")
    modules = import_module("mathematics_dataset.modules.modules")
    area, name = task.split("__")
    if level in TRAINED:
        generate = import_module("mathematics_dataset.generate")
        return modules.train(generate._make_entropy_fn(TRAINED.index(level), len(TRAINED)))[area][name]
    if level == "interpolate":
        return modules.test()[area][name]
    return modules.test_extra()[area][_EXTRAPOLATED[task]]


def _repair(package: str, name: str) -> None:
    """Import a module with its text repaired in memory: neither the disk nor NumPy nor SymPy is changed."""
    full = f"{package}.{name}"
    spec = None if full in sys.modules else find_spec(full)
    if spec is None or spec.origin is None:
        return
    text = Path(spec.origin).read_text(encoding="utf-8")
    for old, new in _REPAIRS.items():
        text = text.replace(old, new)
    module = module_from_spec(spec)
    exec(compile(text, spec.origin, "exec"), module.__dict__)
    sys.modules[full] = module
    setattr(sys.modules[package], name, module)


def main(task: Task, seed: int, path: Path, every: int, wanted: Mapping[Level, int]) -> None:
    """Bring a file to hold ``level TAB question TAB answer`` for so many questions of each level, all different.

    Writes ``level TAB found`` to standard output for each, as it is found, and for what was there.

    Args:
        task: Which task.
        seed: Of the questions.
        path: The file; whether and where it was begun is said by the one beside it (``beside``).
        every: So many questions after which that one is written again: at most so many are made twice.
        wanted: How many of each level, in the order of the file.
    """
    begun, levels = _begun(path), list(wanted)
    if begun is None:
        beside(path).unlink(missing_ok=True)
    with path.open("r+b" if begun else "w+b") as file:
        file.truncate(begun.length if begun else 0)
        written = file.read()
        digest = _digest(written)
        seen = {line.split("\t")[1] for line in written.decode().splitlines()}
        whole = levels[: levels.index(begun.level)] if begun else []
        for level in whole:
            sys.stdout.write(f"{level}\t{wanted[level]}\n")
        for level in levels[len(whole) :]:
            here = begun if begun and begun.level == level else None
            found = here.found if here else 0
            for drawn in questions(task, level, wanted[level], seed, seen, here):
                line = f"{level}\t{drawn.question}\t{drawn.answer}\n".encode()
                file.write(line)
                digest.update(line)
                found += 1
                if found % every == 0:
                    file.flush()
                    os.fsync(file.fileno())  # what is said to be there has to be there first
                    at = (file.tell(), digest.hexdigest())
                    _note(path, Begun(_versions(), level, found, drawn.draws, *at, _states()))
                sys.stdout.write(f"{level}\t{found}\n")


def beside(path: Path) -> Path:
    """Says where a file that is not whole yet can be gone on with."""
    return path.with_name(f"{path.name}.json")


def _note(path: Path, begun: Begun) -> None:
    """Say where a file can be gone on with, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(begun._asdict()), encoding="utf-8")
    new.replace(beside(path))


def _digest(content: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(content, digest_size=16)


@cache
def _versions() -> dict[str, str]:
    """Looked up once, not whenever the file is kept."""
    return {**packages(), "python": platform.python_version()}


def _begun(path: Path) -> Begun | None:
    """Where to go on, if there is anything to go on with."""
    if not (path.exists() and beside(path).exists()):
        return None
    try:
        begun = Begun(**json.loads(beside(path).read_text(encoding="utf-8")))
        with path.open("rb") as file:
            same = _digest(file.read(begun.length)).hexdigest() == begun.digest
    except (ValueError, TypeError):
        return None
    return begun if same and begun.versions == _versions() else None


if __name__ == "__main__":
    _, chosen, start, where, often, *counts = sys.argv
    pairs: Any = (pair.split("=") for pair in counts)
    each: Any = {level: int(count) for level, count in pairs}
    main(chosen, int(start), Path(where), int(often), each)  # pyright: ignore[reportArgumentType]
