"""Sequences: padding counts for nothing, a loss is a sum over tokens, an answer is right only as a whole."""

import pytest
import torch
from torch.nn import functional

from maskscope.core.batches import cut
from maskscope.data.sequences import END, PAD, Sentences, padded, sentences_loss, sentences_right


def sentences(*pairs, forced=True):
    """A batch of (source, target), each given without its end."""
    source, target = (padded([torch.tensor([*tokens, END]) for tokens in side]) for side in zip(*pairs, strict=True))
    return Sentences(source, target, forced)


BATCH = sentences(([1, 2], [3, 1]), ([2], [4]), ([1], []))


def saying(*answers, steps=None):
    """A network that gives these answers, whatever it is asked."""
    said = padded([torch.tensor(answer) for answer in answers]).clamp(min=END)[:, :steps]
    return lambda source, target=None, *, forced=True, limit=None: functional.one_hot(said, 5).float()[:, :limit]


def test_sequences_are_filled_up_with_what_no_loss_counts():
    assert BATCH.target.tolist() == [[3, 1, END], [4, END, PAD], [END, PAD, PAD]]
    outputs = torch.randn(9, 5)
    counted = functional.cross_entropy(outputs, BATCH.target.flatten(), reduction="none")
    assert torch.equal(counted.view(3, 3) == 0, BATCH.target == PAD)


def test_the_loss_is_the_sum_over_an_answers_tokens_and_the_mean_over_examples():
    with torch.random.fork_rng():
        logits = torch.randn(3, 3, 5)
    by_hand = 0.0
    for example, answer in enumerate(BATCH.target.tolist()):
        for step, token in enumerate(answer):
            if token != PAD:
                by_hand -= float(logits[example, step].log_softmax(0)[token]) / 3
    loss = sentences_loss(lambda source, target, forced: logits, BATCH)
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_a_batchs_loss_is_that_of_its_parts_by_their_share():
    with torch.random.fork_rng():
        table = torch.randn(5, 5)

    def network(source, target, forced):
        return table[target.clamp(min=END)]

    parts = cut(BATCH, 2)
    assert [len(part.batch.source) for part in parts] == [2, 1]
    assert all(part.batch.forced for part in parts)
    together = sum(sentences_loss(network, part.batch) * part.share for part in parts)
    torch.testing.assert_close(together, sentences_loss(network, BATCH))


def test_the_network_is_told_whether_it_is_forced():
    told = []

    def network(source, target, forced):
        told.append(forced)
        return torch.zeros(*target.shape, 5)

    for forced in (True, False):
        sentences_loss(network, BATCH._replace(forced=forced))
    assert told == [True, False]


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (([3, 1, 0], [4, 0, 0], [0, 0, 0]), [1, 1, 1]),
        (([3, 1, 0], [4, 0, 2], [0, 3, 3]), [1, 1, 1]),  # what comes after the end does not count
        (([3, 2, 0], [1, 0, 0], [0, 0, 0]), [0, 0, 1]),  # wrong
        (([3, 0, 0], [0, 0, 0], [0, 0, 0]), [0, 0, 1]),  # too short
        (([3, 1, 1], [4, 4, 0], [1, 0, 0]), [0, 0, 0]),  # too long
    ],
)
def test_an_answer_is_right_as_a_whole_only(answers, right):
    assert sentences_right(saying(*answers), BATCH).tolist() == right


def test_answers_that_all_end_before_the_longest_right_one_does_are_compared_too():
    assert sentences_right(saying([0], [0], [0]), BATCH).tolist() == [0, 0, 1]
    assert sentences_right(saying([3, 0], [4, 0], [0, 0]), BATCH).tolist() == [0, 1, 1]
