"""Laws over every gate; a new gate is a new row."""

import subprocess
import sys
from inspect import unwrap

import pytest
import torch
from scipy import stats
from torch import nn

from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.layout import layout
from maskscope.core.learning.blocks import Blocks
from maskscope.core.learning.kernels import Kernel, words
from maskscope.core.noise import draw, uniform

GATES = (
    GumbelSigmoid(),
    GumbelSigmoid(temperature=0.5),
    GumbelSigmoid(temperature=2.0),
    HardConcrete(),
    HardConcrete(temperature=0.5, low=-0.3, high=1.1),
    Sigmoid(),
    TopK(0.3),
)
EVERY = pytest.mark.parametrize("gate", GATES, ids=repr)
DRAWING = pytest.mark.parametrize("gate", [gate for gate in GATES if not isinstance(gate, Sigmoid | TopK)], ids=repr)
N = 40_000


def noise(n=N):
    return uniform(torch.arange(n, dtype=torch.int32), *draw(0, 0, 0).of("w"))


@DRAWING
@pytest.mark.parametrize("logit", [-6.0, -2.0, -0.1, 0.0, 0.7, 3.0, 6.0])
def test_keep_frequency_is_the_keep_probability(gate, logit):
    logits = torch.full((N,), logit)
    kept = int((gate.sample(gate.prepare(logits), noise()) > 0.5).sum())
    p = float(gate.probability(logits[:1]))
    assert stats.chisquare([kept, N - kept], [N * p, N * (1 - p)]).pvalue > 1e-3


@EVERY
def test_samples_lie_between_zero_and_one(gate):
    samples = gate.sample(gate.prepare(torch.linspace(-50, 50, N)), noise())
    assert samples.min() >= 0
    assert samples.max() <= 1


@EVERY
def test_hardening_is_the_limit_of_sampling(gate):
    """What is kept is what a sample keeps more often than not."""
    logits = torch.tensor([-30.0, -1.0, -0.01, 0.01, 1.0, 30.0])
    samples = gate.sample(gate.prepare(logits).expand(4_000, 6), noise(n=24_000).view(4_000, 6))
    often = (samples > 0.5).float().mean(0)
    kept = gate.harden(logits, layout(nn.Linear(3, 2)))
    decided = (often - 0.5).abs() > 0.03
    assert torch.equal(kept[decided], often[decided] > 0.5)
    assert decided.sum() >= 4


@EVERY
def test_a_logit_of_exactly_the_threshold_is_not_kept(gate):
    logits = torch.full((6,), gate.threshold)
    assert not gate.harden(logits, layout(nn.Linear(3, 2))).any()


def soft(gate, logits, u):
    """The published form, in double precision, for autograd."""
    if isinstance(gate, Sigmoid):
        return torch.sigmoid(logits)
    if isinstance(gate, TopK):
        return logits  # straight through
    concrete = torch.sigmoid((logits + torch.log(u) - torch.log1p(-u)) / gate.temperature)
    return concrete if isinstance(gate, GumbelSigmoid) else (concrete * (gate.high - gate.low) + gate.low).clamp(0, 1)


@EVERY
def test_the_slope_is_the_gradient_of_a_naive_implementation(gate):
    logits = torch.linspace(-12, 12, N).double().requires_grad_()
    u = noise()
    soft(gate, logits, u.double()).sum().backward()
    found = gate.slope(logits.detach().float(), u)
    sure = torch.ones(N, dtype=torch.bool)
    if isinstance(gate, HardConcrete):  # in single precision the edge of the clip lies elsewhere
        value = gate.sample(gate.prepare(logits.detach().float()), u)
        sure = ((value > 1e-5) & (value < 1 - 1e-5)) | (found == logits.grad.float())
        assert sure.float().mean() > 0.999
    torch.testing.assert_close(found.double()[sure], logits.grad[sure], rtol=2e-5, atol=1e-6)


@EVERY
def test_slopes_are_finite_for_extreme_logits(gate):
    logits = torch.tensor([-500.0, -90.0, 90.0, 500.0])
    for u in (2.0**-24, 0.5, 1 - 2.0**-24):
        assert gate.slope(logits, torch.full((4,), u)).isfinite().all()


@EVERY
def test_the_penalty_is_monotone_and_has_the_slope_it_says(gate):
    logits = torch.linspace(-5, 5, 101).requires_grad_()
    penalty = gate.penalty(logits)
    assert (penalty.diff() >= 0).all()
    assert isinstance(gate, TopK) or (penalty.diff() > 0).all()
    (slope,) = torch.autograd.grad(penalty.sum() + 0 * logits.sum(), logits)
    torch.testing.assert_close(gate.penalty_slope(logits.detach()).expand(101), slope)


def test_the_sample_is_that_of_the_published_formula():
    """-log(log U1 / log U0) is logistic noise; thresholding at 1/2 gives sigmoid(l) as ours does."""
    generator = torch.Generator().manual_seed(0)
    u0, u1 = torch.rand(2, N, generator=generator, dtype=torch.float64)
    published = -torch.log(torch.log(u1 + 1e-10) / torch.log(u0 + 1e-10) + 1e-10)
    ours = torch.log(noise().double()) - torch.log1p(-noise().double())
    assert stats.ks_2samp(published.numpy(), ours.numpy()).pvalue > 1e-3


