"""Planted networks answer right, share what they say, hide it, and work without everything that is not planted."""

import pytest
import torch
from torch.nn import functional

from maskscope.core.layout import layout
from maskscope.core.seeded import seeded
from maskscope.data.planted import Planted
from maskscope.models.modules import ARCHITECTURES
from maskscope.models.planted import PlantedSettings

DATA = Planted()


def built(settings, seed=0):
    with seeded(seed):
        return settings.build(DATA.inputs, DATA.outputs)


def accuracy(model, subtask):
    batch = DATA.batches("valid", 400, 0, subtask)(0)
    with torch.no_grad():
        return float(DATA.metric(subtask)(model, batch).mean())


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_a_planted_network_solves_both_subtasks(kind):
    model = built(PlantedSettings(kind, shared=0.25))
    assert [accuracy(model, subtask) for subtask in DATA.subtasks] == [1.0, 1.0]


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_axis_of_every_parameter_is_known(kind):
    architecture = ARCHITECTURES[kind]
    module = architecture.build(dict.fromkeys(architecture.spaces, 1))
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    assert set(shapes) == set(architecture.axes)
    for name, axes in architecture.axes.items():
        assert len(axes) == len(shapes[name])
        for axis, length in zip(axes, shapes[name], strict=True):
            assert axis is None or axis.chunks * architecture.spaces[axis.space].size == length, name


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_ends_and_first_half_are_masked_by_default(kind):
    settings = PlantedSettings(kind)
    over = layout(built(settings))
    assert {*settings.ends, *settings.first_half} <= set(over.names)
    assert 0 < len(settings.first_half) < len(over.names)


@pytest.mark.parametrize("by", ["units", "layers"])
@pytest.mark.parametrize("shared", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_supports_overlap_as_the_fraction_says(shared, by):
    settings = PlantedSettings("mlp", shared, by)
    first, second = settings.supports()
    hidden = [name for name in first if first[name].ndim > 1 and name not in settings.ends]
    both = sum(int((first[name] & second[name]).sum()) for name in hidden)
    either = sum(int((first[name] | second[name]).sum()) for name in hidden)
    assert both / either == pytest.approx(shared / (2 - shared))


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_a_subtask_needs_its_own_modules_and_no_other(kind):
    settings = PlantedSettings(kind, shared=0.5)
    plain = _in_order(settings)
    first, second = settings.supports()
    assert accuracy(_keeping(plain, first), "first") == 1.0
    assert accuracy(_keeping(plain, first), "second") < 0.6  # own input columns and output rows are gone
    without = {name: ~kept for name, kept in first.items()}
    assert accuracy(_keeping(plain, without), "first") < 0.6
    assert accuracy(_keeping(plain, without), "second") == pytest.approx((1 + DATA.chance) / 2, abs=0.25)
    assert accuracy(_keeping(plain, second), "second") == 1.0


def test_another_order_and_scale_change_nothing():
    for kind in ARCHITECTURES:
        settings = PlantedSettings(kind, shared=0.5)
        x = torch.randn(5, DATA.inputs)
        with torch.no_grad():
            hidden, plain = built(settings)(x), _in_order(settings)(x)
        assert torch.allclose(hidden, plain, atol=1e-3), kind


def test_units_of_a_module_do_not_stay_together():
    hidden, plain = built(PlantedSettings("mlp")), _in_order(PlantedSettings("mlp"))
    assert not torch.equal((hidden.layers[2].weight != 0), (plain.layers[2].weight != 0))
    assert int((hidden.layers[2].weight != 0).sum()) == int((plain.layers[2].weight != 0).sum())


def test_nothing_that_matters_reads_a_distractor():
    settings = PlantedSettings("mlp", distractors=3)
    plain, width = _in_order(settings), ARCHITECTURES["mlp"].spaces["hidden 0"].size
    weight = plain.layers[2].weight
    assert weight[-3 * width :].count_nonzero() == weight[-3 * width :].numel()
    assert not weight[: -3 * width, -3 * width :].any()
    assert not plain.layers[-1].weight[:, -3 * width :].any()


def test_a_network_depends_on_its_seed_alone():
    first, again, other = (built(PlantedSettings("cnn"), seed) for seed in (0, 0, 1))
    assert torch.equal(first.output.weight, again.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="multiple of"):
        PlantedSettings("mlp", shared=0.3)
    with pytest.raises(ValueError, match="MLP only"):
        PlantedSettings("lstm", shared=0.5, by="layers")
    with pytest.raises(ValueError, match="at least 0"):
        PlantedSettings("mlp", distractors=-1)
    with pytest.raises(ValueError, match="inputs and outputs"):
        PlantedSettings("mlp").build(3, 3)


def test_only_the_subtask_that_is_asked_sees_its_inputs():
    batch = DATA.batches("train", 50, 0)(3)
    inputs = batch.inputs.unflatten(1, (2, -1))
    rows = torch.arange(50)
    assert not inputs[rows, 1 - batch.asked].any()
    digits = inputs[rows, batch.asked].unflatten(1, (4, 2, -1))
    assert torch.equal(digits.sum(-1), torch.ones(50, 4, 2))
    first, second = digits.argmax(-1).unbind(-1)
    assert torch.equal((first - second) % 4, batch.targets)
    assert 0 < int(batch.asked.sum()) < 50


def test_splits_and_seeds_differ_and_repeat():
    one, two = DATA.batches("train", 20, 0)(0), DATA.batches("valid", 20, 0)(0)
    assert not torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.inputs, DATA.batches("train", 20, 0)(0).inputs)
    assert [len(batch.asked) for batch in Planted(valid=250).tests("valid", "first", size=100)] == [100, 100, 50]
    with pytest.raises(KeyError, match="no subtask 'third'"):
        DATA.metric("third")


def test_the_loss_is_that_of_the_asked_outputs():
    batch = DATA.batches("train", 6, 0, "second")(0)
    outputs = torch.randn(6, DATA.outputs)
    mine = outputs.view(6, 2, 4, 4)[:, 1]
    wanted = functional.cross_entropy(mine.reshape(-1, 4), batch.targets.reshape(-1))
    assert torch.equal(DATA.objective("second")(lambda x: outputs, batch), wanted)


def _in_order(settings):
    """The same network before its units are moved."""
    plain = PlantedSettings(settings.architecture, settings.shared, settings.by, settings.distractors)
    object.__setattr__(plain, "_hide", lambda whole, wiring: None)
    return built(plain)


def _keeping(model, support):
    """A copy in which a parameter's weights, not biases, are zero outside a support."""
    parameters = {
        name: parameter.detach() * (support[name] if parameter.ndim > 1 and "position" not in name else 1)
        for name, parameter in model.named_parameters()
    }
    return lambda x: torch.func.functional_call(model, parameters, (x,))
