"""Learning: the gradient against a naive implementation, what it refuses, and that it can be stopped and resumed."""

import gc
import os
import signal
from functools import partial
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from laws import Checkpointed
from maskscope.core.gates import Gate, GumbelSigmoid, HardConcrete
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.learning.blocks import Blocks
from maskscope.core.learning.kernels import Kernel
from maskscope.core.learning.learn import LearningInterrupted, NonFiniteLossError, learn_mask, learning
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.learning.settling import Settling
from maskscope.core.noise import draw, uniform
from maskscope.core.objectives import CrossEntropy, ModelLoss, cross_entropy
from maskscope.core.seeded import seeded
from maskscope.models.lstm import LSTM
from native import with_products
from zoo import gpt2

pytestmark = pytest.mark.filterwarnings("ignore:.*keeps everything.*")


@pytest.fixture
def model():
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int, n: int = 12):
    with seeded(100 + step):
        return torch.randn(n, 4), torch.randint(0, 3, (n,))


def steady(steps):
    """One learning rate throughout, so that schedules of other lengths begin alike."""
    return Schedule(steps=steps, warmup=0.0, decay=0.0, settled=None)


def gradient(model, over, samples, objective=cross_entropy, data=None, *, strata=False, slope="sampled", kernel="auto"):
    """The gradient of the first step, read off Adam's first moment."""
    schedule = Schedule(steps=1, samples=samples, strata=strata, clip=1e9, slope=slope)
    batches = batch if data is None else [data]
    (state,) = learning(model, batches, objective, layout=over, schedule=schedule, penalty=0.0, seed=7)
    return state.logits.state()["adam_mean"].double() / (1 - 0.9)


@pytest.mark.parametrize("grain", [None, PerOutput()], ids=["weight", "output"])
@pytest.mark.parametrize("samples", [1, 4, 5])
def test_the_gradient_is_that_of_a_naive_autograd_implementation(model, grain, samples):
    model = model.double()
    over = layout(model, granularity=grain)
    found = gradient(model, over, samples, lambda call, b: cross_entropy(call, (b[0].double(), b[1])))
    expected = naive_gradient(model, over, samples)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("samples", [1, 4])
def test_every_sample_adds_the_slope_expected_of_its_gates(model, samples, low_memory):
    over = layout(model, ["*"])
    logits = Logits(over, Schedule(steps=1, samples=samples, clip=1e9), low_memory=low_memory)
    (_,) = learning(
        model, batch, cross_entropy, layout=over, schedule=logits.schedule, penalty=0.25, seed=7, resume=logits
    )
    x, y = batch(0)
    expected = torch.zeros(over.units)
    for k, (part_x, part_y) in enumerate(zip(x.tensor_split(samples), y.tensor_split(samples), strict=True)):
        noise = [
            uniform(torch.arange(span.units, dtype=torch.int32), *draw(7, 0, k, strata=samples).of(span.name))
            for span in over.spans
        ]
        gates = (torch.cat(noise) > torch.sigmoid(torch.tensor(-2.0))).float()
        leaves = {
            s.parameter: s.gated(model.get_parameter(s.parameter).detach(), s.own(gates)).requires_grad_()
            for s in over.segments
        }
        loss = functional.cross_entropy(torch.func.functional_call(model, leaves, (part_x,)), part_y)
        (loss * len(part_x) / len(x)).backward()
        product = torch.cat([(leaf.grad * model.get_parameter(n)).flatten() for n, leaf in leaves.items()]).detach()
        expected += product * GumbelSigmoid().expected_slope(torch.full_like(gates, 2.0), gates)
    found = logits.state()["adam_mean"] / (1 - 0.9)
    torch.testing.assert_close(found, expected + 0.25, rtol=1e-5, atol=1e-6)


