"""Networks that do odd things with their weights and inputs: what a step learns is still what autograd says."""

import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from maskscope.core.apply import applied, bake, masked
from maskscope.core.layout import layout
from maskscope.core.learning.learn import learn_mask, learning
from maskscope.core.learning.schedules import Schedule
from maskscope.core.mask import Mask
from maskscope.core.swap import Swap
from native import with_products

ONE = Schedule(steps=1, samples=3, init=0.0, clip=1e9, warmup=0.0, decay=0.0, settled=None)


@pytest.fixture
def x():
    return torch.randn(9, 8)


def square(network, batch):
    return network(batch).square().mean()


def gradients(model, x, objective=square):
    """Of a step's loss, by parameter, as Adam's first mean has it."""
    (state,) = learning(model, [x], objective, layout=layout(model), schedule=ONE, penalty=0.0, kernel="eager")
    mean = state.logits.state()["adam_mean"] * 10
    return float(state.loss), {name: state.logits.layout.by_name[name].own(mean) for name in state.logits.layout.names}


class Memory(nn.Module):
    """Its state is a buffer that changes in place, and is a layer's input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("state", torch.zeros(3, 8))

    def forward(self, x):
        self.state.mul_(0.5).add_(x)
        return self.second(torch.tanh(self.first(self.state)))


class Prototypes(nn.Module):
    """A masked parameter, or a part of one, is a layer's input."""

    def __init__(self, part):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(5, 8))
        self.project, self.encode, self.part = nn.Linear(8, 8), nn.Linear(8, 8), part

    def forward(self, x):
        return torch.tanh(self.encode(x)) @ self.project(self.part(self.prototypes)).t()


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


class OwnFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return Product.apply(torch.tanh(self.first(x)), self.weight)


class OneStepOfLearning(nn.Module):
    """Its layers are called with weights that a step of gradient descent has changed (MAML)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        weights = dict(self.net.named_parameters())
        inner = functional_call(self.net, weights, (x,)).square().mean()
        names = ["0.weight", "2.weight"]
        slopes = torch.autograd.grad(inner, [weights[name] for name in names], create_graph=True)
        for name, slope in zip(names, slopes, strict=True):
            weights[name] = weights[name] - 0.5 * slope
        return functional_call(self.net, weights, (x,))


class Bounded(nn.Module):
    """Writes into a weight before it uses it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        with torch.no_grad():
            self.first.weight.copy_(torch.renorm(self.first.weight, 2, 0, 0.1))
        return self.second(torch.tanh(self.first(x)))


def scripted():
    return nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))))


NETWORKS = {
    "a buffer that changes in place": Memory,
    "a parameter as input": partial(Prototypes, lambda weight: weight),
    "a view of a parameter as input": partial(Prototypes, lambda weight: weight[:]),
    "a function of one's own": OwnFunction,
    "other weights in a layer": OneStepOfLearning,
    "a weight that is written into": Bounded,
    "a scripted part": scripted,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_products_learn_what_written_weights_learn(make, x, monkeypatch):
    """Eager passes write every gated weight for autograd to see; the products that write none must agree."""
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected_loss, expected = gradients(model, x)
    model.load_state_dict(before)
    with_products(monkeypatch)
    loss, found = gradients(model, x)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert sum(float(gradient.norm()) for gradient in expected.values()) > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_second_order_gradients_reach_the_logits(x):
    """Of a network whose layer has other weights: by autograd through gates that were drawn."""
    model, over = OneStepOfLearning(), layout(OneStepOfLearning())
    _, found = gradients(model, x)
    _, plain = gradients(model.net, x)
    assert set(found) == {f"net.{name}" for name in plain} == set(over.names)
    for name, gradient in plain.items():
        assert not torch.allclose(found[f"net.{name}"], gradient, rtol=1e-2)


def test_what_the_loss_reaches_past_the_mask_is_told_and_leaves_no_gradient(x):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    model[0].weight.grad = before = torch.ones(8, 8)

    def decay(network, batch):
        return square(network, batch) + model[0].weight.square().sum() + model[1].bias.sum()

    with pytest.warns(UserWarning, match=r"reaches the network's own '.*' past the mask \(2 parameters\)"):
        gradients(model, x, decay)
    assert model[0].weight.grad is before
    assert torch.equal(before, torch.ones(8, 8))
    assert model[1].bias.grad is None


def test_a_gradient_that_an_objective_takes_itself_is_not_past_the_mask(x):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))

    def measured(network, batch):
        torch.autograd.grad(square(model, batch), list(model.parameters()))
        return square(network, batch)

    gradients(model, x, measured)  # a warning would be an error
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_parameter_of_the_network_may_be_learned_alongside(x):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    probe, before = torch.optim.SGD([model[1].bias], 0.1), model[1].bias.detach().clone()

    def objective(network, batch):
        return (network[0](batch) @ network[1].weight.t() + model[1].bias).square().mean()

    learn_mask(model, [x], objective, layout=layout(model), schedule=ONE, kernel="eager", alongside=probe)
    assert not torch.equal(model[1].bias, before)


