"""What learning can be asked beside masks: terms of the loss, replacements, probes, pieces, warm starts."""

import math
from dataclasses import replace
from inspect import unwrap
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional

import maskscope as ms
from maskscope.analysis.sizes import hardening, sweep
from maskscope.core.objectives import Beside, Complete, Specific, beside
from maskscope.core.replacement import digest_of, means, reinitialised, values_of
from maskscope.core.seeded import seeded
from native import with_products


@pytest.fixture(params=["torch's products", "products with gates"])
def _products(request, monkeypatch):
    """Both ways in which a step multiplies."""
    if request.param == "products with gates":
        with_products(monkeypatch)


SHORT = ms.Schedule(steps=40, samples=2, learning_rate=0.1, settled=None)


def batch_of(step, rows=16):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 6, generator=generator)
    return x, x[:, :3].argmax(-1)


def network(seed=0):
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def trained():
    model = network()
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(200):
        adam.zero_grad()
        ms.cross_entropy(model, batch_of(step, 64)).backward()
        adam.step()
    return model


@pytest.mark.parametrize("gate", [ms.GumbelSigmoid(), ms.HardConcrete(), ms.Sigmoid()])
@pytest.mark.parametrize("granularity", [ms.PerWeight(), ms.PerOutput()])
@pytest.mark.usefixtures("_products")
def test_the_complement_of_a_sample_is_the_network_with_kept_weights_replaced_by_zero(gate, granularity):
    """One step of a loss on the complement alone, against a network of zeros whose removed weights become the weights."""
    model = network()
    over = ms.layout(model, granularity=granularity)

    def on_complement(sampled, batch):
        return functional.cross_entropy(sampled.complement(batch[0]), batch[1])

    def on_mask(sampled, batch):
        return functional.cross_entropy(sampled(batch[0]), batch[1])

    schedule = ms.Schedule(steps=1, samples=1, clip=1e9, settled=None, slope="sampled")
    options = {"layout": over, "gate": gate, "schedule": schedule, "penalty": 0.0}
    one = next(ms.learning(model, [batch_of(0)], on_complement, **options))
    two = next(ms.learning(silent(model), [batch_of(0)], on_mask, replacement=values_of(model, over), **options))
    assert torch.allclose(one.loss, two.loss, atol=1e-6)
    assert torch.allclose(one.logits.values, two.logits.values, atol=1e-4)


def silent(model):
    """The same with weights of zero."""
    other = network()
    other.load_state_dict(model.state_dict())
    for layer in (0, 2):
        nn.init.zeros_(other[layer].weight)
    return other


def test_a_complete_mask_leaves_less_in_its_complement():
    model, over = trained(), ms.layout(trained())
    options = {"layout": over, "schedule": replace(SHORT, steps=150), "penalty": 3e-4}
    plain = ms.learn_mask(model, batch_of, ms.cross_entropy, **options).mask
    complete = ms.learn_mask(
        model, batch_of, Complete(ms.cross_entropy, failed=math.log(3), weight=2.0), **options
    ).mask
    left = [ms.cross_entropy(ms.masked(model, ~mask), batch_of(999, 500)).item() for mask in (plain, complete)]
    assert left[1] > left[0]
    assert ms.evaluate(ms.masked(model, complete), [batch_of(999, 500)], ms.accuracy).value > 0.9


def test_completeness_needs_a_network_under_a_mask():
    with pytest.raises(TypeError, match="Sequential has no complement"):
        Complete(ms.cross_entropy, failed=1.0)(network(), batch_of(0))


def test_a_specific_mask_does_not_serve_the_others():
    model = trained()

    def others(step, rows=16):
        x, _ = batch_of(step + 10_000, rows)
        x = x * torch.tensor(
            [1.0, 1, 1, 0, 0, 0]
        )  # the same subtask with silent inputs: shares weights by construction
        return x, x[:, :3].argmax(-1)

    options = {"layout": ms.layout(model), "schedule": replace(SHORT, steps=100), "penalty": 1e-4}
    plain = ms.learn_mask(model, batch_of, ms.cross_entropy, **options).mask
    wanted = Specific(ms.cross_entropy, ms.cross_entropy, failed=math.log(3), weight=3.0)
    specific = ms.learn_mask(model, beside(batch_of, others), wanted, **options).mask
    served = [ms.cross_entropy(ms.masked(model, mask), others(5, 500)).item() for mask in (plain, specific)]
    assert served[1] > served[0] + 0.1


