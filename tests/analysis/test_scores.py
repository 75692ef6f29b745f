"""Scores against torch's own pruning and against gradients taken one by one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import zoo
from maskscope.analysis.scores import (
    InTurn,
    at_random,
    best,
    fisher,
    gradient_times_weight,
    integrated_gradients,
    magnitude,
)
from maskscope.core.apply import bake, masked
from maskscope.core.granularity import PerOutput, PerWeight
from maskscope.core.groups import PerHead
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learning
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.objectives import cross_entropy
from maskscope.core.seeded import seeded

INPUTS = torch.linspace(-1, 1, 24).view(4, 6)
BATCHES = [(INPUTS, torch.tensor([0, 1, 2, 3])), (INPUTS[:2] * 2, torch.tensor([3, 1]))]


@pytest.fixture
def model():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_magnitude_is_that_of_torchs_global_pruning(model, share):
    over, theirs = layout(model), copy.deepcopy(model)
    sites = [(theirs[0], "weight"), (theirs[2], "weight")]
    total = over.units
    prune.global_unstructured(sites, prune.L1Unstructured, amount=total - round(share * total))
    ours = bake(model, best(over, magnitude(model, over), share))
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[2].weight, theirs[2].weight)


def test_a_mask_given_to_torchs_pruning_gives_the_same_outputs(model):
    mask = best(layout(model), at_random(layout(model), seed=3), 0.4)
    theirs = copy.deepcopy(model)
    for index in (0, 2):
        prune.custom_from_mask(theirs[index], "weight", mask.parameter(f"{index}.weight"))
    torch.testing.assert_close(masked(model, mask)(INPUTS), theirs(INPUTS))


def test_a_share_of_every_tensor(model):
    over = layout(model)
    mask = best(over, magnitude(model, over), 0.25, per="tensor")
    assert [count.kept_units for count in mask.counts()] == [12, 8]


def slopes(model, over, batch, opening=1.0):
    """d(loss)/d(gate) by differences, in double precision."""
    model = copy.deepcopy(model).double()
    inputs, labels = batch[0].double(), batch[1]

    def loss(gates):
        found = copy.deepcopy(model)
        with torch.no_grad():
            for segment in over.segments:
                weight = found.get_parameter(segment.parameter)
                weight.mul_(segment.expanded(segment.own(gates)))
            return float(cross_entropy(found, (inputs, labels)))

    found = []
    for unit in range(over.units):
        gates = torch.full((over.units,), opening, dtype=torch.float64)
        gates[unit] += 1e-5
        up = loss(gates)
        gates[unit] -= 2e-5
        found.append((up - loss(gates)) / 2e-5)
    return torch.tensor(found)


@pytest.mark.parametrize("grain", [PerWeight(), PerOutput()], ids=lambda grain: grain.kind)
def test_gradient_scores_are_those_of_differences(model, grain):
    over = layout(model, granularity=grain)
    each = [slopes(model, over, batch) for batch in BATCHES]
    mean = (each[0] * 4 + each[1] * 2) / 6
    torch.testing.assert_close(
        gradient_times_weight(model, BATCHES, cross_entropy, over), mean.abs().float(), rtol=1e-3, atol=1e-5
    )
    squares = (each[0].square() * 4 + each[1].square() * 2) / 6
    torch.testing.assert_close(fisher(model, BATCHES, cross_entropy, over), squares.float(), rtol=1e-3, atol=1e-6)
    path = torch.stack([slopes(model, over, BATCHES[0], (step + 0.5) / 4) for step in range(4)]).mean(0)
    found = integrated_gradients(model, BATCHES[:1], cross_entropy, over, steps=4)
    torch.testing.assert_close(found, path.abs().float(), rtol=1e-3, atol=1e-5)


def test_scores_over_tied_units_leave_the_network_as_it_was():
    model = zoo.gpt2()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    over, tokens = layout(model, granularity=PerHead()), torch.arange(10).view(2, 5)

    def objective(network, batch):
        return network(input_ids=batch, labels=batch).loss

    for scores in (magnitude(model, over), gradient_times_weight(model, [tokens], objective, over)):
        assert scores.shape == (4,)
        assert (scores > 0).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_scores_are_the_same_for_the_same_seed(model):
    over = layout(model)
    assert torch.equal(at_random(over, 1), at_random(over, 1))
    assert not torch.equal(at_random(over, 1), at_random(over, 2))


def test_bad_scores_are_refused(model):
    over = layout(model)
    with pytest.raises(ValueError, match="expected 80 scores"):
        best(over, torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="share is from 0 to 1"):
        best(over, torch.zeros(80), 1.5, per="tensor")
    with pytest.raises(ValueError, match="no batches"):
        gradient_times_weight(model, [], cross_entropy, over)
    assert best(over, torch.zeros(80), 0.0) == Mask.empty(over)


def test_units_leave_in_the_order_of_their_scores(model):
    over = layout(model)
    begin = InTurn(first=2.0, last=8.0, batches=2)(model, over, BATCHES, cross_entropy)
    scores = fisher(model, BATCHES, cross_entropy, over)
    assert (begin.min(), begin.max()) == (2.0, 8.0)
    assert torch.equal(torch.argsort(begin), torch.argsort(scores, stable=True))
    states = learning(
        model,
        BATCHES[:1],
        lambda network, batch: 0 * cross_entropy(network, batch),  # nothing speaks for any: the penalty alone
        layout=over,
        initial=begin,
        schedule=Schedule(steps=60, samples=1, learning_rate=0.1, warmup=0.0, settled=None),
        penalty=1.0,
    )
    kept = [int((state.logits.values > 0).sum()) for state in states]
    left = -torch.tensor([over.units, *kept]).diff()
    assert kept[-1] < over.units / 2
    assert left.max() <= 2 + over.units * 0.1 / 6  # a step moves a tenth of a logit, of six they are spread over


def test_it_looks_at_a_few_batches_of_those_that_come(model):
    asked = []
    InTurn(batches=3)(model, layout(model), lambda step: asked.append(step) or BATCHES[0], cross_entropy)
    assert asked == [0, 1, 2]
    for settings in ({"batches": 0}, {"first": 3.0, "last": 2.0}):
        with pytest.raises(ValueError, match="at least 1 batch and first <= last"):
            InTurn(**settings)
