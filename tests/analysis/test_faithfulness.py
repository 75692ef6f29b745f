"""Curves whose areas are known, and divergence against scipy's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn

from maskscope.analysis.evaluate import evaluate
from maskscope.analysis.faithfulness import SIZES, Likeness, curve, divergence
from maskscope.analysis.scores import best
from maskscope.core.apply import masked
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import accuracy

OVER = layout(nn.Linear(10, 10))


@given(st.floats(0, 1), st.integers(0, 5))
def test_the_best_are_those_that_score_highest(share, seed):
    scores = torch.randn(OVER.units, generator=torch.Generator().manual_seed(seed))
    mask = best(OVER, scores, share)
    assert mask.kept_units == round(share * OVER.units)
    if not mask.is_empty and not mask.is_full:
        assert scores[mask.kept].min() >= scores[~mask.kept].max()


def test_a_straight_line_has_half_the_area():
    found = curve(OVER, torch.randn(OVER.units), lambda mask: 0.2 + 0.6 * mask.density, [0.1, 0.5])
    assert [point.share for point in found.points] == [0.0, 0.1, 0.5, 1.0]
    assert found.cpr == pytest.approx(0.5)
    assert found.cmd == pytest.approx(0.5)


def test_parts_that_do_better_than_the_whole_count_in_cpr_and_against_cmd():
    values = {0.0: 0.0, 0.5: 1.0, 1.0: 0.5}
    found = curve(OVER, torch.randn(OVER.units), lambda mask: values[mask.density], [0.5])
    assert [point.faithfulness for point in found.points] == [0.0, 2.0, 1.0]
    assert found.cpr == pytest.approx(0.5 + 0.75)
    assert found.cmd == pytest.approx(0.5 + 0.25)


def test_what_was_not_learned_has_no_faithfulness():
    found = curve(OVER, torch.randn(OVER.units), lambda mask: 0.1)
    assert len(found.points) == len(SIZES) + 2
    assert math.isnan(found.cpr)
    assert math.isnan(found.cmd)


def test_scores_find_the_part_that_does_it():
    model = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(10, 10) * 0.01 + torch.eye(10))
    tests = [(torch.eye(10), torch.arange(10))]
    over = layout(model)

    def measure(mask):
        return evaluate(masked(model, mask), tests, accuracy).value

    by_size = curve(over, model.weight.detach().abs().flatten(), measure, [0.1, 0.5])
    backwards = curve(over, -model.weight.detach().abs().flatten(), measure, [0.1, 0.5])
    assert by_size.points[1].faithfulness == 1.0
    assert by_size.cpr > 0.9 > 0.6 > backwards.cpr


@pytest.mark.parametrize("scores", [torch.randn(3), torch.full((OVER.units,), math.nan)])
def test_scores_must_be_one_for_each_unit(scores):
    with pytest.raises(ValueError, match="scores without NaN"):
        best(OVER, scores, 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        best(OVER, torch.randn(OVER.units), 1.5)


def test_divergence_is_scipys():
    first, second = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.randn(6, 4)
    wanted = jensenshannon(first.softmax(-1).numpy(), second.softmax(-1).numpy(), base=2, axis=1) ** 2
    assert divergence(first, second).numpy() == pytest.approx(wanted, abs=1e-6)
    assert divergence(first, second).numpy() == pytest.approx(divergence(second, first).numpy())


def test_impossible_classes_count_for_nothing():
    first = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]])
    assert divergence(first, first.flip(1)).tolist() == [1.0, 1.0]
    assert divergence(first, first).tolist() == [0.0, 0.0]


def test_likeness_is_the_mean_over_positions():
    outputs = torch.randn(3, 5, 4)
    found = Likeness(lambda x: outputs, lambda network, batch: network(batch))(lambda x: -outputs, torch.zeros(3))
    assert found.shape == (3,)
    assert found.numpy() == pytest.approx(1 - divergence(outputs, -outputs).mean(1).numpy())
    assert np.all(found.numpy() <= 1)


def test_an_empty_mask_says_what_biases_say():
    model, x = nn.Linear(3, 2), torch.randn(4, 3) * 9
    likeness = Likeness(model, lambda network, batch: network(batch))
    empty = masked(model, Mask.empty(layout(model)))
    wanted = 1 - divergence(model.bias.detach().expand(4, 2), model(x).detach())
    assert likeness(empty, x).detach().numpy() == pytest.approx(wanted.numpy(), abs=1e-6)


def test_predictions_that_are_not_numbers_are_like_nothing():
    assert bool(divergence(torch.full((3,), math.nan), torch.randn(3)).isnan())


def test_how_much_better_than_nothing_is_for_the_caller_to_say():
    found = curve(OVER, torch.randn(OVER.units), lambda mask: 0.05 * mask.density, [0.5], least=0.01)
    assert found.cpr == pytest.approx(0.5)