def test_batches_beside_each_other_have_as_many_examples():
    with pytest.raises(ValueError, match="16 and 8 examples"):
        beside(batch_of, lambda step: batch_of(step, 8))(0)
    assert isinstance(beside(batch_of, batch_of)(0), Beside)
    lists = beside([batch_of(0), batch_of(1)], [batch_of(5)])  # as of loaders
    three = list(islice(lists, 3))
    assert [torch.equal(pair.own[0], batch_of(step)[0]) for pair, step in zip(three, (0, 1, 0), strict=True)] == [
        True
    ] * 3
    assert all(torch.equal(pair.others[0], batch_of(5)[0]) for pair in three)


def fresh(model, over):
    return reinitialised(model, over, seed=5)


@pytest.mark.filterwarnings("ignore:the mask of this subtask (is empty|keeps everything)")  # of two units
@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("granularity", [ms.PerWeight(), ms.PerOutput(), ms.PerTensor()])
@pytest.mark.parametrize("make", [means, lambda model, over: values_of(network(1), over), fresh])
def test_replaced_weights_are_the_same_while_learning_and_after(granularity, make):
    model = network()
    over = ms.layout(model, granularity=granularity)
    becomes = make(model, over)
    options = {"layout": over, "schedule": SHORT, "penalty": 1e-5, "replacement": becomes}
    kept = ms.learn_mask(model, batch_of, ms.cross_entropy, **options).mask
    baked = ms.bake(model, kept, becomes)
    for name in over.names:
        expected = torch.where(
            kept.parameter(name), model.get_parameter(name), becomes[name].expand(over.by_name[name].shape)
        )
        assert torch.equal(baked.get_parameter(name), expected)
    x = batch_of(3)[0]
    assert torch.allclose(ms.masked(model, kept, becomes)(x), baked(x), atol=1e-6)
    with ms.applied(model, kept, becomes) as other:
        assert torch.allclose(other(x), baked(x), atol=1e-6)
    assert torch.allclose(ms.masked(model, ms.Mask.empty(over), values_of(model, over))(x), model(x), atol=1e-6)


def test_the_gradient_of_a_replaced_weight_is_that_of_the_difference():
    """With one unit over everything and no noise left: d(loss)/d(gate) by differences."""
    model = network()
    over = ms.layout(model, granularity=ms.PerTensor())
    becomes = values_of(network(1), over)
    batch = batch_of(0)

    def loss_at(gates):
        weights = {
            name: becomes[name] + gate * (model.get_parameter(name).detach() - becomes[name])
            for name, gate in zip(over.names, gates, strict=True)
        }
        return functional.cross_entropy(torch.func.functional_call(model, weights, (batch[0],)), batch[1])

    gates = torch.tensor([1.0, 1.0], requires_grad=True)
    (wanted,) = torch.autograd.grad(loss_at(gates), gates)
    schedule = ms.Schedule(steps=1, samples=1, init=12.0, clip=1e9, learning_rate=1.0, settled=None)
    state = next(
        ms.learning(model, [batch], ms.cross_entropy, layout=over, schedule=schedule, penalty=0.0, replacement=becomes)
    )
    moved = state.logits.values - 12.0  # Adam's first step goes against the sign of the gradient
    assert torch.equal(moved.sign(), -wanted.sign())


def test_a_mask_knows_that_what_it_removes_was_replaced(tmp_path):
    """In its file too: applied with zeros by mistake it would be another network's mask."""
    model = network()
    over = ms.layout(model)
    becomes = values_of(network(1), over)
    learned = ms.learn_mask(model, batch_of, ms.cross_entropy, layout=over, schedule=SHORT, replacement=becomes)
    loaded = ms.Mask.load(learned.mask.save(tmp_path / "mask.safetensors"), model)
    assert loaded.origin.replaced == digest_of(becomes) != digest_of(values_of(model, over))
    plain = ms.Mask.of(over, loaded.kept)
    made = [~loaded, loaded & plain, plain | loaded, ms.random_like(loaded, 0), ms.half(loaded, ["0.*"])]
    for mask in (loaded, *made, ms.keep_open(~loaded, plain, ["2.*"])):
        with pytest.warns(UserWarning, match="what it removes became other values"):
            ms.masked(model, mask)
    x = batch_of(3)[0]
    assert torch.equal(ms.masked(model, loaded, {})(x), ms.masked(model, plain)(x))  # zeros, when they are meant


