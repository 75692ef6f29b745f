"""What a run says, in one sentence with its numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from maskscope.analysis.modularity import Estimate, Finding, Reuse, estimate, percent
from maskscope.runs.dissociation import LOST, SPARED, Dissociation, dissociations
from maskscope.runs.estimates import accuracy, judged_in, reuse_in
from maskscope.runs.experiment import Experiment
from maskscope.runs.properties import Reused, Specialized, damage, reused, specialized
from maskscope.runs.removal import RemovalFinding, drops, removal_finding, worst_besides
from maskscope.runs.results import ALL, FEW, HoldsOut, SeedResults

Place = Literal["found", "found, but not alone", "cannot tell"]
"""Of a single subtask's weights."""


@dataclass(frozen=True)
class Verdict:
    """Whether the subtasks share weights, or have some of their own, and what says so."""

    finding: Finding | RemovalFinding | Place | Literal["differs by pair", "not masked", "nothing forgotten", "forgets"]
    headline: str
    """A few words."""
    overlap: str
    """The overlap behind them, in a sentence."""
    ablations: str
    """What the masks and their complements do, in sentences."""
    reuse: Reuse | None
    """Where sharing is the question. In the hidden layers: the first and last layer differ by construction where subtasks have inputs of their own."""


_NEARLY_ALL = 0.8
"""Chance of an overlap above which there is nothing left to compare: no ceiling is far enough above it."""

_HARMED, _AS_MUCH = 0.3, 0.8
"""Necessity from which random removals are compared with it, and the share of it from which they do as much. Conventions."""

_WITHOUT = ("complement", "complement with ends open")


def verdict(experiment: Experiment, results: Sequence[SeedResults]) -> Verdict:
    """The sentence, from what the experiment is about: what masks share, or what they lose that their training left out."""
    if experiment.masking is None:
        return _untouched(experiment, results)
    if isinstance(experiment.data, HoldsOut):
        return _removal(experiment, results)
    return _place(experiment, results) if len(experiment.data.subtasks) == 1 else _sharing(experiment, results)


def _untouched(experiment: Experiment, results: Sequence[SeedResults]) -> Verdict:
    said = ", ".join(f"{accuracy(results, 'full network', name).mean:.1%} on {name}" for name in experiment.data.tested)
    return Verdict(
        "not masked", f"Trained on {experiment.data.full} and tested, without masks", f"Right: {said}.", "", None
    )


def _place(experiment: Experiment, results: Sequence[SeedResults]) -> Verdict:
    """Of a single subtask: whether its mask holds what serves it, and all of that."""
    subtask = experiment.data.subtasks[0]
    warned = [warning for result in results for warning in result.warnings]
    found, whole = specialized(experiment, results, subtask), accuracy(results, "full network", subtask)
    alone, without, random = (
        accuracy(results, kind, subtask, subtask) for kind in ("mask", "complement", "random mask")
    )
    served, needed = found.sufficiency.mean >= SPARED, found.necessity.mean >= LOST
    unsure = bool(warned) or not served or _as_much_at_random(found)
    finding: Place = "cannot tell" if unsure else "found" if needed else "found, but not alone"
    headline = {
        "found": f"The mask holds what {subtask} needs: alone it serves it, without it the network fails",
        "found, but not alone": f"The mask serves {subtask}, but the network can do it without these weights too",
        "cannot tell": f"Cannot tell where {subtask} lies",
    }[finding]
    sizes = [
        tensor for result in results for size in result.sizes if size.name.subtask == subtask for tensor in size.tensors
    ]
    kept = sum(tensor.kept_weights for tensor in sizes) / max(1, sum(tensor.weights for tensor in sizes))
    numbers = (
        f"It keeps {kept:.1%} of the masked weights and is right in {alone.mean:.1%} of cases (the network: {whole.mean:.1%}; random "
        f"weights of the same sizes: {random.mean:.1%}); without them the network is right in {without.mean:.1%}."
    )
    compared = f" (of as many random weights: {found.necessity_at_random.short})" if found.necessity_at_random.n else ""
    measured = (
        f"Necessity {found.necessity.short}{compared}, sufficiency {found.sufficiency.short}.{_random_words([found])} What it shares "
        "with others, a second subtask would tell."
    )
    return Verdict(finding, headline, numbers, measured, None)


