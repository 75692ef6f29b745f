"""Batches: where they come from at each step, and how one is cut into parts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Batch = Any
"""A tensor, or tuples, lists, mappings and dataclasses of them: whatever the user's objective takes."""

Batches = Callable[[int], Batch] | Iterable[Batch]
"""A function of the step (best: a resumed run sees the same data), or an iterable gone through again and again."""

Split = Callable[[Batch, int], Sequence[Batch]]
"""Cuts a batch into parts, for layouts that do not have the batch first."""


class Part(NamedTuple):
    """One part of a batch."""

    batch: Batch
    sample: int
    """Which of the step's mask samples it sees."""
    share: float
    """Its weight in the batch's loss."""


def stream(batches: Batches, start: int = 0) -> Iterator[Batch]:
    """The batches from a step on, without end.

    Raises:
        ValueError: The iterable is empty, or is an iterator that ran out.
        TypeError: A single batch, or neither a function of the step nor iterable.

    Examples:
        >>> from itertools import islice
        >>> list(islice(stream(["a", "b"]), 3))
        ['a', 'b', 'a']
    """
    if isinstance(batches, Tensor | Mapping) or (
        isinstance(batches, tuple) and any(isinstance(item, Tensor) for item in cast("tuple[Any, ...]", batches))
    ):
        raise TypeError(
            f"batches looks like one batch (a {type(batches).__name__}); pass a list of batches, such as [batch]"
        )
    if isinstance(batches, Iterable):
        yield from _replayed(batches, start)
    elif callable(batches):
        _check_takes_step(batches)
        step = start
        while True:
            yield batches(step)
            step += 1
    else:
        raise TypeError(
            f"batches must be a function of the step or an iterable of batches, got {type(batches).__name__}"
        )


def _check_takes_step(batches: Callable[[int], Batch]) -> None:
    try:
        inspect.signature(batches, follow_wrapped=False).bind(0)
    except ValueError:  # written in C: it does not say
        return
    except TypeError as error:
        raise TypeError(
            f"batches, if a function, is called with the number of the step and returns its batch: {error}; write lambda step: ..., "
            "or pass a list or a DataLoader"
        ) from None


def _replayed(batches: Iterable[Batch], start: int) -> Iterator[Batch]:
    if start:
        warnings.warn(
            f"replaying {start} batches to resume; if they are shuffled, pass a function of the step instead",
            stacklevel=3,
        )
    step = 0
    while True:
        before = step
        for batch in batches:
            if step >= start:
                yield batch
            step += 1
        if step == before:
            raise ValueError(
                f"the batches ran out after {step}; pass something that can be gone through again (a list, a DataLoader) "
                "or a function of the step"
                if step
                else "there are no batches: the loader is empty (drop_last with fewer examples than one batch?)"
            )


def size(batch: Batch) -> int:
    """The number of examples: the first dimension that most tensors have; of several the first.

    A list of tensors of unlike lengths counts as one entry per example.

    Raises:
        ValueError: No tensor with a dimension inside.

    Examples:
        >>> size({"x": torch.zeros(5, 2), "scale": 3.0})
        5
        >>> size(([torch.zeros(4), torch.zeros(2), torch.zeros(3)], torch.zeros(3)))
        3
    """
    return _counted(batch)[0][0]


def _counted(batch: Batch) -> list[tuple[int, int]]:
    """Sizes of what may have one entry per example, each with how often it is found; the commonest first."""
    found = Counter(_sizes(batch)).most_common()
    if found:
        return found
    raise ValueError(
        f"no tensor with a batch dimension in this {type(batch).__name__}; a batch holds tensors, batch first (rows of a Hugging "
        'Face dataset become tensors by dataset.with_format("torch"))'
    )


