"""What else could be behind what a mask does: its size, its sizes per tensor, its ends, luck, or the power of masks themselves.

Masks can create a function in random weights (Ramanujan et al. 2020), so that a mask which serves its subtask is no proof that
the network had it: what a network loses *without* the mask's weights is. Every control answers one such doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from maskscope.analysis.ablate import complement, from_complement, half, random_like, random_of_size
from maskscope.analysis.evaluate import Score, evaluate
from maskscope.core.apply import masked
from maskscope.core.batches import Batch
from maskscope.core.mask import Mask
from maskscope.core.objectives import Metric, Network, Objective
from maskscope.core.replacement import Replacement

FULL, EMPTY = "full", "empty"
RANDOM, SHUFFLED, SAMPLED = "random, of equal size", "shuffled within tensors", "sampled from the complement"
ENDS, WITHOUT_ENDS = "input and output layers only", "without its input and output weights"
AGAIN, UNTRAINED, SHUFFLED_LABELS = "another seed", "learned on random weights", "learned with shuffled labels"

Learn = Callable[[nn.Module, Objective, int], Mask]
"""Learns a mask of the subtask, as the mask in question was learned: on a model, with an objective, from a seed."""


@dataclass(frozen=True)
class Control:
    """A network under a control, on some tests."""

    name: str
    kept: int
    """Units that its mask keeps."""
    with_mask: Mapping[str, Score]
    """By test: under the control's mask."""
    without: Mapping[str, Score]
    """By test: without the mask's weights; of the input and output layers only, without its weights in those."""
    network: Mapping[str, Score]
    """By test: the network itself, as it is or with random weights."""

    def cost(self, test: str, chance: float) -> float:
        """Accuracy that removal of the mask's weights takes from the network, of all there could be above chance.

        0 where the network could not do it before, however well it does under the mask.

        Args:
            test: One of the tests.
            chance: Accuracy of guessing, below 1.
        """
        return (self.network[test].value - self.without[test].value) / (1 - chance)

    def __str__(self) -> str:
        """One line for a person."""
        tests = (
            f"{test} {self.with_mask[test].value:.1%}, without {self.without[test].value:.1%}"
            for test in self.with_mask
        )
        return f"{self.name} ({self.kept:,} kept): {'; '.join(tests)}"


@dataclass(frozen=True)
class ShuffledLabels:
    """An objective whose labels belong to other examples: what a mask learns of labels alone.

    Outputs move on by one example, which for drawn batches is as good as drawing the labels anew. Examples come first in
    every tensor that the network returns; the loss is computed outside of it.

    Raises (when called):
        ValueError: The network returns a loss, or a part of a batch has a single example.

    Examples:
        >>> import torch
        >>> from maskscope.core.objectives import cross_entropy
        >>> batch = (torch.eye(2) * 9, torch.tensor([0, 1]))
        >>> bool(ShuffledLabels(cross_entropy)(nn.Identity(), batch) > 5)
        True
    """

    objective: Objective

    def __call__(self, model: Network, batch: Batch) -> Tensor:
        """The objective, of outputs that belong to other examples."""

        def moved(*args: Any, **kwargs: Any) -> Any:
            return pytree.tree_map_only(Tensor, _moved, model(*args, **kwargs))

        return self.objective(moved, batch)


def _moved(output: Tensor) -> Tensor:
    if not output.ndim:
        raise ValueError(
            "labels cannot be shuffled where the network itself computes the loss: pass an objective that takes the logits "
            "and computes it from them"
        )
    if output.shape[0] < 2:
        raise ValueError("labels cannot be shuffled among one example: larger batches, or fewer samples per step")
    return output.roll(1, 0)


def made(mask: Mask, ends: Sequence[str] = (), seed: int = 0) -> dict[str, Mask]:
    """The controls that need no learning, as masks.

    Args:
        mask: Of a subtask.
        ends: Parameters of the input and output layers, as globs; without them the controls about them are left out.
        seed: Of what is drawn.

    Raises:
        KeyError: A glob matches nothing.

    Examples:
        >>> import torch
        >>> from maskscope.core.layout import layout
        >>> over = layout(nn.Linear(4, 4))
        >>> mask = Mask.of(over, torch.arange(over.units) < 3)
        >>> {name: control.kept_units for name, control in made(mask).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'full': 16, 'empty': 0, 'random, of equal size': 3, 'shuffled within tensors': 3, 'sampled from the complement': 3}
    """
    return {name: make() for name, make in makers(mask, ends, seed).items()}


