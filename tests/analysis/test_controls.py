"""Controls keep what they say, and tell a network that learned from one that did not."""

from inspect import unwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from maskscope.analysis.ablate import from_complement, random_of_size
from maskscope.analysis.controls import (
    AGAIN,
    EMPTY,
    ENDS,
    FULL,
    RANDOM,
    SAMPLED,
    SHUFFLED,
    SHUFFLED_LABELS,
    UNTRAINED,
    WITHOUT_ENDS,
    ShuffledLabels,
    controls,
    made,
)
from maskscope.core.apply import masked
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.objectives import accuracy, cross_entropy
from maskscope.core.seeded import seeded
from maskscope.models.mlp import MLP

OVER = layout(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
MASKS = st.sets(st.integers(0, OVER.units - 1)).map(
    lambda units: Mask.of(OVER, torch.tensor([i in units for i in range(OVER.units)]))
)


@given(MASKS, st.integers(0, 99))
def test_controls_keep_as_much_as_they_should(mask, seed):
    found = made(mask, ["0.weight"], seed)
    assert set(found) == {FULL, EMPTY, RANDOM, SHUFFLED, SAMPLED, ENDS, WITHOUT_ENDS}
    assert found[FULL].is_full
    assert found[EMPTY].is_empty
    assert found[RANDOM].kept_units == mask.kept_units
    sizes = [count.kept_units for count in mask.counts()]
    assert [count.kept_units for count in found[SHUFFLED].counts()] == sizes
    free = [min(count.kept_units, count.units - count.kept_units) for count in mask.counts()]
    assert [count.kept_units for count in found[SAMPLED].counts()] == free
    assert (found[SAMPLED] & mask).is_empty
    first, second = found[ENDS].parameter("0.weight"), found[WITHOUT_ENDS].parameter("0.weight")
    assert torch.equal(first, mask.parameter("0.weight"))
    assert torch.equal(second, ~first)
    assert found[ENDS].parameter("1.weight").all()
    assert found[WITHOUT_ENDS].parameter("1.weight").all()


def test_draws_depend_on_the_seed_alone():
    mask = Mask.of(OVER, torch.arange(OVER.units) < 5)
    for draw in (random_of_size, from_complement):
        assert draw(mask, 1) == draw(mask, 1)
        assert any(draw(mask, 1) != draw(mask, seed) for seed in range(2, 9))


def test_without_ends_there_are_no_controls_about_them():
    assert ENDS not in made(Mask.full(OVER))


def test_shuffled_labels_are_those_of_the_example_before():
    outputs, targets = torch.randn(5, 3), torch.randint(0, 3, (5,))
    found = ShuffledLabels(cross_entropy)(lambda x: outputs, (None, targets))
    assert torch.equal(found, functional.cross_entropy(outputs.roll(1, 0), targets))


def test_every_tensor_of_an_output_is_moved():
    seen = []

    def objective(network, batch):
        seen.append(network(batch))
        return torch.zeros(())

    ShuffledLabels(objective)(lambda x: {"logits": x, "more": [x + 1]}, torch.arange(3.0))
    assert seen[0]["logits"].tolist() == [2.0, 0.0, 1.0]
    assert seen[0]["more"][0].tolist() == [3.0, 1.0, 2.0]


def test_labels_that_cannot_be_shuffled_are_refused():
    with pytest.raises(ValueError, match="network itself computes the loss"):
        ShuffledLabels(lambda network, batch: network(batch)["loss"])(lambda x: {"loss": x.mean()}, torch.ones(3))
    with pytest.raises(ValueError, match="one example"):
        ShuffledLabels(cross_entropy)(nn.Identity(), (torch.randn(1, 3), torch.tensor([0])))


def parity(step: int, n: int = 128):
    """Whether two of six bits differ."""
    bits = torch.randint(0, 2, (n, 6), generator=torch.Generator().manual_seed(step))
    return bits.float() * 2 - 1, bits[:, 0] ^ bits[:, 1]


@pytest.fixture(scope="module")
def networks():
    with seeded(0):
        untrained, model = (MLP(6, (24, 24), 2) for _ in range(2))
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        adam.zero_grad()
        cross_entropy(model, parity(step)).backward()
        adam.step()
    return model, untrained


def test_what_removal_costs_tells_a_trained_network_from_a_random_one(networks):
    model, untrained = networks

    def learn(network, objective, seed):
        schedule = Schedule(steps=250, samples=2, settled=None)
        return learn_mask(network, parity, objective, schedule=schedule, penalty=1e-4, seed=seed).mask

    found = controls(
        model,
        learn(model, cross_entropy, 0),
        {"parity": [parity(10_000, 500)]},
        accuracy,
        ends=["layers.0.weight", "layers.2.weight"],
        learn=learn,
        objective=cross_entropy,
        untrained=untrained,
    )
    alone = {control.name: control.with_mask["parity"].value for control in found}
    without = {control.name: control.without["parity"].value for control in found}
    assert min(alone["mask"], alone[AGAIN], alone[FULL]) > 0.95
    assert max(without["mask"], without[AGAIN]) < 0.8
    costs = {control.name: control.cost("parity", chance=0.5) for control in found}
    assert costs[UNTRAINED] < 0.4 < min(costs["mask"], costs[AGAIN])
    assert costs["mask"] == pytest.approx(2 * (alone[FULL] - without["mask"]))
    assert max(alone[SHUFFLED_LABELS], alone[SHUFFLED], alone[RANDOM], alone[SAMPLED], alone[EMPTY]) < 0.8
    assert "parity" in str(found[0])
    ends = next(control for control in found if control.name == ENDS)
    first = learn(model, cross_entropy, 0)
    gone = masked(model, made(first, ["layers.0.weight", "layers.2.weight"])[WITHOUT_ENDS])
    assert ends.without["parity"].value == pytest.approx(float(accuracy(gone, parity(10_000, 500)).mean()))
    assert WITHOUT_ENDS not in alone


def test_learned_controls_need_what_they_are_learned_with(networks):
    model, untrained = networks
    mask, tests = Mask.full(layout(model)), {"parity": [parity(0)]}
    with pytest.raises(ValueError, match="objective"):
        controls(model, mask, tests, accuracy, learn=lambda *_: mask)
    with pytest.raises(ValueError, match="pass learn"):
        controls(model, mask, tests, accuracy, untrained=untrained)
    with pytest.raises(KeyError, match="other"):
        controls(model, mask, tests | {"other": [parity(0)]}, {"parity": accuracy})


def test_tests_without_a_name_are_refused():
    batches = [(torch.eye(3), torch.arange(2).repeat(2)[:3])]
    with pytest.raises(TypeError, match="tests is a mapping of a name to batches"):
        unwrap(controls)(nn.Linear(3, 2), Mask.full(layout(nn.Linear(3, 2))), batches, accuracy)


def test_tests_without_a_metric_are_named():
    model, tests = nn.Linear(3, 2), {"a": [(torch.eye(3), torch.tensor([0, 1, 0]))]}
    with pytest.raises(KeyError, match=r"there is no metric for \['a'\], only for \['b'\]"):
        controls(model, Mask.full(layout(model)), tests, {"b": accuracy})
