"""Laws over every kind of network: masks work on it unmodified, and leave nothing behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

from maskscope.core.apply import applied, bake, masked
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerInput, PerOutput, PerTensor, PerWeight
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from native import with_products
from zoo import ZOO, Kind

GRAINS = (PerWeight(), PerOutput(), PerInput(), PerTensor())
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore:.*keeps everything.*")  # a few steps remove nothing yet
EVERY = pytest.mark.parametrize("kind", ZOO, ids=str)


def grained(model: nn.Module, grain):
    # A bias (of a normalisation layer) has no input units.
    return layout(model, granularity=grain)


def some(over, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Mask.of(over, torch.rand(over.units, generator=generator) < 0.5)


def outputs(kind: Kind, network, batch):
    with torch.no_grad():
        return kind.output(network(batch))


def objective(kind: Kind):
    return lambda network, batch: kind.output(network(batch)).float().square().mean()


def traces(model: nn.Module) -> dict:
    """Everything that must be as before."""
    return {
        "parameters": [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()],
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": [p.grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "dropout": [getattr(module, "dropout", None) for module in model.modules() if isinstance(module, nn.RNNBase)],
        "buffers": [(name, id(b)) for name, b in model.named_buffers()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def assert_untouched(model: nn.Module, before: dict) -> None:
    after = traces(model)
    values, values_before = after.pop("values"), before.pop("values")
    assert after == before
    assert values.keys() == values_before.keys()
    assert all(torch.equal(values[name], value) for name, value in values_before.items())


@EVERY
@pytest.mark.parametrize("grain", GRAINS, ids=lambda grain: grain.kind)
def test_a_full_mask_is_the_plain_model(kind, grain):
    model, batch = kind.model().eval(), kind.batch()
    over = grained(model, grain)
    torch.testing.assert_close(outputs(kind, masked(model, Mask.full(over)), batch), outputs(kind, model, batch))


@EVERY
@pytest.mark.parametrize("grain", GRAINS, ids=lambda grain: grain.kind)
def test_masked_applied_and_baked_agree(kind, grain):
    model, batch = kind.model().eval(), kind.batch()
    mask = some(grained(model, grain))
    under = outputs(kind, masked(model, mask), batch)
    with applied(model, mask):
        torch.testing.assert_close(outputs(kind, model, batch), under)
    torch.testing.assert_close(outputs(kind, bake(model, mask), batch), under)


@EVERY
def test_outputs_under_a_mask_are_those_of_torch_pruning(kind):
    model, batch = kind.model().eval(), kind.batch()
    mask = some(layout(model))
    pruned = copy.deepcopy(model)
    for name, parameter in pruned.named_parameters():
        if name in mask.layout.names:
            parameter.data.mul_(mask.parameter(name))
    torch.testing.assert_close(outputs(kind, masked(model, mask), batch), outputs(kind, pruned, batch))


@EVERY
def test_nothing_is_left_changed_in_the_model(kind):
    model, batch = kind.model().train(), kind.batch()
    over = layout(model)
    frozen = next(iter(model.children()), model)
    frozen.eval()  # a mode of its own, which must come back
    before = traces(model)
    with torch.no_grad():
        learn_mask(model, [batch], objective(kind), layout=over, schedule=Schedule(steps=2))
    model.eval()
    masked(model, some(over))(batch)
    with applied(model, some(over)):
        outputs(kind, model, batch)
    for module, mode in zip(model.modules(), before["modes"], strict=True):
        module.training = mode
    assert_untouched(model, before)
    copy.deepcopy(model)
    pickle.loads(pickle.dumps(model))


@EVERY
def test_an_error_inside_leaves_nothing_behind(kind):
    model, batch = kind.model().train(), kind.batch()
    before = traces(model)

    def failing(network, part):
        network(part)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn_mask(model, [batch], failing, schedule=Schedule(steps=2))
    with pytest.raises(ZeroDivisionError), applied(model, some(layout(model))):
        raise ZeroDivisionError
    assert_untouched(model, before)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_are_learned_in_every_precision(kind, dtype):
    model, batch = kind.model().to(dtype), kind.batch()
    batch = batch.to(dtype) if batch.is_floating_point() else batch
    learned = learn_mask(model, [batch], objective(kind), schedule=Schedule(steps=3, samples=2))
    assert learned.logits.dtype == torch.float32
    assert learned.logits.isfinite().all()
    assert (learned.logits != 2.0).any()
    assert outputs(kind, masked(model, learned.mask), batch).dtype == dtype


@EVERY
@pytest.mark.parametrize("grain", GRAINS, ids=lambda grain: grain.kind)
def test_every_grain_learns_and_comes_back_from_its_file(kind, grain, tmp_path):
    model, batch = kind.model(), kind.batch()
    learned = learn_mask(model, [batch], objective(kind), layout=grained(model, grain), schedule=Schedule(steps=3))
    path = learned.mask.save(tmp_path / "mask.safetensors")
    loaded = Mask.load(path, model)
    assert loaded == learned.mask
    assert loaded.origin == learned.mask.origin


@EVERY
@pytest.mark.parametrize("slope", ["expected", "sampled"])
def test_products_that_gate_by_themselves_give_the_same_gradient(kind, slope, monkeypatch):
    """Whatever a network does with its weights: products known here, others, both with one weight, none."""
    schedule = Schedule(steps=1, samples=2, slope=slope, clip=1e9)

    def gradient():
        model, batch = kind.model(), kind.batch()
        before = traces(model)
        over = layout(model, ["*"])
        (state,) = learning(model, [batch, batch], objective(kind), layout=over, schedule=schedule)
        assert_untouched(model, before)
        return state.logits.state()["adam_mean"]

    by_torch = gradient()
    with_products(monkeypatch)
    torch.testing.assert_close(gradient(), by_torch, rtol=1e-3, atol=1e-6)


@EVERY
def test_hooks_of_the_user_still_run(kind):
    model, batch = kind.model().eval(), kind.batch()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    masked(model, Mask.full(layout(model)))(batch)
    assert calls == [1]


def test_generation_under_a_mask_is_that_of_the_pruned_copy():
    kind = next(kind for kind in ZOO if kind.name == "llama")
    model = kind.model().eval()
    mask = some(layout(model))
    prompt = torch.tensor([[1, 3, 5]])
    plain = model.generate(prompt, max_new_tokens=4, do_sample=False)
    with applied(model, mask) as under:
        found = under.generate(prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, bake(model, mask).generate(prompt, max_new_tokens=4, do_sample=False))
    assert torch.equal(model.generate(prompt, max_new_tokens=4, do_sample=False), plain)


@EVERY
@pytest.mark.parametrize("gate", [GumbelSigmoid(), HardConcrete(), Sigmoid(), TopK(0.4)], ids=lambda gate: gate.kind)
@pytest.mark.parametrize("grain", [PerWeight(), PerOutput()], ids=lambda grain: grain.kind)
@pytest.mark.filterwarnings("ignore:.*is not settled.*", "ignore:.*is empty.*")
def test_every_gate_learns_saves_and_loads_on_every_network(kind, gate, grain, tmp_path):
    model, batch = kind.model(), kind.batch()
    over, before = grained(model, grain), traces(model)
    schedule = Schedule(steps=3, samples=2)
    learned = learn_mask(model, [batch], objective(kind), layout=over, gate=gate, schedule=schedule)
    assert_untouched(model, before)
    assert learned.logits.isfinite().all()
    learned.mask.save(tmp_path / "a.safetensors")
    loaded = Mask.load(tmp_path / "a.safetensors", model)
    assert loaded == learned.mask
    assert repr(gate) == loaded.origin.gate
    under = outputs(kind, masked(model.eval(), loaded), batch)
    torch.testing.assert_close(under, outputs(kind, bake(model, loaded).eval(), batch))