def makers(mask: Mask, ends: Sequence[str] = (), seed: int = 0) -> dict[str, Callable[[], Mask]]:
    """The same, each made when it is called: over a hundred million weights one takes seconds.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> makers(Mask.full(layout(nn.Linear(4, 4))))["empty"]().kept_units
        0
    """
    found: dict[str, Callable[[], Mask]] = {
        FULL: lambda: Mask.full(mask.layout),
        EMPTY: lambda: Mask.empty(mask.layout),
        RANDOM: lambda: random_of_size(mask, seed),
        SHUFFLED: lambda: random_like(mask, seed),
        SAMPLED: lambda: from_complement(mask, seed),
    }
    if ends:
        found |= {ENDS: lambda: half(mask, ends), WITHOUT_ENDS: lambda: half(complement(mask), ends)}
    return found


def controls(
    model: nn.Module,
    mask: Mask,
    tests: Mapping[str, Iterable[Batch]],
    metric: Metric | Mapping[str, Metric],
    *,
    ends: Sequence[str] = (),
    seed: int = 0,
    learn: Learn | None = None,
    objective: Objective | None = None,
    untrained: nn.Module | None = None,
    replacement: Replacement | None = None,
) -> tuple[Control, ...]:
    """Everything a mask should be compared with, in one call: the mask first, then each control, tested alone and inverted.

    Always: the full and the empty mask, random ones (of equal size; of equal size per tensor; of what the mask leaves out). With
    ``ends``: the mask in those layers only. With ``learn``: the same subtask with another seed; with ``objective`` too, a
    mask of labels that belong to other examples; with ``untrained`` too, a mask of the subtask on random weights.

    Args:
        model: The network.
        mask: Of a subtask.
        tests: Batches by name; finite, gone through many times.
        metric: One number per example; one for all tests, or one for each.
        ends: Parameters of the input and output layers, as globs.
        seed: Of what is drawn; learned controls have ``seed + 1``.
        learn: Learns a mask of the subtask on a model, with an objective, from a seed.
        objective: The one the mask was learned with.
        untrained: The same network with other, random weights.
        replacement: What removed weights become, in all tests. Default: zero.

    Raises:
        TypeError: ``tests`` is not a mapping.
        ValueError: ``learn`` without an objective, or ``untrained`` without ``learn``.
        KeyError: A glob matches nothing, or a test has no metric.

    Examples:
        >>> import torch
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.objectives import accuracy
        >>> model, tests = nn.Linear(2, 2), {"all": [(torch.eye(2), torch.tensor([0, 1]))]}
        >>> found = controls(model, Mask.full(layout(model)), tests, accuracy)
        >>> found[0].name, found[0].kept, len(found)
        ('mask', 4, 6)
    """
    if learn is not None and objective is None:
        raise ValueError("learned controls need the objective that the mask was learned with")
    if untrained is not None and learn is None:
        raise ValueError("a control on random weights needs to know how to learn it: pass learn")
    if not isinstance(tests, Mapping):
        raise TypeError(
            f'tests is a mapping of a name to batches, such as {{"addition": tests}}, got {type(tests).__name__}'
        )
    tests = {name: list(batches) for name, batches in tests.items()}
    metrics = dict(metric) if isinstance(metric, Mapping) else dict.fromkeys(tests, metric)
    if missing := [test for test in tests if test not in metrics]:
        raise KeyError(f"there is no metric for {missing}, only for {list(metrics)}")

    def scores(network: Network) -> dict[str, Score]:
        return {test: evaluate(network, batches, metrics[test]) for test, batches in tests.items()}

    def tested(
        name: str, network: nn.Module, itself: dict[str, Score], control: Mask, without: Mask | None = None
    ) -> Control:
        rest = complement(control) if without is None else without
        return Control(
            name,
            control.kept_units,
            scores(masked(network, control, replacement)),
            scores(masked(network, rest, replacement)),
            itself,
        )

    itself, others = scores(model), made(mask, ends, seed)
    without_ends = others.pop(WITHOUT_ENDS, None)
    found = [tested("mask", model, itself, mask)]
    found += [
        tested(name, model, itself, control, without_ends if name == ENDS else None) for name, control in others.items()
    ]
    if learn is not None and objective is not None:
        found.append(tested(AGAIN, model, itself, learn(model, objective, seed + 1)))
        found.append(tested(SHUFFLED_LABELS, model, itself, learn(model, ShuffledLabels(objective), seed + 1)))
        if untrained is not None:
            found.append(tested(UNTRAINED, untrained, scores(untrained), learn(untrained, objective, seed + 1)))
    return tuple(found)
