"""The commands of SCAN, their actions and its four splits, generated from the rules."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import resources
from typing import Literal, NamedTuple, get_args

SplitName = Literal["simple", "length", "jump", "turn left"]
"""How commands are divided into those to learn from and those to be tested on."""

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

VERBS = ("walk", "look", "run", "jump")
DIRECTIONS = ("left", "right")
_MANNERS = ("", "opposite", "around")
_TIMES = ("", "twice", "thrice")

_COPIES = {"jump": 1_467, "turn left": 2_189}
"""How often training files of the two splits repeat the one command they have of what is tested: 10 % of the file."""
_LONGEST_LEARNED = 22
"""Actions up to which the split by length trains. No command has 23."""


class Example(NamedTuple):
    """A command and what it means, as words with spaces between them."""

    command: str
    actions: str


class Halves(NamedTuple):
    """A split: numbers of commands, copies included."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@lru_cache(maxsize=1)
def commands() -> tuple[Example, ...]:
    """All 20,910 commands, each once: 102 simple ones, then every two of them joined by ``and`` and by ``after``.

    Source: Lake and Baroni 2018, "Generalization without systematicity", figures 6 and 7 (the grammar and its meaning);
    arXiv 1711.00350. In the order that the mask of the simple split counts in.

    Examples:
        >>> len(commands())
        20910
        >>> commands()[-1].command, commands()[105].actions
        ('jump around right thrice after jump around right thrice', 'I_WALK I_WALK I_WALK')
    """
    simple = [
        Example(f"{phrase.command} {times}".rstrip(), " ".join([phrase.actions] * repeats))
        for phrase in _phrases()
        for repeats, times in enumerate(_TIMES, 1)
    ]
    joined = (
        example
        for a in simple
        for b in simple
        for example in (
            Example(f"{a.command} and {b.command}", f"{a.actions} {b.actions}"),
            Example(f"{a.command} after {b.command}", f"{b.actions} {a.actions}"),
        )
    )
    return (*simple, *joined)


def _phrases() -> Iterator[Example]:
    """The 34 verb phrases: a verb alone, or with a direction; ``turn`` has no action but the turning."""
    for verb in VERBS:
        yield Example(verb, f"I_{verb.upper()}")
    for direction in DIRECTIONS:
        turn = f"I_TURN_{direction.upper()}"
        for verb in ("turn", *VERBS):
            act = [] if verb == "turn" else [f"I_{verb.upper()}"]
            for manner in _MANNERS:
                once = [turn, turn, *act] if manner == "opposite" else [turn, *act]
                words = (verb, manner, direction) if manner else (verb, direction)
                yield Example(" ".join(words), " ".join(once * (4 if manner == "around" else 1)))


def halves(split: SplitName) -> Halves:
    """The two halves of a split.

    | split | tested | learned from |
    | --- | --- | --- |
    | simple | a random fifth, which cannot be derived: a bit for each command lies beside this file | the rest |
    | length | more than 22 actions | the rest |
    | jump | whatever has ``jump`` in it and is longer | the rest, with 1,467 copies of ``jump`` |
    | turn left | whatever has ``turn left`` in it and is longer | the rest, with 2,189 copies of ``turn left`` |

    Source: Lake and Baroni 2018, experiments 1 to 3; the files of brendenlake/SCAN.

    Examples:
        >>> [(name, len(halves(name).train), len(halves(name).test)) for name in ("simple", "jump")]
        [('simple', 16728, 4182), ('jump', 14670, 7706)]
    """
    tested: dict[SplitName, Callable[[int, Example], bool]] = {
        "simple": _in_simple_test(),
        "length": lambda _, example: len(example.actions.split()) > _LONGEST_LEARNED,
        "jump": lambda _, example: _contains(example.command, "jump"),
        "turn left": lambda _, example: _contains(example.command, "turn left"),
    }
    everything = commands()
    test = tuple(i for i, example in enumerate(everything) if tested[split](i, example))
    excluded = set(test)
    train = tuple(i for i in range(len(everything)) if i not in excluded)
    if split in _COPIES:
        (alone,) = (i for i, example in enumerate(everything) if example.command == split)
        train += (alone,) * (_COPIES[split] - 1)
    return Halves(train, test)


def _contains(command: str, phrase: str) -> bool:
    """Whether a phrase is in a longer command, its words next to each other."""
    return command != phrase and f" {phrase} " in f" {command} "


def _in_simple_test() -> Callable[[int, Example], bool]:
    text = resources.files("maskscope.data").joinpath("scan_simple_test.b64").read_text(encoding="ascii")
    bits = base64.b64decode(text)
    return lambda i, _: bool(bits[i >> 3] >> (i & 7) & 1)