def naive_gradient(model, over, samples):
    """Autograd in double precision through a soft gate with a straight-through estimator, part by part."""
    x, y = batch(0)
    logits = torch.full((over.units,), 2.0, dtype=torch.float64, requires_grad=True)
    for k, (part_x, part_y) in enumerate(zip(x.double().tensor_split(samples), y.tensor_split(samples), strict=True)):
        u = torch.cat(
            [uniform(torch.arange(span.units, dtype=torch.int32), *draw(7, 0, k).of(span.name)) for span in over.spans]
        ).double()
        soft = torch.sigmoid(logits + torch.log(u) - torch.log1p(-u))
        gates = (soft > 0.5).double() - soft.detach() + soft
        weights = {s.parameter: s.gated(model.get_parameter(s.parameter).detach(), s.own(gates)) for s in over.segments}
        loss = functional.cross_entropy(torch.func.functional_call(model, weights, (part_x,)), part_y)
        (loss * len(part_x) / len(x)).backward()
    return logits.grad


def test_gradient_checkpointing_gives_the_same_gradient(model):
    class Plain(Checkpointed):
        def forward(self, x):
            return self.inner(x)

    plain, saving = Plain(model), Checkpointed(model)
    assert torch.equal(gradient(saving, layout(saving), 2), gradient(plain, layout(plain), 2))


def test_a_mean_over_tokens_is_weighted_by_tokens(model):
    """K parts with unequal numbers of labels give the gradient of the mean over all labels."""
    x, y = batch(0)
    y[:5] = -100
    full = nn.Sequential(nn.Linear(4, 3))
    kept_open = Schedule(steps=1, samples=1, init=40.0, clip=1e9)
    cut = Schedule(steps=1, samples=2, init=40.0, clip=1e9)
    losses = [
        next(learning(full, [(x, y)], CrossEntropy(), layout=layout(full), schedule=schedule)).loss
        for schedule in (kept_open, cut)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_a_models_own_loss_is_weighted_by_its_labels():
    """Of rows of unlike length in two parts, the second without any label at all."""
    network = gpt2().eval()
    tokens = torch.arange(32).view(4, 8) % 11
    for first, second in ((2, 6), (5, 0)):
        labels = tokens.clone()
        labels[:2, first + 1 :] = -100
        labels[2:, second + 1 :] = -100
        losses = [
            next(
                learning(
                    network,
                    [{"input_ids": tokens, "labels": labels}],
                    ModelLoss(shifted=True),
                    layout=layout(network),
                    schedule=Schedule(steps=1, samples=samples, init=40.0),
                )
            ).loss
            for samples in (1, 2)
        ]
        torch.testing.assert_close(losses[0], losses[1])
    with pytest.raises(KeyError, match="no 'labels', only 'input_ids'"):
        ModelLoss().weigh({"input_ids": tokens})


def test_the_penalty_has_no_hidden_division(model):
    """With a loss that does not see them, units are pushed by the penalty's slope alone, whatever the batch."""
    over = layout(model)
    for n in (4, 12):
        schedule = Schedule(steps=1, samples=2, clip=1e9)

        def blind(call, b):
            return call(b[0]).sum() * 0.0

        (state,) = learning(model, [batch(0, n)], blind, layout=over, schedule=schedule, penalty=0.25)
        torch.testing.assert_close(state.logits.state()["adam_mean"] / 0.1, torch.full((over.units,), 0.25))


def test_the_same_seed_gives_the_same_mask_and_another_one_does_not(model):
    def logits(seed, **settings):
        return learn_mask(model, batch, cross_entropy, seed=seed, schedule=Schedule(steps=20), **settings).logits

    assert torch.equal(logits(0), logits(0))
    assert not torch.equal(logits(0), logits(1))


def test_selecting_less_leaves_the_other_draws_alone(model):
    both = learn_mask(model, batch, cross_entropy, layout=layout(model), schedule=Schedule(steps=1))
    first, one = layout(model), layout(model, ["2.weight"])
    u_both = [draw(0, 0, 0).of(span.name) for span in first.spans if span.name == "2.weight"]
    assert u_both == [draw(0, 0, 0).of(span.name) for span in one.spans]
    assert both.mask.layout == first


def test_resuming_gives_the_same_bits(model):
    over, schedule = layout(model), Schedule(steps=30)
    whole = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule).logits
    saved = None
    for state in learning(model, batch, cross_entropy, layout=over, schedule=schedule):
        if state.step == 11:
            saved = state.logits.state()
            break
    again = Logits(over, schedule)
    again.restore(saved)
    assert torch.equal(
        learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, resume=again).logits, whole
    )