@EVERY
@pytest.mark.parametrize("logit", [-9.0, -3.0, -0.49, 0.0, 0.2, 0.51, 2.0, 5.0])
def test_the_expected_slope_is_the_mean_of_the_slope_over_noise_that_gives_the_gate(gate, logit):
    """So the gradient keeps its mean even where what a weight does to the loss hangs on its own gate."""
    gates = torch.tensor([0.0, 1.0])
    found = gate.expected_slope(torch.full((2,), logit), gates)
    if found is None or not isinstance(gate, GumbelSigmoid):
        assert gate != GumbelSigmoid()  # it has a closed form
        assert found is None or torch.equal(found, gate.slope(torch.full((2,), logit), gates))  # no noise in it
        return
    # By the midpoint rule in u, in double precision, over each part of (0, 1).
    shut, opened = torch.sigmoid(torch.tensor([-logit, logit], dtype=torch.float64))
    middles = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    # A gate that is shut has u from 0 to sigmoid(-l), an open one 1 - u from 0 to sigmoid(l); the slope is that of
    # sigmoid(x) with e^x = e^l u / (1 - u).
    off, on = middles * shut, middles * opened
    odds = torch.tensor(logit, dtype=torch.float64).exp()
    ratios = (odds * off / (opened + shut * (1 - middles)), odds * (shut + opened * (1 - middles)) / on)
    for slope, ratio in zip(found.tolist(), ratios, strict=True):
        assert slope == pytest.approx(float((ratio / (1 + ratio) ** 2).mean()), rel=6e-5, abs=0)


def test_expected_slopes_are_finite_for_extreme_logits():
    logits = torch.tensor([-1e30, -500.0, -1e-30, 0.0, 1e-8, 500.0, 1e30])
    for gates in (torch.zeros(7), torch.ones(7)):
        slope = GumbelSigmoid().expected_slope(logits, gates)
        assert slope is not None
        assert slope.isfinite().all()
        assert (slope >= 0).all()


@pytest.mark.parametrize(
    "gates",
    [
        "GumbelSigmoid()",
        pytest.param("GumbelSigmoid(temperature=0.5), HardConcrete(), Sigmoid()", marks=pytest.mark.slow),
    ],
)
def test_compiled_and_eager_give_the_same_bits(gates):
    """In a process of its own: annotations that are checked at run time cannot be compiled."""
    script = """
import torch
from torch import nn
from maskscope.core.learning.blocks import WIDTH, Blocks
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid
from maskscope.core.learning.kernels import Kernel, Moments, words
from maskscope.core.layout import layout
from maskscope.core.noise import draw

def passes(kernel, blocks, seed):
    gen = torch.Generator().manual_seed(seed)
    logits, weights, slopes, mean, square = (torch.randn(blocks.count, WIDTH, generator=gen) * 6 for _ in range(5))
    keys, stream = (blocks.key0, blocks.key1), words(draw(1, 2, seed % 4, strata=4), blocks.device)
    gated, again, total, prepared = (blocks.full(0.0) for _ in range(4))
    kernel.sample(gated, logits, None, weights, keys, stream)
    yield "noise and gate", gated
    yield "prepared", kernel.prepare(prepared, logits)
    kernel.sample(again, logits, prepared, weights, keys, stream)
    assert torch.equal(gated, again)
    kernel.collect(total, slopes, logits, weights, keys, stream)
    yield "slope", total
    scalars = torch.tensor([0.5, 0.1, 3.0, 1.0, 1 - 0.9, 1 - 0.99, 1.002])
    kernel.penalise(total, logits, torch.tensor(1e-3))
    yield "penalty", total
    kernel.descend(logits, prepared, Moments(mean, square.abs_()), slopes, scalars)
    yield "logits", logits
    yield "prepared after", prepared
    if gate.expected_slope(logits[:1], gated[:1]) is not None:
        kernel.collect_expected(total, slopes, logits, weights, keys, stream)
        yield "expected slope", total

for gate in (GATES,):
    eager, compiled = Kernel(gate, "eager"), Kernel(gate, "compiled")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for units in (1, 64, 1000, 33_000, 50_001, 140_001) if gate == GumbelSigmoid() else (1, 33_000):
            blocks = Blocks(layout(nn.Linear(1, units)))
            pairs = zip(passes(eager, blocks, units), passes(compiled, blocks, units), strict=True)
            for (name, one), (_, other) in pairs:
                assert torch.equal(one, other), (name, units, float((one - other).abs().max()))
    assert compiled.compiled, "the compiler failed"
    assert compiled.compile_seconds > 0
print("same")
"""
    done = subprocess.run(
        [sys.executable, "-c", script.replace("GATES", gates)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


def test_without_a_compiler_one_warning_says_what_it_costs(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    blocks = Blocks(layout(nn.Linear(10, 10)))
    stream = words(draw(0, 0, 0), blocks.device)

    def gated(kernel):
        out = blocks.full(0.0)
        kernel.sample(out, blocks.full(0.0), blocks.full(0.5), blocks.full(1.0), (blocks.key0, blocks.key1), stream)
        return out

    kernel = Kernel(GumbelSigmoid(), "compiled")
    with pytest.warns(RuntimeWarning, match=r"the same masks, the gate about 7 times slower.*compiler"):
        first = gated(kernel)
    assert torch.equal(first, gated(kernel))  # a second warning would be an error
    assert torch.equal(first, gated(Kernel(GumbelSigmoid(), "eager")))


def test_passes_are_compiled_once_for_equal_gates():
    first, second = Kernel(GumbelSigmoid(), "compiled"), Kernel(GumbelSigmoid(), "compiled")
    assert first._functions is second._functions
    assert Kernel(GumbelSigmoid(temperature=0.5), "compiled")._functions is not first._functions


def test_the_best_are_of_each_tensor_or_of_all():
    with pytest.raises(ValueError, match="per is 'tensor' or 'all', got 'layer'"):
        unwrap(TopK.__init__)(TopK(), per="layer")
