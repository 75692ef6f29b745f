"""Overlaps against Python sets; chance against drawing and against enumeration."""

import math
from inspect import unwrap
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from maskscope.analysis.ablate import (
    complement,
    completed,
    from_complement,
    half,
    keep_open,
    random_like,
    random_of_size,
)
from maskscope.analysis.chance import Sizes, expected
from maskscope.analysis.compare import iomin, iou, overlap, per_layer, per_tensor, remaining, shared
from maskscope.analysis.modularity import Estimate, Placed, Reuse, estimate, reuse_of, sampled_chance
from maskscope.core.layout import layout
from maskscope.core.mask import Mask

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.LSTM(2, 2))
OVER = layout(MODEL)
SETS = st.sets(st.integers(0, OVER.units - 1))
PLACES = {segment.parameter: set(range(segment.offset, segment.offset + segment.units)) for segment in OVER.segments}


def mask(units) -> Mask:
    kept = torch.zeros(OVER.units, dtype=torch.bool)
    kept[list(units)] = True
    return Mask.of(OVER, kept)


def same(found: float, wanted: float) -> bool:
    return found == pytest.approx(wanted) or (math.isnan(found) and math.isnan(wanted))


def brute_iou(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a and b else math.nan


def brute_iomin(a: set, b: set) -> float:
    return len(a & b) / min(len(a), len(b)) if a and b else math.nan


@given(SETS, SETS)
def test_iou_and_iomin_are_those_of_sets_pooled_and_per_tensor(a, b):
    assert same(iou(mask(a), mask(b)), brute_iou(a, b))
    assert same(iomin(mask(a), mask(b)), brute_iomin(a, b))
    for row in per_tensor(mask(a), mask(b)):
        here = PLACES[row.where]
        assert same(row.iou, brute_iou(a & here, b & here))
        assert same(row.iomin, brute_iomin(a & here, b & here))


@given(SETS, SETS)
def test_overlap_is_symmetric_and_iou_never_exceeds_iomin(a, b):
    assert same(iou(mask(a), mask(b)), iou(mask(b), mask(a)))
    assume(a and b)
    assert iou(mask(a), mask(b)) <= iomin(mask(a), mask(b))


@given(SETS)
def test_a_mask_overlaps_wholly_with_itself_and_not_with_its_complement(a):
    assume(a)
    assert iou(mask(a), mask(a)) == iomin(mask(a), mask(a)) == 1
    assert same(iou(mask(a), ~mask(a)), math.nan if mask(a).is_full else 0.0)


@given(st.lists(SETS, min_size=2, max_size=4), SETS)
def test_shared_and_remaining_are_those_of_sets(sets, control):
    for i, share in enumerate(shared([mask(a) for a in sets])):
        others = set().union(*(b for j, b in enumerate(sets) if j != i))
        assert same(share, len(sets[i] & others) / len(sets[i]) if sets[i] else math.nan)
    left = len(sets[0] & control) / len(control) if control else math.nan
    assert same(remaining(mask(sets[0]), mask(control)), left)


def test_layers_pool_the_parameters_of_a_module():
    rows = per_layer(mask({0, 1}), mask({1, 2}))
    assert [row.where for row in rows] == ["0", "1", "2.l0"]
    assert rows[2].units == 32
    assert rows[0].iou == 1 / 3


def test_an_empty_mask_has_no_overlap_rather_than_full_reuse():
    assert math.isnan(iou(mask(set()), mask(set())))
    assert math.isnan(iomin(mask(set()), mask({1})))
    assert math.isnan(iou(mask(set()), mask({1})))


def test_sharing_needs_two_masks():
    with pytest.raises(ValueError, match="at least two masks, got 1"):
        shared([mask({1})])


def test_where_names_parameters_or_says_which_are_near():
    assert iou(mask({0}), mask({0, 12}), ["0.*"]) == 1
    with pytest.raises(KeyError, match="nearest"):
        iou(mask({0}), mask({0}), ["o.weight"])


# Chance


def enumerated(units: int, a: int, b: int) -> tuple[float, float]:
    """Mean IoU and IoMin over all pairs of subsets of these sizes."""
    first = set(range(a))
    rows = [set(second) for second in combinations(range(units), b)]
    return (
        sum(len(first & second) / len(first | second) for second in rows) / len(rows),
        sum(len(first & second) / min(a, b) for second in rows) / len(rows),
    )


@pytest.mark.parametrize(("units", "a", "b"), [(2, 1, 1), (5, 2, 3), (6, 6, 2), (7, 1, 4), (8, 4, 4)])
def test_chance_of_one_tensor_is_the_mean_over_all_subsets(units, a, b):
    assert expected([Sizes(units, a, b)]) == pytest.approx(enumerated(units, a, b))


def test_chance_of_several_tensors_is_that_of_drawing():
    generator = torch.Generator().manual_seed(0)
    a = Mask.of(OVER, torch.rand(OVER.units, generator=generator) < 0.3)
    b = Mask.of(OVER, torch.rand(OVER.units, generator=generator) < 0.6)
    drawn = sampled_chance(a, b, draws=3000, seed=1)
    assert abs(drawn.mean - overlap(a, b).chance_iou) < 4 * drawn.std / drawn.n**0.5


def test_chance_of_large_tensors_is_close_to_the_plug_in_and_never_below_it():
    units, a, b = 12_000_000, 240_000, 300_000
    mean = a * b / units
    plug_in = mean / (a + b - mean)
    found = expected([Sizes(units, a, b)]).iou
    assert plug_in <= found == pytest.approx(plug_in, rel=1e-4)


def test_the_plug_in_is_wrong_for_small_tensors():
    assert expected([Sizes(4, 1, 1)]).iou == pytest.approx(0.25)
    assert 0.25 / 1.75 < 0.15  # what the ratio of the means would say


def test_chance_of_empty_and_full_masks():
    assert math.isnan(expected([Sizes(5, 0, 0)]).iou)
    assert math.isnan(expected([Sizes(5, 0, 2)]).iou)
    assert expected([Sizes(5, 5, 5)]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="between 0 and all units"):
        expected([Sizes(5, 6, 1)])


# Ablations


@given(SETS, SETS)
def test_ablations_are_set_operations(a, control):
    here = PLACES["0.weight"]
    everything = set(range(OVER.units))
    assert complement(mask(a)) == mask(everything - a)
    assert half(mask(a), ["0.weight"]) == mask((a & here) | (everything - here))
    assert keep_open(mask(a), mask(control), ["0.weight"]) == mask((a - here) | (control & here))


@pytest.mark.parametrize(
    "ablated",
    [
        lambda x: unwrap(complement)(x),
        lambda x: unwrap(half)(x, ["0.weight"]),
        lambda x: unwrap(keep_open)(x, mask(()), ["0.weight"]),
        lambda x: unwrap(keep_open)(mask(()), x, ["0.weight"]),
        lambda x: unwrap(completed)(x, mask(())),
        lambda x: unwrap(completed)(mask(()), x),
        lambda x: unwrap(random_like)(x, 0),
        lambda x: unwrap(random_of_size)(x, 0),
        lambda x: unwrap(from_complement)(x, 0),
        lambda x: unwrap(Mask.__and__)(mask(()), x),
        lambda x: unwrap(Mask.__or__)(mask(()), x),
        lambda x: unwrap(Mask.__xor__)(mask(()), x),
        lambda x: unwrap(Mask.__sub__)(mask(()), x),
    ],
)
def test_what_is_no_mask_is_refused_by_name(ablated):
    with pytest.raises(TypeError, match="expected a Mask, got dict; what learn_mask returns holds it as"):
        ablated({})


@given(SETS, st.integers(0, 10))
def test_random_masks_have_the_same_size_in_every_tensor(a, seed):
    drawn = random_like(mask(a), seed)
    assert [count.kept_units for count in drawn.counts()] == [count.kept_units for count in mask(a).counts()]
    assert drawn == random_like(mask(a), seed)


def test_random_masks_of_different_seeds_differ():
    a = mask(range(0, OVER.units, 2))
    assert random_like(a, 0) != random_like(a, 1)


# Verdict numbers


def test_estimates_leave_nan_out_and_say_how_many_remain():
    assert estimate([1.0, math.nan, 3.0]).n == 2
    assert math.isnan(estimate([1.0]).std)
    assert estimate([]).n == 0


def placed(between: float, chance: float, ceiling: float) -> Placed:
    return Placed(Estimate(between, 0.0, 1), chance, Estimate(ceiling, 0.0, 1))


@pytest.mark.parametrize(
    ("iou", "iomin", "finding"),
    [
        (placed(0.15, 0.01, 0.84), placed(0.25, 0.05, 0.9), "separate"),
        (placed(0.45, 0.01, 0.84), placed(0.6, 0.05, 0.9), "partly shared"),
        (placed(0.80, 0.01, 0.84), placed(0.88, 0.05, 0.9), "shared"),
        (placed(0.20, 0.01, 0.84), placed(1.0, 0.05, 0.9), "partly shared"),  # a small mask inside a large one
        (placed(0.10, 0.09, 0.12), placed(0.2, 0.05, 0.9), "cannot tell"),
        (placed(math.nan, 0.01, 0.84), placed(0.2, 0.05, 0.9), "cannot tell"),
        (placed(0.2, 0.01, math.nan), placed(0.2, 0.05, math.nan), "cannot tell"),
    ],
)
def test_a_finding_needs_both_measures_and_a_ceiling_well_above_chance(iou, iomin, finding):
    assert Reuse("all", iou, iomin).finding == finding


def test_a_mask_that_contains_another_is_not_separate_from_it():
    over = layout(nn.Linear(100, 100))
    small, large = (Mask.of(over, torch.arange(over.units) < size) for size in (100, 800))
    found = reuse_of([small] * 2, [large] * 2)
    assert reuse_of(small, large).iou.between.mean == found.iou.between.mean
    assert found.iou.position < 0.2
    assert found.iomin.position > 0.9
    assert found.finding == "partly shared"


def test_empty_masks_have_no_finding():
    assert reuse_of([mask(set())] * 2, [mask(range(9))] * 2).finding == "cannot tell"


def test_reuse_is_one_at_the_ceiling_and_none_at_chance():
    a, b = mask(range(10)), mask(range(2, 12))
    found = reuse_of([a, b], [a, b])
    assert found.iou.between.n == 4
    assert found.iou.ceiling.n == 2
    assert placed(0.84, 0.01, 0.84).position == 1
    assert placed(0.01, 0.01, 0.84).position == 0
    with pytest.raises(ValueError, match="at least one overlap"):
        reuse_of([], [a])