@pytest.mark.filterwarnings("ignore:the mask of this subtask")
def test_analyses_replace_what_is_removed_too():
    model = network()
    over = ms.layout(model)
    tests, becomes = [batch_of(100, 256)], values_of(network(1), over)
    options = {"layout": over, "schedule": SHORT, "penalty": 1e-3, "replacement": becomes}
    learned = ms.learn_mask(model, batch_of, ms.cross_entropy, **options)
    expected = ms.evaluate(ms.masked(model, learned.mask, becomes), tests, ms.accuracy).value
    assert expected != ms.evaluate(ms.masked(model, learned.mask, {}), tests, ms.accuracy).value
    hard = hardening(model, learned, ms.GumbelSigmoid(), tests, ms.accuracy, samples=1, replacement=becomes)
    assert hard.hard == expected
    control = ms.controls(model, learned.mask, {"own": tests}, ms.accuracy, replacement=becomes)[0]
    assert control.with_mask["own"].value == expected
    (size,) = sweep(model, batch_of, ms.cross_entropy, [0.5], tests=tests, metric=ms.accuracy, **options)
    assert size.value == ms.evaluate(ms.masked(model, size.learned.mask, becomes), tests, ms.accuracy).value


def test_what_replaces_is_checked():
    model = network()
    over = ms.layout(model)
    for becomes, error, said in (
        ({"0.wieght": torch.zeros(())}, KeyError, "0.weight"),
        ({"0.weight": torch.zeros(3)}, ValueError, r"shape \(3,\), expected \(16, 6\)"),
        ({"0.weight": torch.tensor(math.nan)}, ValueError, "NaN"),
    ):
        with pytest.raises(error, match=said):
            ms.learn_mask(model, batch_of, ms.cross_entropy, layout=over, schedule=SHORT, replacement=becomes)
        with pytest.raises(error, match=said):
            ms.masked(model, ms.Mask.full(over), becomes)


def test_layers_that_cannot_be_drawn_again_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 4))

    model = nn.Sequential(nn.Linear(2, 2), Odd())
    with pytest.raises(ValueError, match="Odd has no reset_parameters"):
        reinitialised(model, ms.layout(model))


def test_a_probe_learns_alongside_and_the_network_does_not():
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    body = nn.Sequential(model[0], model[1])
    with seeded(0):
        probe = nn.Linear(16, 2)
    start = probe.weight.detach().clone()

    def objective(sampled, batch):
        x, y = batch
        return functional.cross_entropy(probe(sampled(x)), (y > 0).long())

    adam = torch.optim.Adam(probe.parameters(), 1e-2)
    options = {"layout": ms.layout(body), "penalty": 1e-4, "schedule": replace(SHORT, steps=150)}
    learned = ms.learn_mask(body, batch_of, objective, alongside=adam, **options)
    x, y = batch_of(999, 500)
    right = (probe(ms.masked(body, learned.mask)(x)).argmax(-1) == (y > 0).long()).float().mean()
    assert right > 0.85
    assert not torch.equal(probe.weight, start)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(TypeError, match="an optimiser"):
        next(unwrap(ms.learning)(body, batch_of, objective, alongside=probe, **options))


@pytest.mark.usefixtures("_products")
def test_pieces_of_a_part_give_the_same_mask():
    model = network()
    options = {"layout": ms.layout(model), "schedule": SHORT, "penalty": 1e-4}
    whole = ms.learn_mask(model, batch_of, ms.cross_entropy, **options)
    pieces = ms.learn_mask(model, batch_of, ms.cross_entropy, accumulate=4, **options)
    assert torch.allclose(whole.logits, pieces.logits, atol=2e-3)
    with pytest.raises(ValueError, match="cannot be cut into samples=2 parts of accumulate=9 pieces"):
        ms.learn_mask(model, batch_of, ms.cross_entropy, accumulate=9, **options)


@pytest.mark.parametrize("gate", [ms.GumbelSigmoid(), ms.TopK(0.5)])
def test_a_mask_can_begin_where_another_ended(gate):
    model = network()
    options = {"layout": ms.layout(model), "penalty": 1e-4, "gate": gate}
    first = ms.learn_mask(model, batch_of, ms.cross_entropy, schedule=SHORT, **options)
    short = replace(SHORT, steps=1, learning_rate=1e-6)
    second = ms.learn_mask(model, batch_of, ms.cross_entropy, initial=first.logits, schedule=short, **options)
    assert torch.allclose(first.logits, second.logits, atol=1e-4)
    with pytest.raises(ValueError, match="logit for each of 144 units"):
        ms.learn_mask(model, batch_of, ms.cross_entropy, initial=torch.zeros(3), schedule=short, **options)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy, nn.functional.mse_loss])
def test_a_loss_of_outputs_and_labels_is_not_an_objective(loss):
    model, batch = nn.Linear(2, 2), (torch.ones(8, 2), torch.zeros(8, dtype=torch.long))
    with pytest.raises(TypeError, match="got a loss of outputs and labels"):
        ms.learn_mask(model, [batch], loss)