def cut(
    batch: Batch,
    parts: int,
    split: Split | None = None,
    weigh: Callable[[Batch], float] | None = None,
    *,
    pieces_each: int = 1,
) -> list[Part]:
    """Cut a batch into parts for the mask samples of a step.

    Every tensor, array and list of values with one entry per example is cut, everything else is passed whole. Parts differ by at most
    one example and are weighted by their share, so that the mean over the batch is the same. Where it is open what has an entry per
    example, as of inputs (time, batch) with labels (batch,), a warning says what is done.

    Args:
        batch: The batch.
        parts: How many.
        split: Another way of cutting.
        weigh: What a part's mean loss counts for (its tokens, say). Default: its examples.
        pieces_each: Into how many pieces every part is cut again (``accumulate``).

    Returns:
        The parts, or the pieces of all of them, with the sample that each sees.

    Raises:
        ValueError: Fewer examples than parts, or no tensor inside.
        TypeError: A ``PackedSequence`` inside.

    Examples:
        >>> [part.batch.tolist() for part in cut(torch.arange(5), 2)]
        [[0, 1, 2], [3, 4]]
    """
    pieces_in_all = parts * pieces_each
    if pieces_in_all == 1:
        return [Part(batch, 0, 1.0)]
    if split is None:
        whole = _told(batch)
        if whole < pieces_in_all:
            asked = f"samples={parts} parts" + (f" of accumulate={pieces_each} pieces" if pieces_each > 1 else "")
            raise ValueError(
                f"a batch of {whole} cannot be cut into {asked}; use larger batches (a short last one: drop_last=True) or "
                + ("fewer of either" if pieces_each > 1 else f"samples={max(whole, 1)}")
            )
        cuts = torch.arange(whole).tensor_split(pieces_in_all)
        pieces: Sequence[Batch] = [_slice(batch, whole, rows) for rows in cuts]
        counts = [len(rows) for rows in cuts]
    else:
        pieces = split(batch, pieces_in_all)
        if len(pieces) != pieces_in_all:
            raise ValueError(f"split returned {len(pieces)} parts, expected {pieces_in_all}")
        counts = [size(piece) for piece in pieces]
    weights = [float(weigh(piece) if weigh else count) for piece, count in zip(pieces, counts, strict=True)]
    total = sum(weights)
    if not total > 0:
        raise ValueError("no example in this batch counts for the loss (all labels ignored?)")
    # A part in which nothing counts has no mean loss.
    return [Part(p, i // pieces_each, w / total) for i, (p, w) in enumerate(zip(pieces, weights, strict=True)) if w]


def flat(batch: Batch) -> Iterator[Any]:
    """Everything in a batch that holds nothing else, in order.

    Examples:
        >>> list(flat({"x": (1, "a"), "y": [2.0]}))
        [1, 'a', 2.0]
    """
    if isinstance(batch, Mapping | tuple | list) or (dataclasses.is_dataclass(batch) and not isinstance(batch, type)):
        for child in _children(batch):
            yield from flat(child)
    else:
        yield batch


def _children(batch: Batch) -> Iterable[Batch]:
    if isinstance(batch, Mapping):
        return cast("Mapping[Any, Any]", batch).values()
    if isinstance(batch, tuple | list):
        return cast("Sequence[Any]", batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return [getattr(batch, item.name) for item in dataclasses.fields(batch)]
    return ()


def _leaves(batch: Batch) -> Iterator[Tensor]:
    return (leaf for leaf in flat(batch) if isinstance(leaf, Tensor))


def _sizes(batch: Batch) -> Iterator[int]:
    """Of everything that may have one entry per example, how many it has."""
    if isinstance(batch, PackedSequence):
        yield int(batch.batch_sizes[0])
    elif isinstance(batch, Tensor):
        if batch.ndim:
            yield batch.shape[0]
    elif _is_ragged(batch):
        yield len(batch)
    else:
        for child in _children(batch):
            yield from _sizes(child)


def _is_ragged(batch: Batch) -> bool:
    """Whether it is a list of tensors, one for each example, of unlike lengths."""
    if not isinstance(batch, list) or not all(isinstance(item, Tensor) and item.ndim for item in batch):
        return False
    return len({len(item) for item in cast("list[Tensor]", batch)}) > 1


def _told(batch: Batch) -> int:
    """The number of examples; a warning where as many tensors say that it is another."""
    (whole, most), *rest = _counted(batch)
    others = [other for other, count in rest if count == most]
    if others:
        warnings.warn(
            f"the tensors of this batch begin with different sizes: {', '.join(map(str, [whole, *others]))}. Taken for {whole} examples; "
            "what has another size is passed whole to every part. If that is wrong (time before batch, say), pass split=",
            stacklevel=3,
        )
    return whole


def _slice(batch: Batch, whole: int, rows: Tensor) -> Batch:
    """The same structure with every leaf that has ``whole`` rows cut to ``rows`` (a contiguous range)."""
    here = slice(int(rows[0]), int(rows[-1]) + 1)

    def cut_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf[here] if leaf.ndim and leaf.shape[0] == whole else leaf
        return leaf[here] if len(leaf) == whole else leaf

    return rebuilt(batch, cut_leaf, whole)


def rebuilt(batch: Batch, change: Callable[[Any], Any], examples: int = 0) -> Batch:  # noqa: PLR0911 - one return per kind of container
    """The same structure with other leaves: tensors, arrays, and lists or tuples in which there are no tensors.

    Args:
        batch: The batch.
        change: Makes a new leaf of an old one.
        examples: Lists of so many tensors of unlike lengths are leaves too.

    Examples:
        >>> rebuilt({"x": torch.ones(1), "texts": ["a"], "scale": 2.0}, len)
        {'x': 1, 'texts': 1, 'scale': 2.0}
    """
    if isinstance(batch, Tensor | np.ndarray):
        return change(batch)
    if examples and isinstance(batch, PackedSequence):
        raise TypeError(
            "a PackedSequence cannot be cut into parts; pass split=, or pack inside the network or the objective"
        )
    if isinstance(batch, MutableMapping):
        # A copy of the user's own mapping type: transformers' BatchEncoding stays one.
        mapping = copy.copy(cast("MutableMapping[Any, Any]", batch))
        mapping.update({key: rebuilt(value, change, examples) for key, value in mapping.items()})
        return mapping
    if isinstance(batch, Mapping):
        return {key: rebuilt(value, change, examples) for key, value in cast("Mapping[Any, Any]", batch).items()}
    if isinstance(batch, list | tuple) and not any(True for _ in _leaves(batch)):
        return change(batch)  # labels, texts or ids, one per example
    if examples and _is_ragged(batch) and len(batch) == examples:
        return change(batch)
    if isinstance(batch, tuple | list):
        pieces = [rebuilt(item, change, examples) for item in cast("Sequence[Any]", batch)]
        if hasattr(batch, "_fields"):
            return cast("Any", type(batch))(*pieces)
        return tuple(pieces) if isinstance(batch, tuple) else pieces
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {item.name: getattr(batch, item.name) for item in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **{name: rebuilt(value, change, examples) for name, value in fields.items()})
    return batch