def test_a_state_of_another_layout_is_refused(model):
    logits = Logits(layout(model, ["0.weight"]), Schedule())
    with pytest.raises(ValueError, match="holds 32 logits, this layout has 56 units"):
        Logits(layout(model), Schedule()).restore(logits.state())


def test_ctrl_c_loses_nothing(model):
    over, schedule = layout(model), Schedule(steps=30)
    whole = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule).logits

    def pressing(states):
        for state in states:
            if state.step == 9:
                os.kill(os.getpid(), signal.SIGINT)
            yield state

    with pytest.raises(LearningInterrupted, match="stopped after step 9 of 30") as stop:
        learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, watch=pressing)
    resumed = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, resume=stop.value.state.logits)
    assert torch.equal(resumed.logits, whole)


def test_a_non_finite_loss_stops_keeps_the_last_good_state_and_says_the_step(model):
    def breaking(step):
        x, y = batch(step)
        return (x * float("nan") if step == 7 else x), y

    good = [
        state.logits.values.clone()
        for state in learning(model, batch, cross_entropy, layout=layout(model), schedule=steady(7))
    ]
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 8 of 20; the logits are as after step 7") as stop:
        learn_mask(model, breaking, cross_entropy, schedule=steady(20))
    assert stop.value.state.step == 7
    assert torch.equal(stop.value.state.logits.values, good[-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_by_name(model, bad):
    model[2].weight.data[1, 2] = bad
    with pytest.raises(ValueError, match=r"'2\.weight' holds 1 NaN or infinite values of 24"):
        learn_mask(model, batch, cross_entropy)


def test_a_loss_that_sees_no_masked_weight_is_refused(model):
    with pytest.raises(ValueError, match="the loss does not depend on any masked weight"):
        learn_mask(model, batch, lambda call, b: (b[0].requires_grad_() * call(b[0]).detach().sum()).sum())
    with pytest.raises(ValueError, match="the loss has no gradient"):
        learn_mask(model, batch, lambda call, b: call(b[0]).detach().sum())


@pytest.mark.parametrize("value", [1.0, None, torch.zeros(2)], ids=["float", "None", "vector"])
def test_an_objective_that_is_no_scalar_tensor_is_refused(model, value):
    with pytest.raises(TypeError, match="an objective returns the mean loss as a scalar tensor, got"):
        learn_mask(model, batch, lambda call, b: value)


def test_an_empty_and_a_full_mask_are_warned_of(model):
    with pytest.warns(UserWarning, match="the mask of add is empty: the penalty 10 removed everything"):
        learn_mask(model, batch, cross_entropy, penalty=10.0, schedule=Schedule(steps=60), subtask="add")
    with pytest.warns(UserWarning, match="the mask of add keeps everything"):
        learn_mask(model, batch, cross_entropy, schedule=Schedule(steps=1), subtask="add")


@pytest.mark.parametrize("fields", [{"steps": 0}, {"samples": 0}, {"learning_rate": 0.0}, {"clip": -1.0}], ids=str)
def test_schedules_check_their_numbers(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Schedule(**fields)


def test_the_temperature_must_be_positive():
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0\.0"):
        GumbelSigmoid(temperature=0.0)


def test_a_batch_smaller_than_the_samples_and_an_empty_loader_are_refused(model):
    with pytest.raises(ValueError, match="batch of 3 cannot be cut into samples=4"):
        learn_mask(model, [batch(0, 3)], cross_entropy)
    with pytest.raises(ValueError, match="the loader is empty"):
        learn_mask(model, [], cross_entropy)


def test_an_objective_may_call_the_network_itself_and_sees_it_unmasked(model):
    """Distillation: the teacher is the very network that is masked."""
    x, _ = batch(0)
    with torch.no_grad():
        expected = model(x)
    seen = []

    def distil(network, inputs):
        with torch.no_grad():
            teacher = model(inputs)
        seen.append(teacher)
        return functional.mse_loss(network(inputs), teacher)

    schedule = Schedule(steps=3, samples=1, init=0.0)
    states = list(learning(model, [x], distil, layout=layout(model), schedule=schedule))
    assert all(torch.equal(teacher, expected) for teacher in seen)
    assert float(states[0].loss) > 0


class Heads(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.other = body, nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x)


def test_a_masked_parameter_outside_the_loss_is_warned_of(model):
    with pytest.warns(UserWarning, match=r"1 of 3 masked parameters take no part in the loss, first 'other\.weight'"):
        learn_mask(Heads(model), batch, cross_entropy, schedule=Schedule(steps=1))


def test_after_a_bad_batch_learning_goes_on_as_if_it_had_not_been(model):
    over, schedule = layout(model), Schedule(steps=20)
    whole = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule).logits

    def breaking(step):
        x, y = batch(step)
        return (x * float("nan") if step == 7 else x), y

    with pytest.raises(NonFiniteLossError) as stop:
        learn_mask(model, breaking, cross_entropy, layout=over, schedule=schedule)
    resumed = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, resume=stop.value.state.logits)
    assert torch.equal(resumed.logits, whole)


def test_an_error_in_the_middle_of_a_step_leaves_no_half_gradient(model):
    over, schedule = layout(model), Schedule(steps=20)
    whole = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule).logits
    calls = []

    def failing(network, part):
        calls.append(1)
        if len(calls) == 4 * 9 + 2:  # the second part of the tenth step
            raise MemoryError
        return cross_entropy(network, part)

    logits = Logits(over, schedule)
    with pytest.raises(MemoryError):
        learn_mask(model, batch, failing, layout=over, schedule=schedule, resume=logits)
    assert logits.step == 9
    resumed = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, resume=logits)
    assert torch.equal(resumed.logits, whole)


