"""Faults that tools for masks over weights have had: one test for each, that it is not there."""

import copy
import pickle

import pytest
import torch
from torch import nn

from laws import assert_untouched, some, traces
from maskscope.analysis.evaluate import evaluate
from maskscope.analysis.scores import best, magnitude
from maskscope.core.apply import applied, bake, masked
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.learning.gating import Gating
from maskscope.core.learning.kernels import Kernel
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.learned import read
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.noise import draw
from maskscope.core.seeded import seeded
from zoo import ZOO, Convolutions

EVERY = pytest.mark.parametrize("kind", ZOO, ids=str)
QUICK = Schedule(steps=2, samples=2)
pytestmark = pytest.mark.filterwarnings("ignore:.*keeps everything.*")


def mean_square(network, batch):
    return network(batch).square().mean()


def test_magnitude_pruning_goes_by_size():
    """Signed magnitude pruning: a threshold on the signed value removes the large negative weights."""
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.copy_(torch.tensor([[-10.0, -0.1, 0.1, 10.0]]))
    over = layout(model)
    kept = best(over, magnitude(model, over), 0.5).parameter("weight")
    assert kept.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("gate", [GumbelSigmoid(), HardConcrete(), Sigmoid()], ids=lambda gate: gate.kind)
def test_penalty_and_report_count_the_same_units(gate):
    """An L0 penalty over neurons in training and over weights in evaluation: the size that is penalised is not the one told."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    over = layout(model, granularity=PerOutput())
    schedule = Schedule(steps=1, samples=1, clip=1e9)

    def blind(network, batch):
        return network(batch).sum() * 0.0

    (state,) = learning(model, [torch.ones(2, 6)], blind, layout=over, gate=gate, schedule=schedule, penalty=0.25)
    slope = 0.25 * gate.penalty_slope(torch.full((7,), 2.0)).expand(7)
    torch.testing.assert_close(state.logits.state()["adam_mean"], 0.1 * slope)
    reading, mask = read(state), Mask.of(over, gate.harden(state.logits.values, over))
    assert reading.expected == pytest.approx(float(gate.probability(state.logits.values).sum()))
    assert reading.kept == mask.kept_units == over.units == 7
    decided = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0]) * 40
    counted = [count.kept_units for count in Mask.of(over, gate.harden(decided, over)).counts()]
    assert counted == [2, 1]
    if not isinstance(gate, GumbelSigmoid):  # whose penalty is the logit
        assert sum(counted) == pytest.approx(float(gate.penalty(decided).sum()))


class Own(nn.Module):
    """A fused in-projection and a parameter of the module's own."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.attend(x, x, x)[0] * self.scale


@pytest.mark.parametrize("patterns", [["attend.out_proj.weight"], ["attend.in_proj_weight", "scale"]], ids=str)
def test_every_parameter_is_frozen(patterns):
    """Freezing goes by ``weight`` and ``bias``: own Parameters and MultiheadAttention's in_proj stay trainable."""
    model = Own()
    before = traces(model)
    states = learning(
        model, [torch.randn(4, 3, 4)], mean_square, layout=layout(model, patterns), schedule=QUICK, penalty=0.0
    )
    for state in states:
        assert state.logits.state()["adam_mean"].any()
        assert all(parameter.grad is None for parameter in model.parameters())
    assert_untouched(model, before)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def test_a_recurrent_layer_need_not_be_a_target():
    """A model with an nn.LSTM anywhere cannot be wrapped, also where only other layers are masked."""
    model, batch = Tagger(), torch.randn(4, 3, 3)
    over, before = layout(model, ["head.weight"]), traces(model)
    learned = learn_mask(model, [batch], mean_square, layout=over, schedule=QUICK)
    assert learned.mask.layout.names == ("head.weight",)
    torch.testing.assert_close(masked(model, some(over))(batch), bake(model, some(over))(batch))
    assert_untouched(model, before)


@pytest.mark.parametrize("gate", [GumbelSigmoid(), HardConcrete(), Sigmoid(), TopK(0.4)], ids=lambda gate: gate.kind)
@pytest.mark.parametrize("slope", ["expected", "sampled"])
@pytest.mark.parametrize("grain", [None, PerOutput()], ids=["weight", "output"])
def test_noise_is_made_where_the_logits_are(gate, slope, grain):
    """Noise drawn on the CPU: sampling fails on another device.

    Here on torch's device without values, which refuses tensors of any other; with values in ``tests/test_gpu.py``.
    """
    meta = torch.device("meta")
    over = layout(nn.Linear(6, 5, device=meta), granularity=grain)
    logits = Logits(over, Schedule(steps=1, samples=1, slope=slope), meta)
    if gate.ranking is not None:
        logits.spread(0)
    gating = Gating({"weight": torch.ones(5, 6, device=meta)}, logits, Kernel(gate, "eager"), penalty=0.1)
    gating.draw([draw(0, 0, 0)])
    gating.begin()
    gating.show(0)
    (gating.seen["weight"] * 2.0).sum().backward()
    gating.keep(0)
    gating.finish()
    assert logits.gradient.device == meta


