"""Weights and mask learned together: gradients against naive autograd, frozen weights, resumption bit for bit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from maskscope.core.files import Damaged
from maskscope.core.gates import GumbelSigmoid
from maskscope.core.layout import layout
from maskscope.core.learning.joint import Joint, JointSchedule, learning_jointly
from maskscope.core.mask import Mask
from maskscope.core.noise import draw, uniform
from maskscope.core.objectives import cross_entropy
from maskscope.core.seeded import seeded

GATE = GumbelSigmoid()
PENALTY = 1e-3


def network():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 6, generator=generator), torch.randint(3, (12,), generator=generator)


def begun(model, frozen=None, spread=1.0, schedule=None):
    over = layout(model, ["*"])
    logits = torch.linspace(-spread, 2 * spread, over.units)
    return Joint(model, over, logits, Mask.empty(over) if frozen is None else frozen, schedule or JointSchedule())


def run(joint, steps, samples=3, clip=1e9):
    joint.schedule = replace(joint.schedule, steps=steps, samples=samples, clip=clip)
    return list(learning_jointly(joint, batch, cross_entropy, gate=GATE, penalty=PENALTY, seed=7))


def naive(joint, samples=3):
    """Gradients of weights and logits by autograd through a soft gate whose slope is the one expected of each gate."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in joint.model.named_parameters()}
    logits = joint.logits.clone().requires_grad_()
    inputs, labels = batch(0)
    total = PENALTY * logits.sum()
    for sample, (x, y) in enumerate(zip(inputs.tensor_split(samples), labels.tensor_split(samples), strict=True)):
        gated = {}
        for segment in joint.layout.segments:
            mine = segment.own(logits)
            noise = uniform(
                torch.arange(segment.units, dtype=torch.int32),
                *draw(7, 0, sample, strata=samples).of(segment.parameter),
            )
            hard = (noise > torch.sigmoid(-mine.detach())).float()
            slope = GATE.expected_slope(mine.detach(), hard)
            gate = hard + slope * (mine - mine.detach())
            gated[segment.parameter] = weights[segment.parameter] * gate.view(segment.shape)
        outputs = torch.func.functional_call(joint.model, gated, (x,))
        total = total + nn.functional.cross_entropy(outputs, y) * len(x) / len(inputs)
    total.backward()
    return {name: w.grad for name, w in weights.items()}, logits.grad


def test_gradients_are_those_of_autograd_through_the_gates():
    model = network()
    joint = begun(model)
    expected_weights, expected_logits = naive(joint)
    run(joint, 1)
    torch.testing.assert_close(joint.logits.grad, expected_logits, atol=1e-6, rtol=1e-4)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected_weights[name], atol=1e-6, rtol=1e-4)


def test_frozen_weights_stay_and_others_move():
    model = network()
    over = layout(model, ["*"])
    frozen = Mask.of(over, torch.arange(over.units) % 2 == 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(begun(model, frozen), 5)
    for name, weight in model.named_parameters():
        held = frozen.parameter(name)
        assert torch.equal(weight[held], before[name][held])
        assert not torch.equal(weight[~held], before[name][~held])


def test_logits_of_frozen_weights_learn_too():
    model = network()
    joint = begun(model, Mask.full(layout(model, ["*"])))
    before = joint.logits.clone()
    run(joint, 3)
    assert bool((joint.logits != before).all())


def test_weights_and_logits_are_clipped_together():
    model = network()
    joint = begun(model)
    run(joint, 1, clip=1e-3)
    norm = torch.cat([joint.logits.grad, *(p.grad.flatten() for p in model.parameters())]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_weights_may_have_a_learning_rate_of_their_own():
    model = network()
    joint = begun(model, schedule=JointSchedule(weight_learning_rate=1e-4))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits = joint.logits.clone()
    run(joint, 1)  # Adam's first step is its rate, whatever the gradient
    assert float((joint.logits - logits).abs().max()) == pytest.approx(1e-2, rel=1e-3)
    for name, weight in model.named_parameters():
        assert float((weight.detach() - weights[name]).abs().max()) == pytest.approx(1e-4, rel=1e-2)


def test_a_resumed_run_goes_on_bit_for_bit():
    whole = begun(network())
    run(whole, 8)
    first = begun(network())
    run(first, 3)
    second = begun(network(), spread=0.5)
    second.restore(first.state())
    run(second, 8)
    assert torch.equal(whole.logits, second.logits)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_without_moments_is_refused_and_changes_nothing():
    first, second = begun(network()), begun(network())
    run(first, 3)
    state = {name: tensor for name, tensor in first.state().items() if not name.startswith("optimizer/")}
    before = second.state()
    with pytest.raises(Damaged, match="no moments"):
        second.restore(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in second.state().items())


def test_another_layout_is_refused():
    model = network()
    over = layout(model, ["*"])
    with pytest.raises(ValueError, match=r"one logit and one frozen bit for each of 53 units, got \(3,\)"):
        Joint(model, over, torch.zeros(3), Mask.empty(over), JointSchedule())
    with pytest.raises(ValueError, match="positive numbers"):
        JointSchedule(steps=0)
    with pytest.raises(ValueError, match="positive numbers"):
        JointSchedule(weight_learning_rate=0.0)
    with pytest.raises(ValueError, match="positive numbers"):
        JointSchedule(clip=math.nan)


def test_a_gate_without_an_expected_slope_is_refused():
    joint = begun(network())
    with pytest.raises(ValueError, match="expected slope"):
        next(
            learning_jointly(
                joint,
                batch,
                cross_entropy,
                gate=GumbelSigmoid(temperature=0.5),
                penalty=0.0,
                seed=0,
            )
        )
