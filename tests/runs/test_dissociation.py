"""Double dissociation from results whose numbers are known: said where both intervals say it, of shared ends only."""

from dataclasses import replace

import pytest

import tiny
from maskscope.analysis.compare import Overlap
from maskscope.core.mask import Count
from maskscope.runs.dissociation import dissociations
from maskscope.runs.own import OwnData
from maskscope.runs.results import (
    ALL,
    ENDS,
    HIDDEN,
    Accuracy,
    MaskName,
    MaskSize,
    PairAccuracy,
    PairOverlap,
    SeedResults,
)
from maskscope.runs.verdict import verdict

TWO = replace(tiny.FNN, data=OwnData("two", "", ("a", "b"), 0.1, 0.0))


def overlaps(where, between, subtasks="ab"):
    names = [MaskName(subtask, r) for subtask in subtasks for r in range(2)]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            both = 90 if one.subtask == other.subtask else between
            yield PairOverlap(one, other, Overlap(where, both, 100, 100, 1000, 0.05, 0.1))


def removed_of(first, second, removals):
    return [
        PairAccuracy(removed, MaskName(first, seed), MaskName(second, seed), 20, subtask, value, 100)
        for removed, each in removals.items()
        for seed, values in enumerate(each)
        for subtask, value in zip((first, second), values, strict=True)
    ]


def results(removals, ends_shared=90):
    """Of two masks of each: what is right of (a, b) without those of a alone and of b alone."""
    full = [Accuracy("full network", None, subtask, 0.9, 100) for subtask in "ab"]
    places = ((HIDDEN, 30), (ENDS, ends_shared), (ALL, 30))
    return SeedResults(
        "",
        0,
        tuple(full),
        (),
        (MaskSize(MaskName("a", 0), (Count("w", "w", 50, 200, 50, 200),)),),
        tuple(item for where, both in places for item in overlaps(where, both)),
        (),
        (),
        pairs=tuple(removed_of("a", "b", removals)),
    )


DOUBLE = {"first alone": [(0.1, 0.89), (0.11, 0.9)], "second alone": [(0.9, 0.1), (0.88, 0.12)]}
ONE_SIDED = DOUBLE | {"second alone": [(0.9, 0.7), (0.88, 0.72)]}
SPILLS = DOUBLE | {"first alone": [(0.1, 0.5), (0.11, 0.52)]}
APART = DOUBLE | {"first alone": [(0.1, 0.89), (0.8, 0.9)]}
SINGLE = {removed: each[:1] for removed, each in DOUBLE.items()}


@pytest.mark.parametrize(
    ("removals", "holds"),
    [
        (DOUBLE, [True, True]),
        (ONE_SIDED, [True, False]),
        (SPILLS, [False, True]),
        (APART, [False, True]),
        (SINGLE, [False, False]),
    ],
)
def test_it_holds_where_both_intervals_say_so(removals, holds):
    found = dissociations(TWO, [results(removals)])
    assert [(item.lost, item.spared) for item in found] == [("a", "b"), ("b", "a")]
    assert [item.holds for item in found] == holds
    assert ("a double dissociation" in verdict(TWO, [results(removals)]).ablations) == all(holds)


def test_numbers_are_those_of_the_removals():
    first, second = dissociations(TWO, [results(DOUBLE)])
    assert first.share == pytest.approx(0.1)
    assert first.own.mean == pytest.approx(0.105)
    assert first.other.mean == pytest.approx(0.895)
    assert first.damage.mean == pytest.approx(1 - 0.005 / 0.8)  # chance .1, the network .9
    assert second.spill.mean == pytest.approx(0.01 / 0.8)
    said = verdict(TWO, [results(DOUBLE)]).ablations
    assert "without those of a alone (10.0% of the masked weights) a is right in 10.5% and b in 89.5%" in said


def test_nothing_is_said_where_inputs_are_not_shared():
    assert dissociations(TWO, [results(DOUBLE, ends_shared=10)]) == ()
    assert "dissociation" not in verdict(TWO, [results(DOUBLE, ends_shared=10)]).ablations


def test_nothing_is_said_where_nothing_was_removed():
    assert dissociations(TWO, [results({})]) == ()


def test_of_three_subtasks_the_pairs_are_named():
    three = replace(TWO, data=OwnData("three", "", ("a", "b", "c"), 0.1, 0.0))
    pairs = [*removed_of("a", "b", DOUBLE), *removed_of("a", "c", ONE_SIDED), *removed_of("b", "c", DOUBLE)]
    full = [Accuracy("full network", None, subtask, 0.9, 100) for subtask in "abc"]
    shared = [item for where in (HIDDEN, ENDS, ALL) for item in overlaps(where, 80, "abc")]
    found = replace(results({}), pairs=tuple(pairs), accuracies=tuple(full), overlaps=tuple(shared))
    assert [(item.lost, item.spared) for item in dissociations(three, [found])][2:4] == [("a", "c"), ("c", "a")]
    assert "; a double dissociation of a and b, b and c." in verdict(three, [found]).ablations


def test_of_three_subtasks_each_pair_must_share_its_ends():
    """b and c have inputs of their own; that the other pairs share theirs does not help."""
    three = replace(TWO, data=OwnData("three", "", ("a", "b", "c"), 0.1, 0.0))
    pairs = [*removed_of("a", "b", DOUBLE), *removed_of("a", "c", DOUBLE), *removed_of("b", "c", DOUBLE)]
    full = [Accuracy("full network", None, subtask, 0.9, 100) for subtask in "abc"]
    shared = [item for where in (HIDDEN, ENDS, ALL) for item in overlaps(where, 80, "abc")]
    apart = [
        replace(item, overlap=replace(item.overlap, both=10))
        if item.overlap.where == ENDS and {item.first.subtask, item.second.subtask} == {"b", "c"}
        else item
        for item in shared
    ]
    found = replace(results({}), pairs=tuple(pairs), accuracies=tuple(full), overlaps=tuple(apart))
    assert {(item.lost, item.spared) for item in dissociations(three, [found])} == {
        ("a", "b"),
        ("b", "a"),
        ("a", "c"),
        ("c", "a"),
    }
    assert "; a double dissociation of a and b, a and c." in verdict(three, [found]).ablations