def test_resuming_with_other_settings_is_refused(model):
    begun = Logits(layout(model, ["0.weight"]), Schedule(steps=5))
    with pytest.raises(ValueError, match="lie over another layout"):
        learn_mask(model, batch, cross_entropy, resume=begun, schedule=Schedule(steps=5))
    with pytest.raises(ValueError, match=r"were begun with Schedule\(.*steps=5"):
        learn_mask(model, batch, cross_entropy, layout=begun.layout, resume=begun, schedule=Schedule(steps=6))


def test_resuming_with_another_seed_is_refused(model):
    over, schedule = layout(model), Schedule(steps=5)
    begun = Logits(over, schedule)
    next(learning(model, batch, cross_entropy, layout=over, schedule=schedule, seed=1, resume=begun))
    with pytest.raises(ValueError, match=r"begun with \(seed, penalty, gate\) = \(1, .*got \(2, "):
        learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, seed=2, resume=begun)
    read = Logits(over, schedule)
    read.restore(begun.state())  # as from a file
    with pytest.raises(ValueError, match=r"begun with \(seed, penalty, gate\) = \(1, .*got \(2, "):
        learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, seed=2, resume=read)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resume": torch.zeros(2)}, "resume takes the logits of a state .*got Tensor"),
        ({"penalty": -1.0}, "penalty must not be negative, got -1"),
        ({"gate": HardConcrete}, "gate takes an object such as ms.HardConcrete.., got the class HardConcrete"),
        ({"layout": [1]}, r"layout takes what ms.layout\(model\) returns, got list"),
        ({"schedule": 50}, r"schedule takes a Schedule, such as ms.Schedule\(steps=500\), got 50"),
        ({"gate": "hard"}, r"gate takes an object such as ms.HardConcrete\(\), got 'hard'"),
        ({"penalty": "1e-6"}, "penalty takes a number, got '1e-6'"),
        ({"kernel": "fast"}, "kernel is one of 'auto', 'compiled', 'eager', got 'fast'"),
        ({"autocast": "bfloat16"}, "autocast takes torch.bfloat16 .* or None .*, got 'bfloat16'"),
        ({"split": 2}, r"split takes a function of \(batch, parts\) .*, got 2"),
        ({"accumulate": 1.5}, "accumulate takes a whole number, got 1.5"),
    ],
    ids=str,
)
def test_wrong_settings_say_what_was_expected(settings, message, model):
    with pytest.raises((TypeError, ValueError), match=message):
        next(unwrap(learning)(model, batch, cross_entropy, **{"layout": layout(model), **settings}))


