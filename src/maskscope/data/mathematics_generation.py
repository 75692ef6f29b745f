"""Makes questions of the Mathematics Dataset and writes them to standard output, one a line.

A program of its own, run with ``PYTHONHASHSEED=0``: the generator draws from the global random states of Python and
NumPy and depends on the order of sets of strings. It imports no torch, so that it starts quickly.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, Literal

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

_EXTRAPOLATED = {"arithmetic__add_or_sub": "add_or_sub_big", "comparison__sort": "sort_more"}
"""The two tasks that the package extrapolates, and what it calls them then."""

_REPAIRS = {
    "sympy.solvers.diophantine import": "sympy.solvers.diophantine.diophantine import",  # moved in SymPy 1.6
    "np.object": "object",  # removed from NumPy 1.24
    ".itemset(index, value)": "[index] = value",  # removed from NumPy 2.0
    ".itemset(power, coeffs)": "[power] = coeffs",
}
"""What one module of the package, of 2019, says and what it has to say today."""


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


def questions(task: Task, level: Level, wanted: int, seed: int, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Different questions of a level, each with its answer, in the order they are drawn. Sets the global random states.

    Args:
        task: Which task.
        level: Which of its levels.
        wanted: How many; fewer come after ``DRAWS_PER_QUESTION`` times as many draws.
        seed: Every task and level draws its own numbers from it.
        seen: Questions that may not come again; those that come are added.

    A draw that the package itself breaks off counts as one and gives nothing. ``polynomials__collect`` seldom does (once before
    213,000 questions were there): a share of Dirichlet noise with concentration 1e-9, which has to be 0, is not.

    Source: Saxton et al. 2019, Analysing mathematical reasoning abilities of neural models; published code: a question
    of an earlier level, or file, is dropped.
    """
    make = maker(task, level)
    number = int.from_bytes(hashlib.blake2b(f"{task} {level} {seed}".encode(), digest_size=4).digest())
    random.seed(number)
    np.random.seed(number)
    left = wanted
    for _ in range(wanted * DRAWS_PER_QUESTION):
        try:
            problem = make()
        except AssertionError:
            continue
        question, answer = str(problem.question), str(problem.answer)
        if question in seen or len(question) > LONGEST_QUESTION or len(answer) > LONGEST_ANSWER:
            continue
        seen.add(question)
        yield question, answer
        left -= 1
        if not left:
            return


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


def main(task: Task, seed: int, wanted: dict[Level, int]) -> None:
    """Write ``level TAB question TAB answer`` for so many questions of each level, all different."""
    seen: set[str] = set()
    for level, count in wanted.items():
        for question, answer in questions(task, level, count, seed, seen):
            sys.stdout.write(f"{level}\t{question}\t{answer}\n")


if __name__ == "__main__":
    _, chosen, start, *counts = sys.argv
    pairs: Any = (pair.split("=") for pair in counts)
    main(chosen, int(start), {level: int(count) for level, count in pairs})  # pyright: ignore[reportArgumentType]
