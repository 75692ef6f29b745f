"""Which units serve which subtasks, against counting one by one; groups against those that were made."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from maskscope.analysis.compare import symmetric
from maskscope.analysis.serving import LARGEST, clusters, serving
from maskscope.core.layout import layout
from maskscope.core.mask import Mask

OVER = layout(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
BITS = st.lists(st.booleans(), min_size=OVER.units, max_size=OVER.units)


def mask(bits):
    return Mask.of(OVER, torch.tensor(bits))


@given(st.lists(BITS, min_size=1, max_size=4), st.booleans())
def test_units_are_counted_by_the_masks_that_keep_them(many, first_only):
    masks = {f"subtask {i}": mask(bits) for i, bits in enumerate(many)}
    found = serving(masks, ["0.weight"] if first_only else None)
    places = range(12) if first_only else range(OVER.units)
    wanted = Counter(tuple(name for name, bits in zip(masks, many, strict=True) if bits[unit]) for unit in places)
    none = wanted.pop((), 0)
    assert {item.subtasks: item.units for item in found.sets} == dict(wanted)
    degrees = [none] + [sum(n for s, n in wanted.items() if len(s) == k) for k in range(1, len(many) + 1)]
    assert list(found.degrees) == degrees
    sizes = [item.units for item in found.sets]
    assert sizes == sorted(sizes, reverse=True)


def test_only_the_largest_sets_are_told():
    over = layout(nn.Linear(64, 64))
    generator = torch.Generator().manual_seed(0)
    masks = {str(i): Mask.of(over, torch.rand(over.units, generator=generator) < 0.5) for i in range(7)}
    found = serving(masks)
    assert len(found.sets) == LARGEST < 127
    assert sum(found.degrees) == over.units


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="1 to 62"):
        serving({})
    with pytest.raises(ValueError, match="layout"):
        serving({"a": Mask.full(OVER), "b": Mask.full(layout(nn.Linear(2, 2)))})
    with pytest.raises(ValueError, match="two subtasks"):
        clusters(np.eye(1))


def test_groups_that_were_made_are_found():
    group = np.array([0, 1, 0, 1, 2])
    likeness = np.where(group[:, None] == group[None], 0.9, 0.1) + 0.01 * np.eye(5)
    found = clusters(likeness)
    assert {frozenset((*join.first, *join.second)) for join in found.joins[:2]} == {
        frozenset((0, 2)),
        frozenset((1, 3)),
    }
    assert [round(join.likeness, 6) for join in found.joins] == [0.9, 0.9, 0.1, 0.1]
    order = list(found.order)
    assert abs(order.index(0) - order.index(2)) == abs(order.index(1) - order.index(3)) == 1
    assert sorted(order) == [0, 1, 2, 3, 4]


def test_unknown_likeness_is_the_least():
    found = clusters(symmetric({("a", "b"): 0.8, ("a", "c"): 0.2}, ["a", "b", "c"]))
    assert {*found.joins[0].first, *found.joins[0].second} == {0, 1}
    assert found.joins[1].likeness == pytest.approx(0.2)


def test_what_joins_is_the_mean_of_what_is_known():
    assert np.isnan(clusters(np.full((3, 3), np.nan)).joins[0].likeness)
    found = clusters(symmetric({("a", "b"): 0.9, ("a", "c"): 0.3}, ["a", "b", "c"]))
    assert found.joins[1].likeness == pytest.approx(0.3)  # of b with c nothing is known


def test_a_table_of_pairs_is_symmetric():
    table = symmetric({("a", "b"): 0.5, ("c", "a"): 0.1}, ["a", "b", "c"])
    assert np.array_equal(table, table.T, equal_nan=True)
    assert np.isnan(np.diag(table)).all()
    assert np.isnan(table[1, 2])