def test_a_gate_that_lacks_something_is_told_what(model):
    lacking = SimpleNamespace(**dict.fromkeys(vars(Gate).keys() - {"harden", "slope"}))
    with pytest.raises(TypeError, match=r"gate takes an object such as .*, which has no slope, harden"):
        next(unwrap(learning)(model, batch, cross_entropy, layout=layout(model), gate=lacking))


def test_numbers_of_numpy_are_numbers(model):
    """And begin the same learning, so that either resumes the other's."""
    options = {"layout": layout(model), "schedule": Schedule(steps=3)}
    numbers = ({"penalty": 0.5, "accumulate": 2}, {"penalty": np.float32(0.5), "accumulate": np.int64(2)})
    one, other = (next(unwrap(learning)(model, batch, cross_entropy, **options, **given)).logits for given in numbers)
    assert torch.equal(one.values, other.values)
    assert one.begun_with == other.begun_with


@pytest.mark.parametrize(
    ("objective", "got"), [(None, "got None"), (nn.Linear(2, 2), "got the network itself")], ids=["none", "network"]
)
def test_an_objective_is_a_function_of_network_and_batch(objective, got):
    network = objective or nn.Linear(2, 2)
    with pytest.raises(TypeError, match=rf"an objective is a function of \(network, batch\), .*{got}"):
        next(unwrap(learning)(network, batch, objective, layout=layout(network)))


def test_batches_that_do_not_take_the_step_are_refused(model):
    with pytest.raises(TypeError, match=r"is called with the number of the step.*write lambda step"):
        learn_mask(model, lambda: batch(0), cross_entropy)


def test_a_dict_batch_needs_an_objective_of_its_own(model):
    x, y = batch(0)
    with pytest.raises(TypeError, match=r"expected a batch \(inputs, targets\), got dict.*ms\.ModelLoss\(\)"):
        learn_mask(
            model,
            [{"x": x, "y": y}],
            lambda n, b: unwrap(CrossEntropy.__call__)(cross_entropy, n, b),
            schedule=Schedule(steps=1),
        )


def test_a_part_without_labels_does_not_count(model):
    x, y = batch(0, 8)
    y[2:4] = -100
    (state,) = learning(model, [(x, y)], cross_entropy, layout=layout(model), schedule=Schedule(steps=1))
    assert state.loss.isfinite()


def test_logits_are_float32_whatever_the_default(model):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        learned = learn_mask(
            model, lambda s: batch(s), lambda n, b: n(b[0].float()).square().mean(), schedule=Schedule(steps=2)
        )
    finally:
        torch.set_default_dtype(before)
    assert learned.logits.dtype == torch.float32


