"""Laws over every kind of network: masks work on it unmodified, and leave nothing behind."""

import copy
from itertools import product

import pytest
import torch

from laws import assert_untouched, some, traces
from maskscope.core.apply import applied, bake, masked
from maskscope.core.channels import PerChannel
from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid, TopK
from maskscope.core.granularity import PerBlock, PerInput, PerOutput, PerTensor, PerWeight
from maskscope.core.groups import PerHead, PerLayer, PerNeuron
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from native import with_products
from zoo import ZOO, Kind

GRAINS = (PerWeight(), PerOutput(), PerInput(), PerTensor(), PerBlock(2, 1), PerLayer())
GATES = (GumbelSigmoid(), HardConcrete(), Sigmoid(), TopK(0.6))
LEARNED = [(gate, grain) for gate in GATES for grain in GRAINS[:2]] + [(GATES[0], grain) for grain in GRAINS[2:]]
"""Every gate with fine and with coarse units, and every unit with the first gate."""
EVERY = pytest.mark.parametrize("kind", ZOO, ids=str)
_FEEDING = ("encoder", "gpt2", "bert", "llama", "t5", "vit")
OWN = {PerHead(): ("attention", *_FEEDING), PerNeuron(): _FEEDING, PerChannel(): ("convolutions", "vit")}
"""Units that not every network has, and those that have them."""
WITH_OWN = [(kind, grain) for grain, names in OWN.items() for kind in ZOO if kind.name in names]


def _named(value):
    return value.name if isinstance(value, Kind) else value.kind


def outputs(kind: Kind, network, batch):
    with torch.no_grad():
        return kind.outputs(network, batch)


@pytest.mark.parametrize(
    ("kind", "gate", "grain"),
    [(kind, *choice) for kind in ZOO for choice in LEARNED] + [(kind, GATES[0], grain) for kind, grain in WITH_OWN],
    ids=_named,
)
@pytest.mark.filterwarnings("ignore:.*is not settled.*", "ignore:.*is empty.*", "ignore:.*keeps everything.*")
def test_a_mask_is_learned_hardened_saved_loaded_applied_and_exported(kind, gate, grain, tmp_path):
    model, batch = kind.model().eval(), kind.batch()
    over, before = layout(model, granularity=grain), traces(model)
    # Without a whole tensor or layer much of a network has no gradient.
    schedule = Schedule(steps=2, samples=1, warmup=0.0, init=4.0 if grain in {PerTensor(), PerLayer()} else 0.0)
    logits = Logits(over, schedule)
    learned = learn_mask(
        model, [batch], kind.loss, layout=over, gate=gate, schedule=schedule, penalty=0.0, resume=logits
    )
    gradient = logits.state()["adam_mean"]
    assert gradient.isfinite().all()
    reached = [bool(span.own(gradient).any()) for span in over.spans if model.get_parameter(span.name).any()]
    assert all(reached)
    assert torch.equal(learned.mask.kept, gate.harden(learned.logits, over))
    loaded = Mask.load(learned.mask.save(tmp_path / "mask.safetensors"), model)
    assert loaded == learned.mask
    assert loaded.origin == learned.mask.origin
    assert loaded.origin.gate == repr(gate)
    exported = bake(model, loaded)
    torch.testing.assert_close(outputs(kind, masked(model, loaded), batch), outputs(kind, exported, batch))
    assert not any(exported.get_parameter(name)[~kept].any() for name, kept in loaded.tensors().items())
    assert_untouched(model, before)


@pytest.mark.parametrize(("kind", "grain"), [*product(ZOO, GRAINS), *WITH_OWN], ids=_named)
def test_a_full_mask_is_the_plain_model(kind, grain):
    model, batch = kind.model().eval(), kind.batch()
    over = layout(model, granularity=grain)
    torch.testing.assert_close(outputs(kind, masked(model, Mask.full(over)), batch), outputs(kind, model, batch))


@pytest.mark.parametrize(("kind", "grain"), [*product(ZOO, GRAINS), *WITH_OWN], ids=_named)
def test_masked_applied_and_baked_agree(kind, grain):
    model, batch = kind.model().eval(), kind.batch()
    mask = some(layout(model, granularity=grain))
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
@pytest.mark.filterwarnings("ignore:.*keeps everything.*")
def test_nothing_is_left_changed_in_the_model(kind):
    model, batch = kind.model().train(), kind.batch()
    over = layout(model)
    frozen = next(iter(model.children()), model)
    frozen.eval()  # a mode of its own, which must come back
    before = traces(model)
    with torch.no_grad():
        learn_mask(model, [batch], kind.loss, layout=over, schedule=Schedule(steps=2, samples=2))
    model.eval()
    outputs(kind, masked(model, some(over)), batch)
    with applied(model, some(over)):
        outputs(kind, model, batch)
    for module, mode in zip(model.modules(), before["modes"], strict=True):
        module.training = mode
    assert_untouched(model, before)


@EVERY
def test_an_error_inside_leaves_nothing_behind(kind):
    model, batch = kind.model().train(), kind.batch()
    before = traces(model)

    def failing(network, part):
        kind.outputs(network, part)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn_mask(model, [batch], failing, schedule=Schedule(steps=2))
    with pytest.raises(ZeroDivisionError), applied(model, some(layout(model))):
        raise ZeroDivisionError
    assert_untouched(model, before)


@EVERY
@pytest.mark.parametrize("slope", ["expected", "sampled"])
def test_products_that_gate_by_themselves_give_the_same_gradient(kind, slope, monkeypatch):
    """Whatever a network does with its weights: products known here, others, both with one weight, none."""
    schedule = Schedule(steps=1, samples=2, slope=slope, clip=1e9)

    def gradient():
        model, batch = kind.model(), kind.batch()
        before = traces(model)
        over = layout(model, ["*"])
        (state,) = learning(model, [batch, batch], kind.loss, layout=over, schedule=schedule)
        assert_untouched(model, before)
        return state.logits.state()["adam_mean"]

    by_torch = gradient()
    with_products(monkeypatch)
    torch.testing.assert_close(gradient(), by_torch, rtol=1e-3, atol=1e-6)


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
