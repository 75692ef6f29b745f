"""Means of what runs measured, over network seeds and repetitions of masks: what verdicts, tables and charts ask for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from maskscope.analysis.modularity import Estimate, Reuse, estimate, reuse
from maskscope.runs.results import ALL, HIDDEN, Accuracy, Outcome, PairOverlap, SeedResults


def accuracies(results: Iterable[SeedResults], network: str, subtask: str, mask: str | None = None) -> list[float]:
    """Accuracies on a subtask, one for each network seed and repetition of the mask.

    Args:
        results: One per network seed.
        network: Which network or ablation, as named in ``Accuracy``.
        subtask: What was tested.
        mask: Whose mask; None for the full network.
    """
    return [
        item.value
        for result in results
        for item in result.accuracies
        if _is(item, network, mask) and item.subtask == subtask
    ]


def accuracy(results: Iterable[SeedResults], network: str, subtask: str, mask: str | None = None) -> Estimate:
    """The mean of ``accuracies``."""
    return estimate(accuracies(results, network, subtask, mask))


def outcome(
    results: Iterable[SeedResults], network: str, asked: str, outcome: str, mask: str | None = None
) -> Estimate:
    """How often a network's output is an outcome, where a subtask was asked for: a mean of ``Outcome``."""
    return estimate(
        item.value
        for result in results
        for item in result.outcomes
        if _is(item, network, mask) and (item.subtask, item.outcome) == (asked, outcome)
    )


def sharing(
    results: Iterable[SeedResults], subtask: str, where: str, kind: Literal["shared", "remaining"] = "shared"
) -> Estimate:
    """The paper's sharing statistics of a subtask's mask somewhere: a mean of ``Share``."""
    return estimate(
        share.shared if kind == "shared" else share.remaining
        for result in results
        for share in result.shares
        if (share.name.subtask, share.where) == (subtask, where)
    )


def compared(results: Iterable[SeedResults], where: str, pair: tuple[str, str] | None = None) -> list[PairOverlap]:
    """Overlaps of masks somewhere.

    Args:
        results: One per network seed.
        where: What part of the network.
        pair: Of two subtasks only. Default: of all.
    """
    return [
        item
        for result in results
        for item in result.overlaps
        if item.overlap.where == where and (pair is None or {item.first.subtask, item.second.subtask} <= set(pair))
    ]


def reuse_in(results: Iterable[SeedResults], where: str, pair: tuple[str, str] | None = None) -> Reuse:
    """How far subtasks share units somewhere, over all seeds and repetitions; arguments as for ``compared``.

    Raises:
        ValueError: The runs hold no overlap of such subtasks there.
    """
    return reuse_among(compared(results, where, pair), where)


def reuse_among(found: Iterable[PairOverlap], where: str) -> Reuse:
    """The same from overlaps: those of masks of two subtasks, and of one."""
    found = list(found)
    between = [item.overlap for item in found if item.first.subtask != item.second.subtask]
    again = [item.overlap for item in found if item.first.subtask == item.second.subtask]
    return reuse(between, again, where)


def judged_in(results: Iterable[SeedResults]) -> str:
    """The part of the network that the verdict is about: its hidden layers; everything, where there are none or no ends are set apart."""
    places = {item.overlap.where for result in results for item in result.overlaps}
    return HIDDEN if HIDDEN in places else ALL


def _is(item: Accuracy | Outcome, network: str, mask: str | None) -> bool:
    return item.network == network and (item.mask.subtask if item.mask else None) == mask
