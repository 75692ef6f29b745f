"""Where batches come from, and how they are cut."""

import functools
from dataclasses import dataclass
from inspect import unwrap
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from maskscope.core.batches import cut, size, stream


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Record:
    x: torch.Tensor
    name: str


X = torch.arange(12).view(6, 2)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, X[:, 0]),
        [X, X],
        {"x": X, "scale": torch.ones(()), "note": "whole"},
        Pair(X, X),
        Record(X, "a"),
        BatchEncoding({"input_ids": X, "attention_mask": X}),
        ({"x": [X]}, 3),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_parts_have_the_type_of_the_batch_and_together_are_it(batch):
    parts = cut(batch, 3)
    assert all(type(part.batch) is type(batch) for part in parts)
    assert [size(part.batch) for part in parts] == [2, 2, 2]
    assert sum(part.share for part in parts) == pytest.approx(1)

    def first(leaf):
        if isinstance(leaf, torch.Tensor):
            return leaf
        if isinstance(leaf, Record):
            return leaf.x
        return first(next(iter(leaf.values())) if hasattr(leaf, "values") else leaf[0])

    assert torch.equal(torch.cat([first(part.batch) for part in parts]), X)


def test_leaves_of_another_length_are_passed_whole():
    shared = torch.arange(5)
    assert all(part.batch[2] is shared for part in cut((X, X, shared), 2))


def test_a_short_last_batch_is_cut_nearly_equally_and_weighted_by_share():
    parts = cut(torch.arange(7), 4)
    assert [part.batch.numel() for part in parts] == [2, 2, 2, 1]
    assert [part.share for part in parts] == [2 / 7, 2 / 7, 2 / 7, 1 / 7]


def test_a_weight_of_tokens_counts_tokens():
    parts = cut(torch.tensor([[1, 1], [1, 0]]), 2, weigh=lambda part: float(part.sum()))
    assert [part.share for part in parts] == [2 / 3, 1 / 3]
    with pytest.raises(ValueError, match="no example in this batch counts"):
        cut(torch.zeros(2, 2), 2, weigh=lambda part: float(part.sum()))


def test_a_batch_smaller_than_the_samples_says_what_to_do():
    with pytest.raises(ValueError, match=r"batch of 3 cannot be cut into samples=4 parts.*drop_last=True.*samples=3"):
        cut(torch.zeros(3), 4)


def test_pieces_of_a_part_see_its_sample():
    parts = cut(torch.arange(6), 2, pieces_each=3)
    assert [(part.batch.item(), part.sample) for part in parts] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    with pytest.raises(
        ValueError, match=r"batch of 8 cannot be cut into samples=4 parts of accumulate=4 pieces.*fewer of either"
    ):
        cut(torch.zeros(8), 4, pieces_each=4)


def test_a_batch_without_tensors_is_refused():
    with pytest.raises(ValueError, match="no tensor with a batch dimension in this list"):
        cut(["a", "b"], 2)


def test_time_first_batches_are_cut_by_the_users_own_split():
    batch = torch.zeros(5, 4, 3)
    parts = cut(batch, 2, split=lambda whole, n: whole.chunk(n, 1))
    assert [tuple(part.batch.shape) for part in parts] == [(5, 2, 3)] * 2
    with pytest.raises(ValueError, match="split returned 1 parts, expected 2"):
        cut(batch, 2, split=lambda whole, n: [whole])


def test_functions_of_the_step_start_anywhere():
    assert list(islice(stream(lambda step: step * 10, 3), 2)) == [30, 40]


def test_iterables_are_gone_through_again_and_replayed_with_a_warning():
    assert list(islice(stream([1, 2, 3]), 5)) == [1, 2, 3, 1, 2]
    with pytest.warns(UserWarning, match="replaying 4 batches"):
        assert list(islice(stream([1, 2, 3], 4), 2)) == [2, 3]


def test_empty_used_up_and_unusable_batches_are_refused():
    with pytest.raises(ValueError, match="the loader is empty"):
        next(stream([]))
    with pytest.raises(ValueError, match=r"ran out after 2; pass something that can be gone through again"):
        list(islice(stream(iter([1, 2])), 3))
    with pytest.raises(TypeError, match="a function of the step or an iterable of batches, got int"):
        next(unwrap(stream)(3))  # as users see it, without the run-time checks of the tests


@pytest.mark.parametrize("batch", [(X, X), X, {"x": X}], ids=lambda batch: type(batch).__name__)
def test_one_batch_in_place_of_batches_is_refused(batch):
    with pytest.raises(TypeError, match=r"looks like one batch.*such as \[batch\]"):
        next(stream(batch))


def test_values_beside_the_tensors_are_cut_with_them():
    """One text, id or array entry per example stays with its example."""
    names = ["a", "b", "c", "d", "e", "f"]
    parts = cut({"x": X, "names": names, "ids": np.arange(6), "classes": ["yes", "no"]}, 3)
    assert [part.batch["names"] for part in parts] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert [part.batch["ids"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert all(part.batch["classes"] == ["yes", "no"] for part in parts)


def test_time_first_inputs_with_labels_first_are_pointed_out():
    with pytest.warns(UserWarning, match=r"begin with different sizes: 5, 4\. Taken for 5 examples.*pass split="):
        cut((torch.zeros(5, 4, 3), torch.zeros(4)), 2)


def test_what_most_tensors_begin_with_is_the_batch():
    """As of transformers' batches with position_ids of one row."""
    parts = cut({"position_ids": X[:1], "input_ids": X, "attention_mask": X}, 2)
    assert [len(part.batch["input_ids"]) for part in parts] == [3, 3]
    assert all(torch.equal(part.batch["position_ids"], X[:1]) for part in parts)


def test_lists_of_sequences_have_one_for_each_example():
    sequences = [torch.arange(length) for length in (6, 4, 5, 3, 6, 2, 4, 5)]
    labels = torch.arange(8)
    for order in ((sequences, labels), (labels, sequences)):
        lists = [next(item for item in part.batch if isinstance(item, list)) for part in cut(order, 2)]
        assert [[len(item) for item in part] for part in lists] == [[6, 4, 5, 3], [6, 2, 4, 5]]


def test_weights_of_parts_are_their_examples_whatever_else_is_in_them():
    parts = cut((torch.zeros(5), torch.zeros(2, 2), torch.zeros(5)), 3)
    assert [part.share for part in parts] == [2 / 5, 2 / 5, 1 / 5]


def test_packed_sequences_say_what_to_do():
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(4, 2), torch.zeros(2, 2)])
    assert size(packed) == 2
    with pytest.raises(TypeError, match="PackedSequence cannot be cut into parts; pass split="):
        cut((packed, torch.zeros(2)), 2)
    assert cut((packed, torch.zeros(2)), 1)[0].batch[0] is packed


def test_a_function_that_is_decorated_is_judged_by_what_is_called():
    def with_generator(function):
        @functools.wraps(function)
        def called(step):
            return function(step, torch.Generator().manual_seed(step))

        return called

    @with_generator
    def batches(step, generator):
        return step, torch.rand(1, generator=generator)

    assert [step for step, _ in islice(stream(batches), 2)] == [0, 1]
