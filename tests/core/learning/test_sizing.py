"""A mask of the size that is asked for, on four kinds of network; resumed alike."""

from dataclasses import replace

import pytest
import torch

from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import masked
from maskscope.core.gates import HardConcrete, TopK
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.objectives import accuracy, cross_entropy
from maskscope.core.seeded import seeded
from maskscope.data.planted import Planted
from maskscope.models.planted import PlantedSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*is not settled.*")
SCHEDULE = Schedule(steps=300, samples=2, learning_rate=0.3)
DATA = Planted(valid=200)


def network(kind):
    with seeded(0):
        return PlantedSettings(kind, shared=0.5, distractors=0).build(DATA.inputs, DATA.outputs)


def learn(kind, density, **settings):
    model = network(kind)
    batches = DATA.batches("train", 64, 1, "first")
    settings = {"schedule": SCHEDULE, "penalty": 1e-5, "density": density, **settings}
    return model, learn_mask(model, batches, DATA.objective("first"), **settings)


@pytest.mark.parametrize("kind", ["mlp", "lstm", "cnn", "transformer"])
def test_the_size_that_was_asked_for(kind):
    model, learned = learn(kind, 0.02)
    assert learned.mask.kept_units == round(0.02 * learned.mask.layout.units)
    # To a factor of 2 before the last move, in so few steps: the penalty has done it, not the cut.
    assert 0.5 < learned.curve[-2].expected / learned.mask.kept_units < 2
    tests, metric = DATA.tests("valid", "first"), DATA.metric("first")
    assert evaluate(masked(model, learned.mask), tests, metric).value > 0.75  # 2 % is little; chance is a quarter


def test_a_smaller_mask_has_a_larger_penalty():
    (_, small), (_, large) = (learn("mlp", density, schedule=replace(SCHEDULE, steps=100)) for density in (0.05, 0.4))
    assert small.mask.kept_units < large.mask.kept_units
    assert small.mask.origin.penalty > large.mask.origin.penalty


def test_other_gates_can_be_sized():
    _, learned = learn("mlp", 0.2, gate=HardConcrete(), penalty=1e-4, schedule=replace(SCHEDULE, steps=100))
    assert learned.mask.kept_units == round(0.2 * learned.mask.layout.units)


def test_a_resumed_mask_is_the_same():
    model, whole = learn("mlp", 0.15, schedule=replace(SCHEDULE, steps=60))
    settings = {"schedule": replace(SCHEDULE, steps=60), "penalty": 1e-5, "density": 0.15}
    batches, over = DATA.batches("train", 64, 1, "first"), layout(model)
    first = Logits(over, settings["schedule"])
    for state in learning(model, batches, DATA.objective("first"), layout=over, resume=first, **settings):
        if state.step == 23:
            break
    second = Logits(over, settings["schedule"])
    second.restore(first.state())
    again = learn_mask(model, batches, DATA.objective("first"), resume=second, **settings)
    assert torch.equal(again.logits, whole.logits)
    assert again.mask == whole.mask


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0.1, "penalty": 0.0}, "needs one above 0"),
        ({"density": 0.1, "gate": TopK(0.2)}, "a gate without a size of its own"),
        ({"density": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_what_cannot_be_sized_says_so(settings, message):
    with seeded(0):
        model, batch = torch.nn.Linear(3, 2), (torch.randn(8, 3), torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match=message):
        learn_mask(model, [batch], cross_entropy, schedule=Schedule(steps=3), **settings)
    assert evaluate(model, [batch], accuracy).examples == 8
