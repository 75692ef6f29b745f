"""Hard concrete gates against those of captum, which has them too."""

import pytest
import torch
from captum.module import BinaryConcreteStochasticGates

from maskscope.core.gates import HardConcrete
from maskscope.core.layout import layout
from maskscope.core.seeded import seeded

N = 10_000
LOGITS = torch.linspace(-8, 8, N)
EVEN = ((-0.1, 1.1), (-0.4, 1.4))
UNEVEN = ((-0.3, 1.1), (-0.1, 1.5))
TEMPERATURES = pytest.mark.parametrize("temperature", [0.1, 0.5, 2 / 3, 0.95])


def pair(temperature, bounds, logits=LOGITS):
    """Our gate and theirs, with these logits."""
    theirs = BinaryConcreteStochasticGates(
        len(logits), temperature=temperature, lower_bound=bounds[0], upper_bound=bounds[1]
    )
    theirs.log_alpha_param.data.copy_(logits)
    return HardConcrete(temperature, *bounds), theirs


def sampled(theirs):
    """Values of their gates, the penalty, and the uniform numbers that they drew."""
    with seeded(5):
        uniform = torch.empty(1, theirs.n_gates).uniform_(theirs.eps, 1 - theirs.eps)
    with seeded(5):
        values, penalty = theirs.train()(torch.ones(1, theirs.n_gates))
    return values[0], penalty, uniform[0]


@TEMPERATURES
@pytest.mark.parametrize("bounds", EVEN + UNEVEN, ids=str)
def test_samples_of_the_same_noise_and_their_slopes_are_captums(temperature, bounds):
    gate, theirs = pair(temperature, bounds)
    values, _, uniform = sampled(theirs)
    values.sum().backward()
    found = gate.sample(gate.prepare(LOGITS), uniform)
    torch.testing.assert_close(found, values.detach(), rtol=1e-5, atol=2e-5)
    assert {0.0, 1.0} < set(found.tolist())
    off_the_edge = (found > 1e-4) & (found < 1 - 1e-4) | (found == values)
    assert off_the_edge.float().mean() > 0.99
    slope = gate.slope(LOGITS, uniform)[off_the_edge]
    torch.testing.assert_close(slope, theirs.log_alpha_param.grad[off_the_edge], rtol=1e-4, atol=1e-4)


@TEMPERATURES
@pytest.mark.parametrize("bounds", EVEN + UNEVEN, ids=str)
def test_the_expected_l0_penalty_and_its_slope_are_captums(temperature, bounds):
    gate, theirs = pair(temperature, bounds)
    _, penalty, _ = sampled(theirs)
    penalty.backward()
    torch.testing.assert_close(gate.penalty(LOGITS), theirs.get_gate_active_probs())
    torch.testing.assert_close(gate.penalty(LOGITS).sum(), penalty.detach())
    torch.testing.assert_close(gate.penalty_slope(LOGITS), theirs.log_alpha_param.grad, rtol=1e-5, atol=1e-6)


@TEMPERATURES
@pytest.mark.parametrize("bounds", EVEN + UNEVEN, ids=str)
def test_without_noise_a_gate_is_captums_at_the_logit_over_the_temperature(temperature, bounds):
    """Captum evaluates at temperature 1, as the paper's equation 13 does; the middle of our samples has the gate's own."""
    gate, theirs = pair(temperature, bounds, LOGITS / temperature)
    middle = gate.sample(gate.prepare(LOGITS), torch.full((N,), 0.5))
    evaluated, _ = theirs.eval()(torch.ones(1, N))
    torch.testing.assert_close(middle, evaluated[0].detach(), rtol=1e-5, atol=1e-6)


@TEMPERATURES
@pytest.mark.parametrize("bounds", EVEN, ids=str)
def test_what_is_kept_is_what_captum_evaluates_to_more_than_a_half(temperature, bounds):
    """Whatever the temperature, where the stretch lies evenly around 1/2."""
    gate, theirs = pair(temperature, bounds)
    over = layout(torch.nn.Linear(N, 1, bias=False))
    assert torch.equal(gate.harden(LOGITS, over), theirs.get_gate_values() > 0.5)


@TEMPERATURES
@pytest.mark.parametrize("bounds", UNEVEN, ids=str)
def test_elsewhere_kept_is_what_captum_samples_above_a_half_more_often_than_not(temperature, bounds):
    """There a gate's evaluated value and the middle of its samples fall on two sides of 1/2 for some logits."""
    threshold = HardConcrete(temperature, *bounds).threshold
    logits = torch.tensor([threshold - 0.2, threshold + 0.2]).repeat_interleave(N)
    gate, theirs = pair(temperature, bounds, logits)
    values, _, _ = sampled(theirs)
    often = (values.view(2, N) > 0.5).float().mean(1)
    assert often[0] < 0.5 < often[1]
    kept = gate.harden(logits, layout(torch.nn.Linear(2 * N, 1, bias=False)))
    assert torch.equal(kept, logits > threshold)