def test_noise_is_not_taken_from_torchs_generator():
    """Wrapping and sampling move the global generator, so that a masked run and a plain one see other batches."""
    model = nn.Linear(3, 2)
    with seeded(0):
        before = torch.get_rng_state()
        for gate in (GumbelSigmoid(), HardConcrete(), TopK(0.5)):
            learned = learn_mask(model, [torch.ones(4, 3)], mean_square, gate=gate, schedule=QUICK)
            masked(model, learned.mask)(torch.ones(4, 3))
        assert torch.equal(torch.get_rng_state(), before)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_masks_are_learned_in_every_precision(kind, dtype):
    """Masks in float32 alone: bfloat16 models fail at the first product."""
    model, batch = kind.model().to(dtype), kind.batch()
    batch = batch.to(dtype) if batch.is_floating_point() else batch
    learned = learn_mask(model, [batch], kind.loss, schedule=QUICK, penalty=0.0)
    assert learned.logits.dtype == torch.float32
    assert learned.logits.isfinite().all()
    assert (learned.logits != 2.0).any()
    with torch.no_grad():
        assert kind.outputs(masked(model, learned.mask), batch).dtype == dtype


@EVERY
def test_a_model_is_copied_and_pickled_after_a_training_forward(kind):
    """A mask kept in the module as a part of the graph: deepcopy fails after a training forward."""
    model, batch = kind.model().train(), kind.batch()
    loss = kind.loss(masked(model, some(layout(model))), batch)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    next(learning(model, [batch], kind.loss, layout=layout(model), schedule=QUICK))
    copies.append(copy.deepcopy(model))
    assert loss.requires_grad
    for copied in copies:
        torch.testing.assert_close(kind.loss(copied.eval(), batch), kind.loss(model.eval(), batch))


def test_evaluation_adds_nothing_to_the_state_dict():
    """Masks registered as buffers when they are hardened: evaluation adds keys to the state dict."""
    model, batch = Convolutions(), torch.randn(4, 2, 6, 6)
    before, mask = copy.deepcopy(model.state_dict()), some(layout(model))
    evaluate(masked(model, mask), [batch], lambda network, inputs: network(inputs).mean((1, 2, 3)))
    with applied(model.eval(), mask):
        model(batch)
        assert list(model.state_dict()) == list(before)
    assert list(bake(model, mask).state_dict()) == list(before)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@EVERY
def test_hooks_run_as_they_do_without_a_mask(kind):
    """Layers called by their ``forward``: hooks that a user registered are passed over."""
    model, batch, calls = kind.model().eval(), kind.batch(), []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(f"before {name}"))
        module.register_forward_hook(lambda *_, name=name: calls.append(f"after {name}"))
    kind.outputs(model, batch)
    plain = calls.copy()
    assert plain[0] == "before "
    calls.clear()
    kind.outputs(masked(model, some(layout(model))), batch)
    assert calls == plain
    calls.clear()
    next(learning(model, [batch], kind.loss, layout=layout(model), schedule=Schedule(steps=1, samples=1)))
    assert calls == plain


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, shift, *more, scale=1.0, **named):
        return self.linear(x) * scale + shift + sum(more) + sum(named.values())


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1.0,), {}), ((), {"shift": 1.0}), ((1.0, 2.0, 3.0), {"scale": 2.0, "other": 5.0})],
    ids=["positional", "keyword", "both"],
)
def test_inputs_are_passed_on_as_they_are_given(args, kwargs):
    """A forward signature of the wrapper's own: positional inputs are refused."""
    model, x, seen = Shifted(), torch.randn(4, 3), []
    expected, mask = model(x, *args, **kwargs), Mask.full(layout(model))
    torch.testing.assert_close(masked(model, mask)(x, *args, **kwargs), expected)
    with applied(model, mask) as under:
        torch.testing.assert_close(under(x, *args, **kwargs), expected)

    def objective(network, batch):
        seen.append(network(batch, *args, **kwargs))
        return seen[-1].square().mean()

    learn_mask(model, [x], objective, schedule=Schedule(steps=1, samples=1, init=40.0))
    torch.testing.assert_close(seen[0], expected)


def test_modes_are_left_to_the_user():
    """A wrapper with a train() and eval() of its own: they return None, and set modes that a user had chosen."""
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4)), torch.randn(8, 3)
    model[1].eval()
    modes, mask = [module.training for module in model.modules()], some(layout(model))
    assert modes == [True, True, False, True]
    for _ in learning(model, [batch], mean_square, layout=mask.layout, schedule=QUICK):
        assert [module.training for module in model.modules()] == modes
    evaluate(masked(model, mask), [batch], lambda network, inputs: network(inputs).mean(1))
    with applied(model, mask) as under:
        under(batch)
        assert [module.training for module in model.modules()] == modes
        assert under.eval() is under.train() is model
    assert [module.training for module in bake(model, mask).modules()] == [True] * 4


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.linear, self.error = nn.Linear(3, 2), error

    def forward(self, x):
        self.linear(x)
        raise self.error


def through_learning(model, mask, batch):
    learn_mask(model, [batch], mean_square, layout=mask.layout, schedule=QUICK)


def through_masked(model, mask, batch):
    masked(model, mask)(batch)


def through_applied(model, mask, batch):
    with applied(model, mask) as under:
        under(batch)


def through_evaluation(model, mask, batch):
    evaluate(masked(model, mask), [batch], lambda network, inputs: network(inputs).mean(1))


@pytest.mark.parametrize("through", [through_learning, through_masked, through_applied, through_evaluation])
@pytest.mark.parametrize("error", [RuntimeError("no such size"), TypeError("no such input"), KeyError("x")], ids=repr)
def test_an_error_of_the_network_arrives_as_it_was_raised(through, error):
    """A bare except around the forward pass: every error becomes "not supported"."""
    model = Failing(error)
    with pytest.raises(type(error)) as caught:
        through(model, Mask.full(layout(model)), torch.randn(4, 3))
    assert caught.value is error