def test_memory_of_numpy_may_change_too(x, monkeypatch):
    model, buffer = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), np.zeros((3, 8), dtype=np.float32)

    def reused(network, batch):
        buffer[:] = batch.numpy()
        return square(network, torch.from_numpy(buffer))

    _, expected = gradients(model, x)
    with_products(monkeypatch)
    _, found = gradients(model, x, reused)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-7)


def test_what_hooks_keep_of_a_call_stays(x):
    """Only what is computed from weights is put back."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    model[1].register_forward_pre_hook(lambda module, inputs: setattr(module, "seen", inputs[0].detach()))
    model(x)
    masked(model, Mask.empty(layout(model)))(x)
    assert torch.equal(model[1].seen, model[0].bias.detach().expand(9, 8))


def test_threads_of_backward_may_call_the_network(x):
    """As those of a GPU do where activations are computed again."""
    model, seen = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), []

    def again(network, batch):
        outputs = network(batch)

        def hook(_gradient):
            thread = threading.Thread(target=lambda: seen.append(network(batch).detach()), daemon=True)
            thread.start()
            thread.join(20)

        seen.append(outputs.detach())
        outputs.register_hook(hook)
        return outputs.square().mean()

    gradients(model, x, again)
    assert len(seen) == 6
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(first, second)


def test_a_masked_generator_is_one(x):
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8, bias=False)

        def talk(self, x):
            got = yield self.layer(x)
            try:
                yield got
            except ValueError:
                yield "caught"
            return 7

    model = Asking()
    talk = masked(model, Mask.empty(layout(model))).talk(x)
    assert not next(talk).any()
    assert talk.send("hello") == "hello"
    assert talk.throw(ValueError()) == "caught"
    with pytest.raises(StopIteration) as end:
        next(talk)
    assert end.value.value == 7


def test_a_networks_own_parameters_are_gated_when_an_objective_asks_it_for_them(x):
    """So weight decay is that of the masked network, and differentiable."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    over = layout(model)

    def decay(network, batch):
        return square(network, batch) * 0 + sum(parameter.square().sum() for parameter in network.parameters())

    _, found = gradients(model, x, decay)
    for name in over.names:  # d/dlogit of s w^2, with the same positive slope for every sample: as large as w^2
        assert (found[name] > 0).all()
    half = masked(model, Mask.empty(over))
    assert (
        float(sum(parameter.detach().abs().sum() for name, parameter in half.named_parameters() if "weight" in name))
        == 0.0
    )


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)])
        self.named = nn.ModuleDict({"a": nn.Linear(8, 8, bias=False)})
        self.chosen = [self.layers[0]]
        self.bound = partial(self.run, times=2)

    def run(self, x, times=1):
        for _ in range(times):
            x = self.layers[0](x)
        return x

    def one_by_one(self, x):
        for layer in self.layers:
            x = layer(x)
            yield x

    def later(self):
        return lambda x: self.layers[0](x)

    def forward(self, x):
        return self.run(x)


PARTS = {
    "itself": lambda network, x: network(x),
    "a generator": lambda network, x: sum(network.one_by_one(x)),
    "what a method returns": lambda network, x: network.later()(x),
    "a list of parts": lambda network, x: network.chosen[0](x),
    "a bound function": lambda network, x: network.bound(x),
    "children": lambda network, x: sum(part(x) for part in network.layers.children()),
    "named children": lambda network, x: sum(part(x) for _, part in network.layers.named_children()),
    "values of a dict of parts": lambda network, x: sum(part(x) for part in network.named.values()),
    "items of a dict of parts": lambda network, x: sum(part(x) for _, part in network.named.items()),
    "parameters": lambda network, x: sum(parameter.sum() for parameter in network.parameters()) + 0 * x,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_of_a_masked_network_is_masked(part, x):
    model = Holder()
    assert float(part(model, x).detach().abs().sum()) > 0
    assert float(part(masked(model, Mask.empty(layout(model))), x).detach().abs().sum()) == 0


def test_a_masked_container_has_a_length_and_is_true():
    model = Holder()
    network = masked(model, Mask.empty(layout(model)))
    assert len(network.layers) == 2
    assert network
    assert network.layers


def test_threads_with_masks_of_one_network_wait_for_each_other(x):
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(10)))
    own, over, wrong = list(model.parameters()), layout(model), []
    expected = {mask: bake(model, mask)(x) for mask in (Mask.empty(over), Mask.full(over))}

    def work(mask):
        network = masked(model, mask)
        for _ in range(60):
            wrong.extend([] if torch.equal(network(x), expected[mask]) else [mask])

    threads = [threading.Thread(target=work, args=(mask,)) for mask in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(a is b for a, b in zip(model.parameters(), own, strict=True))


@pytest.mark.parametrize("method", ["_replace", "_restore"])
def test_an_interrupt_while_weights_are_exchanged_leaves_the_network_whole(method, monkeypatch):
    """Each assignment in turn is the last one that is made."""
    model = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8))
    own, flat = list(model.parameters()), model[1]._flat_weights
    whole = getattr(Swap, method)
    for after in range(4):
        once = [True]

        def interrupted(swap, after=after, once=once):
            if once.pop() if once else False:
                for home, name, tensor, parameter in swap._sites[:after]:
                    home[name] = tensor if method == "_replace" else parameter
                raise KeyboardInterrupt
            whole(swap)

        monkeypatch.setattr(Swap, method, interrupted)
        with (
            pytest.raises(KeyboardInterrupt),
            Swap(model, {name: p.detach() * 0 for name, p in model.named_parameters()}),
        ):
            pass
        assert all(a is b for a, b in zip(model.parameters(), own, strict=True))
        assert all(a is b for a, b in zip(model[1]._flat_weights, flat, strict=True))


