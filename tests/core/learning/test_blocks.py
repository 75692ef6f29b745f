"""Rows of units: every unit once, with its parameter's own noise."""

import pytest
import torch
from torch import nn

from maskscope.core.gates import GumbelSigmoid
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.learning.blocks import Blocks
from maskscope.core.learning.kernels import Kernel, words
from maskscope.core.noise import draw, uniform


def network():
    return nn.Sequential(nn.Linear(7, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 3))


@pytest.mark.parametrize("large", [64, 1024, 1 << 20])
@pytest.mark.parametrize("grain", [None, PerOutput()], ids=["weight", "output"])
def test_a_flat_vector_comes_back_and_no_place_is_used_twice(grain, large):
    over = layout(network(), ["*"], granularity=grain)
    blocks = Blocks(over, large=large)
    flat = torch.arange(1.0, over.units + 1)
    rows = blocks.spread(flat)
    assert torch.equal(blocks.gather(rows), flat)
    assert int((rows > 0).sum()) == over.units
    for unused in blocks.unused:
        assert not rows.view(-1)[unused].any()
    covered = torch.zeros(blocks.count)
    for run in blocks.runs:
        covered[run.rows] += 1
    assert bool((covered == 1).all())


@pytest.mark.parametrize("large", [64, 1 << 20])
def test_the_noise_of_a_row_is_that_of_its_parameter(large):
    over = layout(network(), ["*"])
    blocks, gate, stream = Blocks(over, large=large), GumbelSigmoid(), draw(3, 5, 1, strata=4)
    half, ones, gates = (blocks.full(value) for value in (0.5, 1.0, 0.0))
    Kernel(gate, "eager").sample(gates, half, half, ones, (blocks.key0, blocks.key1), words(stream, blocks.device))
    for span in over.spans:
        u = uniform(torch.arange(span.units, dtype=torch.int32), *stream.of(span.name))
        assert torch.equal(blocks.own(gates, span), (u > 0.5).float())


def test_small_parameters_never_have_one_row_alone():
    """The compiler makes a special case of length one."""
    assert Blocks(layout(nn.Linear(1, 3))).count == 2
    both = Blocks(layout(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1))), large=4096)
    assert [run.rows for run in both.runs] == [slice(0, 64), slice(64, 66)]
