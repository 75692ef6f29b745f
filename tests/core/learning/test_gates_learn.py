"""What learning makes of every gate: the weights that matter are kept, whatever the gate."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from maskscope.analysis.evaluate import evaluate
from maskscope.core.apply import masked
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.objectives import Distillation, accuracy, cross_entropy
from maskscope.core.seeded import seeded
from maskscope.models.mlp import MLP

LEARNED = [
    (GumbelSigmoid(), 1e-3),
    (HardConcrete(), 3e-3),
    (Sigmoid(), 3e-3),
    (TopK(0.2), 0.0),
    (TopK(0.2, per="all"), 0.0),
]
SCHEDULE = Schedule(steps=300)
pytestmark = pytest.mark.filterwarnings("ignore:.*is not settled.*", "ignore:.*keeps everything.*")


@pytest.fixture(scope="module")
def batch():
    """Four classes that two of ten inputs tell apart."""
    with seeded(3):
        inputs = torch.randn(256, 10)
    return inputs, (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()


@pytest.fixture(scope="module")
def model(batch):
    with seeded(0):
        model = MLP(10, (32,), 4)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(200):
            adam.zero_grad()
            cross_entropy(model, batch).backward()
            adam.step()
    return model


@pytest.mark.parametrize(("gate", "penalty"), LEARNED, ids=repr)
def test_every_gate_finds_the_inputs_that_matter(gate, penalty, model, batch):
    learned = learn_mask(model, [batch], cross_entropy, gate=gate, penalty=penalty, schedule=SCHEDULE, subtask="all")
    assert learned.mask.density < 0.6
    assert evaluate(masked(model, learned.mask), [batch], accuracy).value > 0.85
    first = learned.mask.parameter("layers.0.weight").float().mean(0)
    assert first[:2].mean() > 2 * first[2:].mean()


@pytest.mark.parametrize(("gate", "penalty"), LEARNED, ids=repr)
def test_a_resumed_mask_is_the_same(gate, penalty, model, batch):
    settings = {"gate": gate, "penalty": penalty, "schedule": replace(SCHEDULE, steps=40), "seed": 5}
    whole = learn_mask(model, lambda step: batch, cross_entropy, **settings)
    first = Logits(layout(model), settings["schedule"])
    for state in learning(model, lambda step: batch, cross_entropy, layout=layout(model), resume=first, **settings):
        if state.step == 17:
            break
    second = Logits(layout(model), settings["schedule"])
    second.restore(first.state())
    again = learn_mask(model, lambda step: batch, cross_entropy, resume=second, **settings)
    assert torch.equal(again.logits, whole.logits)


@pytest.mark.parametrize("grain", [None, PerOutput()])
@pytest.mark.parametrize("density", [0.02, 0.3, 0.97])
def test_top_k_keeps_exactly_that_many(density, grain, model, batch):
    over = layout(model) if grain is None else layout(model, granularity=grain)
    schedule = replace(SCHEDULE, steps=12)
    gates = {per: TopK(density, per=per) for per in ("tensor", "all")}
    learned = {
        per: learn_mask(model, [batch], cross_entropy, layout=over, gate=gate, schedule=schedule).mask
        for per, gate in gates.items()
    }
    for count in learned["tensor"].counts():
        assert count.kept_units == max(1, round(density * count.units))
    assert learned["all"].kept_units == max(1, round(density * over.units))


def test_a_sharpened_sigmoid_ends_as_a_hard_gate(model, batch):
    """The soft network at the end is the hard one; with no sharpening it is not."""
    schedule = Schedule(steps=200, init=0.5)
    last = {}
    for sharpening in (1.0, 200.0):
        gate = Sigmoid(sharpening)
        learned = learn_mask(model, [batch], cross_entropy, gate=gate, penalty=1e-3, schedule=schedule)
        between = (learned.probability > 0.05) & (learned.probability < 0.95)
        last[sharpening] = float(between.float().mean())
    assert last[200.0] < 0.05 < last[1.0]


def test_sharpening_by_growing_logits_is_sharpening(model, batch):
    """The same as a gate sigmoid(b l) with b grown by hand and Adam on l, up to the mean that Adam takes over steps."""
    steps, final = 30, 8.0
    over, schedule = layout(model), Schedule(steps=steps, samples=1, warmup=0.0, decay=0.0, clip=1e9, init=0.3)
    states = learning(model, [batch], cross_entropy, layout=over, gate=Sigmoid(final), penalty=0.0, schedule=schedule)
    stored = [state.logits.values for state in states][-1]

    weights = {name: p.detach() for name, p in model.named_parameters()}
    logits = {name: torch.full_like(weights[name], 0.3).requires_grad_() for name in over.names}
    adam = torch.optim.Adam(logits.values(), lr=schedule.learning_rate, betas=schedule.betas)
    for step in range(steps):
        adam.zero_grad()
        b = final ** (step / steps)
        gated = {name: weights[name] * torch.sigmoid(b * logit) for name, logit in logits.items()}
        with torch.enable_grad():
            outputs = torch.func.functional_call(model, {**weights, **gated}, (batch[0],))
            nn.functional.cross_entropy(outputs, batch[1]).backward()
        adam.step()
    ours, theirs = stored / final, torch.cat([logit.detach().flatten() for logit in logits.values()])
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.99


def test_a_mask_without_labels_says_what_the_network_says(model, batch):
    """Distillation: the network's own mistakes included."""
    inputs, _ = batch
    model.zero_grad()
    objective = Distillation(model)
    learned = learn_mask(model, [(inputs,)], objective, penalty=1e-3, schedule=SCHEDULE)
    assert learned.mask.density < 0.6
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        same = masked(model, learned.mask)(inputs).argmax(-1) == model(inputs).argmax(-1)
    assert same.float().mean() > 0.9