def _removal(experiment: Experiment, results: Sequence[SeedResults]) -> Verdict:
    found = drops(experiment, results)
    warned = [warning for result in results for warning in result.warnings]
    finding = "cannot tell" if warned else removal_finding(found)
    mean = estimate(drop.relative.mean for drop in found)
    known = [drop.relative.mean for drop in found if not math.isnan(drop.relative.mean)]
    headline = {
        "exclusive weights": "Masks lose what their training left out, though the network can do it",
        "some exclusive weights": "Masks lose a part of what their training left out",
        "no exclusive weights": "Masks keep what their training left out",
        "cannot tell": "Cannot tell whether what was left out has weights of its own",
    }[finding]
    spread = (
        f" (mean over {mean.n} of {len(found)}; from {percent(min(known, default=math.nan))} to "
        f"{percent(max(known, default=math.nan))})"
    )
    lost = (
        f"Under {'a mask' if len(found) == 1 else 'masks'} learned without it, accuracy falls by {percent(mean.mean)} of what the "
        f"control mask has{spread if len(found) > 1 else ''}."
    )
    each = "; ".join(f"{d.held_out} {d.control.mean:.1%} to {d.mask.mean:.1%}" for d in found)
    worst = worst_besides(found)
    others = (
        "Every other test has some of it too, so that none shows what falls besides."
        if worst is None
        else f"What falls most besides: {worst.worst_other} without {worst.held_out}, by {percent(worst.relative_other.mean)}."
    )
    return Verdict(finding, headline, lost, f"{each}. {others}", None)


def _sharing(experiment: Experiment, results: Sequence[SeedResults]) -> Verdict:
    subtasks = experiment.data.subtasks
    where = judged_in(results)
    found = reuse_in(results, where)
    warned = [warning for result in results for warning in result.warnings]
    placed = {pair: reused(results, where, pair) for pair in combinations(subtasks, 2)}
    finding = "cannot tell" if warned else _together(placed.values())
    named = " and ".join(subtasks) if len(subtasks) == 2 else f"the {len(subtasks)} subtasks"
    headline = {
        "separate": f"The masks of {named} hardly overlap: they use different weights",
        "shared": f"The masks of {named} overlap as two masks of one subtask do: they use the same weights",
        "partly shared": f"The masks of {named} overlap in part",
        "differs by pair": f"What {named} share differs from pair to pair",
        "cannot tell": "Cannot tell whether weights are shared",
    }[finding]
    if len(placed) > 1 and finding == "cannot tell" and not warned:
        headline += " by all"
    if finding == "separate" and _spared(experiment, results) < SPARED:
        headline += ", but removing those of one harms the other"
    one = next(iter(placed.values()))
    overlap = _overlap_words(where, found, placed.values()) + (
        f" P_reuse {one.iou} by IoU, {one.iomin} by IoMin.{_settle(found, one, finding, warned)}"
        if len(placed) == 1
        else _pair_words(placed)
    )
    return Verdict(finding, headline, overlap, _ablation_words(experiment, results), found)


def _together(placed: Iterable[Reused]) -> Finding | Literal["differs by pair"]:
    """What is found of all pairs; that they differ, if of two it is not the same; else that one cannot tell of all."""
    found: set[Finding] = {item.finding for item in placed}
    if len(found) == 1:
        return next(iter(found))
    return "differs by pair" if len(found - {"cannot tell"}) > 1 else "cannot tell"


def _pair_words(placed: Mapping[tuple[str, str], Reused]) -> str:
    """How many pairs of which finding, and the ones that share least and most."""
    counts = Counter(item.finding for item in placed.values())
    text = f" Of {len(placed)} pairs: {', '.join(f'{count} {finding}' for finding, count in counts.most_common())}."
    known = sorted((item.iou.mean, pair) for pair, item in placed.items() if not math.isnan(item.iou.mean))
    if not known:
        return text
    least, most = (f"{placed[pair].iou.short} of {' and '.join(pair)}" for _, pair in (known[0], known[-1]))
    return f"{text} P_reuse by IoU from {least} to {most}."


def _settle(found: Reuse, placed: Reused, finding: str, warned: Sequence[str]) -> str:
    """What would let one tell, where one cannot."""
    if finding != "cannot tell" or warned or not (found.iou.ceiling.n and found.iou.between.n):  # that has been said
        return ""
    reasons = (
        (
            found.iou.chance > _NEARLY_ALL,
            "The masks keep nearly everything there: a higher penalty, or a smaller density, would leave something to compare.",
        ),
        (
            math.isnan(placed.iou.mean),
            "Masks of one subtask agree too little with each other to judge by: learn longer, or units of whole rows.",
        ),
        (
            placed.iou.n == 1 < placed.iou.asked,
            f"Only in {placed.iou.of_how_many} masks of one subtask agree enough with each other to judge by: learn longer.",
        ),
        (
            math.isnan(placed.iou.low),
            "There is no interval: learn every mask twice or more, or use several network seeds.",
        ),
        (
            math.isnan(placed.iomin.low),
            "By IoMin nothing can be said, whose ceiling is hardly above chance: masks that keep less would leave something to compare.",
        ),
    )
    border = "The interval reaches over a border (1/3 and 2/3): more network seeds, or more masks, would settle it."
    return f" {next((text for holds, text in reasons if holds), border)}"