def test_an_early_stop_records_the_steps_taken(model):
    def three(states):
        for state in states:
            yield state
            if state.step == 3:
                return

    learned = learn_mask(model, batch, cross_entropy, schedule=Schedule(steps=50), watch=three)
    assert learned.mask.origin.steps == 3
    with pytest.raises(ValueError, match="watch ended before the first step"):
        learn_mask(model, batch, cross_entropy, watch=lambda states: [])


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99)])
def test_adam_is_that_of_torch(betas):
    """Fused with the clip and the guard, but the same steps."""
    gen, over = torch.Generator().manual_seed(0), layout(nn.Linear(30, 7))
    schedule = Schedule(steps=50, learning_rate=0.3, betas=betas, clip=2.0, warmup=0.0, decay=0.0)
    ours, theirs = Logits(over, schedule), torch.full((210,), 2.0, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.3, betas=betas)
    for _ in range(40):
        gradient = torch.randn(210, generator=gen)
        ours.gradient.copy_(ours.blocks.spread(gradient))
        ours.begin(GumbelSigmoid())
        assert bool(ours.descend(Kernel(GumbelSigmoid(), "eager"), torch.tensor(data=True)))
        ours.step += 1
        theirs.grad = gradient.clone()
        nn.utils.clip_grad_norm_([theirs], 2.0)
        adam.step()
    torch.testing.assert_close(ours.values, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_an_objective_may_differentiate_the_network_itself(model):
    """A gradient penalty: backward inside the objective must not count as the mask's own."""
    over, schedule = layout(model), Schedule(steps=1, samples=1, clip=1e9, slope="expected")

    def smooth(network, data):
        x = data[0].clone().requires_grad_()
        loss = functional.cross_entropy(network(x), data[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.square().sum()

    def found():
        (state,) = learning(model, batch, smooth, layout=over, schedule=schedule, penalty=0.0)
        return state.logits.state()["adam_mean"]

    fused = found()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = partial(nn.Linear.forward, module)  # an instance's own forward is left alone
    torch.testing.assert_close(fused, found(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "lstm"])
def test_it_may_do_so_with_products_that_gate_by_themselves(name, monkeypatch):
    """They compute gradients that can be differentiated again as torch does."""
    with seeded(0):
        linear = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        x, model = torch.randn(8, 5, 4), linear if name == "linear" else LSTM(4, 16, 2, 3)
    schedule = Schedule(steps=1, samples=2, clip=1e9)

    def smooth(network, data):
        inputs = data.clone().requires_grad_()
        loss = network(inputs).square().mean()
        (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
        return loss + slope.square().sum()

    def found():
        (state,) = learning(model, [x], smooth, layout=layout(model, ["*"]), schedule=schedule, penalty=0.0)
        return state.logits.state()["adam_mean"]

    by_torch = found()
    with_products(monkeypatch)
    torch.testing.assert_close(found(), by_torch, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rows", [12, 256, 257, 600])
def test_such_products_give_the_same_gradient_of_few_and_of_many_examples(model, rows, monkeypatch):
    by_torch = gradient(model, layout(model), 1, data=batch(0, rows))
    with_products(monkeypatch)
    torch.testing.assert_close(gradient(model, layout(model), 1, data=batch(0, rows)), by_torch, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("model", "call"),
    [
        (nn.Linear(6, 3), lambda network: network(torch.randn(8, 5))),
        (nn.Linear(6, 3), lambda network: network(torch.randn(8, 6, dtype=torch.float64))),
        (nn.LSTM(5, 16), lambda network: network(torch.randn(8, 3, 4))[0]),
        (nn.LSTM(5, 16), lambda network: network(torch.randn(8, 3, 5), (torch.zeros(1, 1, 16),) * 2)[0]),
    ],
    ids=["linear", "double", "lstm", "state"],
)
def test_such_products_refuse_what_torch_refuses(model, call, monkeypatch):
    """They go by addresses: sizes that do not fit must not be read past their end."""
    with_products(monkeypatch)
    with pytest.raises(RuntimeError) as theirs:
        call(model)
    with pytest.raises(RuntimeError) as ours:
        learn_mask(
            model, [torch.zeros(8)], lambda network, _: call(network).mean(), schedule=Schedule(steps=1, samples=1)
        )
    assert str(ours.value) == str(theirs.value)


def test_a_run_with_such_products_resumes_bit_for_bit(model, monkeypatch):
    with_products(monkeypatch)
    over, schedule = layout(model, ["*"]), Schedule(steps=20, samples=2, settled=None)
    whole = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule).logits
    halfway = Logits(over, schedule)
    for state in learning(model, batch, cross_entropy, layout=over, schedule=schedule):
        if state.step == 7:
            halfway.restore(state.logits.state())
            break
    resumed = learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, resume=halfway).logits
    assert torch.equal(resumed, whole)


def test_a_teacher_sees_the_plain_network_among_such_products(model, monkeypatch):
    """An objective that calls the network itself gets it without a mask, whatever stands in for its layers."""
    with_products(monkeypatch)
    x, plain = batch(0)[0], model(batch(0)[0]).detach()

    def distilled(network, data):
        assert torch.equal(model(data[0]), model(data[0]))
        return (network(data[0]) - model(data[0]).detach()).square().mean()

    learn_mask(model, [(x, x)], distilled, schedule=Schedule(steps=2, samples=1))
    assert torch.equal(model(x), plain)


def test_a_mask_that_is_mostly_undecided_has_not_settled():
    settling = Settling(Schedule(steps=100, warmup=0.0, decay=0.1, settled=0.5))
    kept = torch.tensor([True, True, False])
    for step in range(1, 91):
        if settling.due(step):
            settling.look(step, kept, undecided=0.9 if step < 50 else 0.1)
    assert settling.end == 60


def test_a_mask_that_no_longer_changes_ends_early(model):
    schedule = Schedule(steps=1000, learning_rate=0.5, samples=2, settled=0.02, warmup=0.1)
    learned = learn_mask(model, batch, cross_entropy, layout=layout(model), penalty=1e-4, schedule=schedule)
    assert learned.mask.origin.steps < 1000
    assert learned.curve[-1].step == learned.mask.origin.steps
    assert learned.curve[-1].changed < 0.02


def test_a_mask_that_still_changes_is_warned_of(model):
    schedule = Schedule(steps=60, samples=2, warmup=0.0, learning_rate=0.1, settled=0.001)
    with pytest.warns(UserWarning, match=r"is not settled: \d+% of its units changed over the last 10 steps"):
        learn_mask(model, batch, cross_entropy, layout=layout(model), penalty=1e-3, schedule=schedule)


def test_a_run_resumed_after_the_end_was_decided_ends_there_too(model):
    schedule = Schedule(steps=1000, learning_rate=0.5, samples=2, settled=0.02, warmup=0.1)
    kept = {}
    for state in learning(model, batch, cross_entropy, layout=layout(model), penalty=1e-4, schedule=schedule):
        if state.step == state.steps - 5:
            kept = state.logits.state()
    again = Logits(layout(model), schedule)
    again.restore(kept)
    *_, last = learning(
        model, batch, cross_entropy, layout=layout(model), penalty=1e-4, schedule=schedule, resume=again
    )
    assert last.step == state.step < 1000
    assert torch.equal(last.logits.values, state.logits.values)


@pytest.mark.parametrize("products", [False, True])
def test_products_in_bfloat16_learn_much_the_same(model, products, monkeypatch):
    if products:
        with_products(monkeypatch)
    over, schedule = layout(model), Schedule(steps=30, samples=2, settled=None)
    logits = {
        dtype: learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, autocast=dtype).logits
        for dtype in (None, torch.bfloat16)
    }
    assert not torch.equal(logits[None], logits[torch.bfloat16])
    assert torch.corrcoef(torch.stack(list(logits.values())))[0, 1] > 0.9


@pytest.mark.parametrize("products", [False, True])
def test_low_memory_gives_the_same_mask(products, monkeypatch):
    """And so do runs of their own: in low memory the middle weight has one, otherwise it lies among the others."""
    if products:
        with_products(monkeypatch)
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 3))
    over, schedule = layout(model, ["*"]), Schedule(steps=30, samples=2, settled=None)
    assert len(Blocks(over, large=1 << 14).runs) == 3 > len(Blocks(over).runs)
    ordinary, low = (
        learn_mask(model, batch, cross_entropy, layout=over, schedule=schedule, low_memory=low).logits
        for low in (False, True)
    )
    assert torch.equal(ordinary, low)


