"""P-values against enumeration, by simulation under the null, and with a plain effect."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskscope.analysis.chance import Sizes, tails
from maskscope.analysis.significance import Network, combined, corrected, differs_from_ceiling


@given(st.integers(1, 6), st.data())
def test_tails_are_those_of_all_ways_to_place_the_kept_units(units, data):
    sizes = [Sizes(units, data.draw(st.integers(0, units)), data.draw(st.integers(0, units))) for _ in range(2)]
    both = data.draw(st.integers(0, sum(min(s.first, s.second) for s in sizes)))
    shared = [[len({*range(s.first)} & {*way}) for way in combinations(range(s.units), s.second)] for s in sizes]
    every = np.add.outer(*map(np.array, shared))
    found = tails(sizes, both)
    assert found.above == pytest.approx((every >= both).mean(), abs=1e-9)
    assert found.below == pytest.approx((every <= both).mean(), abs=1e-9)


def masks_of(random, subtasks, spread):
    """Overlaps of noisy masks: each mask is a point, overlap falls with distance."""
    centres = np.repeat(subtasks, 2)[:, None] + random.normal(0, spread, (4, 3))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return Network(np.exp(-distances), first=2)


def test_without_a_difference_p_values_are_uniform_enough():
    random = np.random.default_rng(0)
    found = [differs_from_ceiling([masks_of(random, [0.0, 0.0], 1.0) for _ in range(3)]) for _ in range(400)]
    assert 0.06 <= np.mean(np.array(found) <= 0.1) <= 0.14
    assert np.mean(np.array(found) <= 0.04) <= 0.07


def test_a_plain_difference_is_found_with_three_networks():
    random = np.random.default_rng(1)
    found = [differs_from_ceiling([masks_of(random, [0.0, 5.0], 0.5) for _ in range(3)]) for _ in range(20)]
    assert max(found) == pytest.approx(1 / 27)


def test_too_few_masks_give_no_test():
    random = np.random.default_rng(2)
    one = masks_of(random, [0.0, 5.0], 0.1)
    assert math.isnan(differs_from_ceiling([one]))  # three namings at most
    assert math.isnan(differs_from_ceiling([Network(np.eye(2), first=1)] * 9))
    assert math.isnan(differs_from_ceiling([]))
    assert math.isnan(differs_from_ceiling([Network(np.full((4, 4), np.nan), first=2)] * 3))


def test_many_networks_are_sampled_and_agree_with_enumeration():
    random = np.random.default_rng(3)
    networks = [masks_of(random, [0.0, 0.6], 1.0) for _ in range(9)]  # 3^9 = 19,683 namings
    assert differs_from_ceiling(networks) == pytest.approx(_enumerated(networks), abs=0.01)


def _enumerated(networks):
    ways = ((0, 1), (0, 2), (0, 3))

    def gap(table, first):
        pairs = [(i, j) for i in range(4) for j in range(i)]
        within = [table[i, j] for i, j in pairs if (i in first) == (j in first)]
        return np.mean(within) - np.mean([table[i, j] for i, j in pairs if (i in first) != (j in first)])

    sums = np.zeros(1)
    for network in networks:
        sums = np.add.outer(sums, [gap(network.overlaps, way) for way in ways]).ravel()
    return (sums >= sums[0] - 1e-12).mean()


def test_many_masks_of_one_network_are_not_enumerated():
    random = np.random.default_rng(4)
    points = np.concatenate([random.normal(0, 1, 9), random.normal(0, 1, 9)])
    table = np.exp(-np.abs(points[:, None] - points[None]))
    assert 0 < differs_from_ceiling([Network(table, first=9)]) <= 1  # 48,620 namings


def test_masks_of_unequal_number_are_named_in_every_way():
    table = np.full((5, 5), 0.1)
    table[:2, :2] = table[2:, 2:] = 0.9
    assert differs_from_ceiling([Network(table, first=2)]) == pytest.approx(1 / 10)


def test_combination_and_correction_leave_out_what_is_not_there():
    assert combined([math.nan, 0.2]) == pytest.approx(0.2)
    assert math.isnan(combined([]))
    assert corrected([math.nan]) == pytest.approx((math.nan,), nan_ok=True)
    many = corrected([0.001, 0.5, 0.9])
    assert many[0] == pytest.approx(0.001 * 3 * (1 + 1 / 2 + 1 / 3))
    assert all(0 <= value <= 1 for value in many)
