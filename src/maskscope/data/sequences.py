"""Sequences to sequences: batches with padding, the loss over what is not padding, exact match of the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from maskscope.core.objectives import IGNORED, Network

PAD = IGNORED
"""Fills sequences up to the longest of their batch: the label that torch's losses leave out; no network embeds it."""

END = 0
"""Token after the last of a sequence, and what a decoder is given first; words are numbered from 1."""


class Sentences(NamedTuple):
    """A batch: sequences in, sequences out, each ended by ``END`` and filled up with ``PAD``."""

    source: Int64[Tensor, "batch length"]
    target: Int64[Tensor, "batch steps"]
    forced: bool = True
    """Whether a network in training is shown the right token before each step, or its own."""


def padded(sequences: Sequence[Int64[Tensor, " _tokens"]]) -> Int64[Tensor, "batch longest"]:
    """Sequences under each other.

    Examples:
        >>> padded([torch.tensor([3, 0]), torch.tensor([0])]).tolist()
        [[3, 0], [0, -100]]
    """
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=PAD)


def sentences_loss(model: Network, batch: Sentences) -> Float[Tensor, ""]:
    """Cross-entropy in nats, summed over the tokens of an answer, ``END`` included, and averaged over examples.

    Source: published code: its loss is a sum over time divided by the batch.

    Examples:
        >>> batch = Sentences(torch.tensor([[1, 0]]), torch.tensor([[2, 0]]))
        >>> uniform = lambda source, target, forced: torch.zeros(1, 2, 4)
        >>> round(float(sentences_loss(uniform, batch)), 4)  # twice the logarithm of 4
        2.7726
    """
    outputs = model(batch.source, batch.target, forced=batch.forced)
    summed = functional.cross_entropy(outputs.flatten(0, 1), batch.target.flatten(), ignore_index=PAD, reduction="sum")
    return summed / len(batch.target)


def sentences_right(model: Network, batch: Sentences) -> Float[Tensor, " batch"]:
    """1 for every example whose whole answer, greedily decoded, is right up to its ``END``, else 0.

    Decodes as many steps as the longest right answer of the batch: a longer one can only be wrong.

    Examples:
        >>> batch = Sentences(torch.tensor([[1, 0], [1, 0]]), torch.tensor([[2, 0], [0, PAD]]))
        >>> says_two = lambda source, limit: torch.nn.functional.one_hot(torch.tensor([[2, 0], [2, 0]]), 3).float()
        >>> sentences_right(says_two, batch)
        tensor([1., 0.])
    """
    said = model(batch.source, limit=batch.target.shape[1]).argmax(-1)
    missing = batch.target.shape[1] - said.shape[1]  # decoding stops when every answer has ended
    said = functional.pad(said, (0, missing), value=-1)
    return ((said == batch.target) | (batch.target == PAD)).all(1).float()