class Looking(nn.Linear):
    """A linear layer that does its own arithmetic."""

    def forward(self, x):
        return torch.einsum("...i,oi->...o", x, self.weight)


@pytest.mark.parametrize(
    ("kind", "products", "size"), [(nn.Linear, False, 24), (nn.Linear, True, 20), (Looking, True, 24)]
)
def test_everything_that_learns_is_float32_and_24_bytes_a_weight_at_most_in_low_memory(
    kind, products, size, monkeypatch
):
    """What lasts from step to step, counted: logits, moments, gradient, gated weights; the network's own weights."""
    if products:
        with_products(monkeypatch)
    model = kind(256, 256, bias=False)
    logits = Logits(layout(model), Schedule(samples=2), low_memory=True)
    seen = learning(
        model,
        lambda _: (torch.randn(8, 256), torch.zeros(8, dtype=torch.long)),
        cross_entropy,
        layout=layout(model),
        schedule=Schedule(samples=2),
        resume=logits,
    )
    next(seen)
    gc.collect()
    # Held by storages: views count once. Looked at as plain tensors, or a stand-in would write the gated weight.
    with torch._C.DisableTorchFunctionSubclass():
        storages = {
            item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
            for item in gc.get_objects()
            if issubclass(type(item), torch.Tensor) and item.numel() >= 256 * 256 and item.dtype == torch.float32
        }
    found = sum(held for held in storages.values() if held == 4 * 256 * 256)
    assert found == size * 256 * 256
    seen.close()
