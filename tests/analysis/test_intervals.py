"""Intervals cover what they say, at the handful of seeds that people have; specialisation is what its definition says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskscope.analysis.intervals import NOTHING, Interval, crossed, nested
from maskscope.analysis.specialize import left, specialization

RUNS = 4000
COVERED = (0.87, 0.94)


def covered(intervals, truth):
    return sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", ["normal", "accuracies"])
def test_nested_intervals_cover_as_they_say(n, shape):
    random = np.random.default_rng(n)
    if shape == "normal":
        networks, truth = random.normal(0.4, 0.1, (RUNS, n, 1)), 0.4
    else:  # bounded and skewed, as accuracies under complements are
        networks, truth = random.beta(6, 3, (RUNS, n, 1)), 2 / 3
    values = networks + random.normal(0, 0.05, (RUNS, n, 2))
    assert COVERED[0] <= covered([nested(run.tolist()) for run in values], truth) <= COVERED[1]


@pytest.mark.parametrize("n", [3, 5, 10])
def test_of_values_at_a_limit_with_rare_ones_far_away_they_cover_less(n):
    """As docs/metrics.md says: nothing can know of what it has not seen."""
    values = np.random.default_rng(n).beta(20, 0.5, (RUNS, n, 1))
    assert 0.7 <= covered([nested(run.tolist()) for run in values], 20 / 20.5) <= 0.85


def test_a_percentile_bootstrap_would_not():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        values = random.normal(0, 1, 3)
        means = random.choice(values, (500, 3)).mean(1)
        low, high = np.quantile(means, [0.05, 0.95])
        hits += low <= 0 <= high
    assert hits / 400 < 0.75


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_over_pairs_of_masks_cover_though_pairs_share_masks(n):
    random = np.random.default_rng(n)
    rows, columns = random.normal(0, 0.1, (RUNS, n, 1)), random.normal(0, 0.1, (RUNS, 1, n))
    tables = 0.3 + rows + columns
    assert 0.87 <= covered([crossed(table) for table in tables], 0.3) <= 0.98
    naive = [nested([table.ravel().tolist()]) for table in tables]  # as if all pairs were independent
    assert covered(naive, 0.3) < covered([crossed(table) for table in tables], 0.3)


def test_an_interval_over_one_network_says_so():
    assert nested([[0.1, 0.2, 0.3]]).over == "masks"
    assert nested([[0.1], [0.2]]).over == "networks"
    assert nested([[0.1, math.nan], [math.nan]]).n == 1
    assert nested([]) == NOTHING
    assert math.isnan(nested([[0.5]]).low)
    assert not nested([[0.5]]).within(0.0, 1.0)
    assert "n=2 networks" in str(nested([[0.1], [0.2]]))


def test_equal_values_have_an_interval_of_no_width():
    found = nested([[0.5], [0.5], [0.5]])
    assert (found.low, found.high) == (0.5, 0.5)
    assert crossed(np.full((2, 2), 0.5)).within(0.5, 0.5)
    assert math.isnan(crossed(np.full((1, 3), 0.5)).low)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=2, max_size=5))
def test_the_mean_lies_inside(networks):
    found = nested(networks)
    assert found.low <= found.mean <= found.high
    assert found.n == len(networks)


def accuracies(own, other):
    return {"a": own, "b": other, "c": other}


CHANCE = {"a": 0.1, "b": 0.1, "c": 0.1}
FULL = {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(
    ("complement", "expected"),
    [
        (accuracies(0.1, 1.0), 1.0),  # destroys its own only
        (accuracies(0.1, 0.1), 0.0),  # destroys everything
        (accuracies(0.55, 0.55), 0.0),  # harms all alike
        (accuracies(0.1, 0.55), 0.5),
        (accuracies(0.55, 1.0), 1.0),  # half of its own, nothing else
        (accuracies(1.0, 1.0), math.nan),  # not necessary: says nothing
    ],
)
def test_p_specialize_is_one_where_only_its_own_is_destroyed_and_zero_where_all_are(complement, expected):
    found = specialization("a", full=FULL, mask=accuracies(1.0, 0.1), complement=complement, chance=CHANCE)
    assert found.p_specialize == pytest.approx(expected, nan_ok=True)
    assert found.sufficiency == pytest.approx(1.0)
    assert found.necessity == pytest.approx(1 - (complement["a"] - 0.1) / 0.9)


def test_removal_that_harms_others_more_is_below_zero():
    found = specialization("a", full=FULL, mask=FULL, complement=accuracies(0.55, 0.1), chance=CHANCE)
    assert found.p_specialize < 0


def test_a_subtask_the_network_never_learned_does_not_count():
    full = {"a": 1.0, "b": 0.12, "c": 1.0}
    found = specialization("a", full=full, mask=full, complement={"a": 0.1, "b": 0.1, "c": 1.0}, chance=CHANCE)
    assert found.p_specialize == pytest.approx(1.0)
    assert math.isnan(left(0.5, full=0.15, chance=0.1))
    unlearned = specialization("b", full=full, mask=full, complement=full, chance=CHANCE)
    assert math.isnan(unlearned.p_specialize)
    with pytest.raises(KeyError, match="no accuracy of 'd'"):
        specialization("d", full=full, mask=full, complement=full, chance=CHANCE)


def test_an_interval_can_be_compared_with_borders():
    assert Interval(0.2, 0.1, 0.3, 3, "networks").within(0.0, 1 / 3)
    assert not Interval(0.2, 0.1, 0.4, 3, "networks").within(0.0, 1 / 3)