def test_a_forward_of_its_own_is_put_back():
    layer = nn.Linear(2, 2)
    patched = partial(nn.Linear.forward, layer)
    layer.forward = patched
    with Swap(layer, {}, {layer: lambda x: x}):
        assert layer.forward is not patched
    assert layer.forward is patched


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
    ],
)
@pytest.mark.parametrize("products", [False, True])
def test_weights_that_are_computed_from_others_are_learned_over_and_left_as_they_were(change, products, x, monkeypatch):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    change(model[0])
    model(x)
    before, outputs = model[0].weight.detach().clone(), model(x)
    if products:
        with_products(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn_mask(model, [x], square, layout=layout(model), schedule=ONE, kernel="eager")
    masked(model, Mask.empty(layout(model, ["1.weight", model_weight(model)])))(x)
    assert torch.equal(model[0].weight.detach(), before)
    assert torch.equal(model(x), outputs)


def model_weight(model):
    return next(name for name, _ in model[0].named_parameters(prefix="0") if "bias" not in name)


def test_weights_without_values_to_compute_with_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    over = layout(model)
    with torch.no_grad():
        model[0].weight[0, 0] = -torch.inf
    for use in (masked, bake):
        with pytest.raises(ValueError, match=r"'0\.weight' holds 1 NaN or infinite values of 16.*'!0\.weight'"):
            use(model, Mask.empty(over))
    with pytest.raises(ValueError, match=r"'0\.weight' holds 1"), applied(model, Mask.empty(over)):
        pass
    others = layout(model, ["!0.weight"])
    assert (
        learn_mask(
            model,
            [torch.ones(6, 4)],
            lambda network, batch: network[1](batch).mean(),
            layout=others,
            schedule=ONE,
        ).mask.layout
        == others
    )
    meta = nn.Linear(2, 2, device="meta")
    assert masked(meta, Mask.empty(layout(meta)))(torch.ones(1, 2, device="meta")).shape == (1, 2)
    with pytest.raises(ValueError, match=r"'weight' is on the meta device"):
        learn_mask(meta, [torch.ones(3, 2)], square, schedule=ONE)


def test_learning_in_inference_mode_says_what_to_do(x):
    model = nn.Linear(8, 3)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside torch\.inference_mode"):
        learn_mask(model, [x], square, schedule=ONE, kernel="eager")


def test_a_parameter_is_found_by_its_name_whatever_characters_it_has():
    model = nn.Module()
    model.odd = nn.ParameterDict({"x[0]": torch.randn(2, 2), "*": torch.randn(2, 2)})
    mask = Mask.full(layout(model))
    assert mask.parameter("odd.x[0]").shape == (2, 2)
    assert mask.layout.matching(["odd.*"]) == ("odd.*",)
    assert mask.layout.matching(["odd.x*"]) == ("odd.x[0]",)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own nested tensors
def test_inputs_of_every_kind_reach_linear_layers(x, monkeypatch):
    """Sparse, nested, under transforms: what a plain layer takes."""
    inner = nn.Linear(8, 8)

    class Inner(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.inner, self.how = inner, how

        def forward(self, x):
            return self.how(self.inner, x)

    kinds = {
        "sparse": lambda layer, x: layer(x.relu().to_sparse()),
        "jagged": lambda layer, x: layer(torch.nested.nested_tensor([x[:1], x[1:]], layout=torch.jagged)).values(),
        "jacobian": lambda layer, x: vmap(jacrev(layer))(x),
        "forward": lambda layer, x: torch.func.jvp(layer, (x,), (x,))[1],
    }
    for kind, how in kinds.items():
        model = Inner(how)
        _, expected = gradients(model, x)
        with monkeypatch.context() as patched:
            with_products(patched)
            _, found = gradients(model, x)
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-3, atol=1e-7, msg=lambda text, kind=kind: f"{kind}: {text}"
            )