def _spared(experiment: Experiment, results: Sequence[SeedResults]) -> float:
    """The least that any subtask keeps of its accuracy (above chance) without another's weights."""
    subtasks = experiment.data.subtasks
    kept = (1 - damage(experiment, results, b, a).mean for a in subtasks for b in subtasks if a != b)
    return min((share for share in kept if not math.isnan(share)), default=1.0)


def _overlap_words(where: str, found: Reuse, every: Iterable[Reused]) -> str:
    placed = found.iou
    there = "all layers" if where == ALL else f"the {where}"
    if not placed.between.n:
        return f"In {there} masks are empty, so that there is no overlap."
    text = f"In {there} their IoU is {placed.between.mean:.2f}, where chance is {placed.chance:.2f}"
    if placed.ceiling.n == 0:
        return (
            f"{text}; masks were learned once, so that there is no ceiling to compare with: learn them twice or more."
        )
    text += f" and the same subtask learned again reaches {placed.ceiling.mean:.2f}"
    if all(math.isnan(one.iou.mean) for one in every):
        return f"{text}: too little room between chance and ceiling to judge by."
    return f"{text}."


def _ablation_words(experiment: Experiment, results: Sequence[SeedResults]) -> str:
    subtasks = experiment.data.subtasks
    others = [(a, b) for a in subtasks for b in subtasks if a != b]
    rest = "the other" if len(others) == 2 else "others"
    own_mask = _mean(accuracy(results, "mask", s, s) for s in subtasks)
    other_mask = _mean(accuracy(results, "mask", b, a) for a, b in others)
    own_without, own_open = (_mean(accuracy(results, kind, s, s) for s in subtasks) for kind in _WITHOUT)
    other_without, other_open = (_mean(accuracy(results, kind, b, a) for a, b in others) for kind in _WITHOUT)
    only_hidden = (
        f"; if only hidden weights are removed (input and output layers taken from the control mask), in {own_open:.1%} and "
        f"{other_open:.1%}"
    )
    return (
        f"A mask alone serves its own subtask in {own_mask:.1%} of cases and {rest} in {other_mask:.1%}. Without the "
        f"mask's weights its own is right in {own_without:.1%} and {rest} in {other_without:.1%}"
        f"{'' if math.isnan(own_open) else only_hidden}.{_special_words(experiment, results)}"
        f"{_dissociation_words(dissociations(experiment, results))}"
    )


def _dissociation_words(found: Sequence[Dissociation]) -> str:
    """Whether each subtask has weights that it alone needs; nothing where that was not measured."""
    if not found:
        return ""
    pairs = list(zip(found[::2], found[1::2], strict=True))
    double = [f"{first.lost} and {first.spared}" for first, second in pairs if first.holds and second.holds]
    if len(pairs) > 1:
        own, other = (_mean(part) for part in ((item.own for item in found), (item.other for item in found)))
        doubly = f"; a double dissociation of {', '.join(double)}" if double else ""
        return (
            f" Without the weights that one mask keeps and another does not, its own subtask is right in {own:.1%} and that other "
            f"in {other:.1%}{doubly}."
        )
    each = "; ".join(
        f"without those of {item.lost} alone ({item.share:.1%} of the masked weights) {item.lost} is right in {item.own.mean:.1%} "
        f"and {item.spared} in {item.other.mean:.1%}"
        for item in found
    )
    return f" Of the weights that one mask keeps and the other does not: {each}{', a double dissociation' if double else ''}."


def _special_words(experiment: Experiment, results: Sequence[SeedResults]) -> str:
    found = [(name, specialized(experiment, results, name)) for name in experiment.data.subtasks[:FEW]]
    known = [(name, item.p_specialize) for name, item in found if not math.isnan(item.p_specialize.mean)]
    alike = len({one.of_how_many for _, one in known}) == 1
    each = [f"{one.short if alike else one} of {name}" for name, one in known]
    n = f" (n={known[0][1].of_how_many})" if alike else ""
    rest = len(experiment.data.subtasks) - len(found)
    more = f", and {rest} more below" if rest > 0 else ""
    special = f" P_specialize {', '.join(each)}{more}{n}." if known else ""
    return special + _random_words(item for _, item in found)


def _random_words(found: Iterable[Specialized]) -> str:
    """Where removing as many random units does as much."""
    alike = [item.subtask for item in found if _as_much_at_random(item)]
    if not alike:
        return ""
    return (
        f" As many random units of each tensor, removed, harm {' and '.join(alike)} about as much: that the complement fails says "
        "little of these weights. Units that everything needs do that, such as those of normalisation layers (where they are masked, "
        'select without them: "!type:*Norm*").'
    )


def _as_much_at_random(item: Specialized) -> bool:
    return item.necessity.mean >= _HARMED and item.necessity_at_random.mean >= _AS_MUCH * item.necessity.mean


def _mean(estimates: Iterable[Estimate]) -> float:
    return estimate(item.mean for item in estimates).mean
