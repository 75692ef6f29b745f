"""Methods and parts of a network under a mask are under the mask, for objectives, metrics and by hand."""

import copy

import pytest
import torch
from torch import nn

import maskscope as ms
from maskscope.core.seeded import seeded


class Twin(nn.Module):
    """Two encoders that are compared, as in CLIP: what is learned is not the forward pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.heads = nn.Linear(3, 4), nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 2)])
        self.drop = nn.Dropout(0.5)

    def encode(self, x):
        return self.drop(self.a(x))

    def forward(self, x):
        return self.heads[0](self.encode(x) + self.b(x))


@pytest.fixture
def twin():
    with seeded(0):
        return Twin()


X = torch.linspace(-1, 1, 24).view(8, 3)


def test_methods_and_parts_are_under_the_mask(twin):
    nothing = ms.masked(twin.eval(), ms.Mask.empty(ms.layout(twin)))
    bias = twin.a.bias.expand(8, 4)
    for said in (nothing.encode(X), nothing.a(X), nothing.drop(nothing.a(X))):
        assert torch.equal(said, bias)
    assert torch.equal(nothing.heads[0](torch.ones(1, 4)), twin.heads[0].bias[None])
    assert torch.equal(nothing.a.weight, torch.zeros(4, 3))
    assert nothing.drop.p == 0.5
    assert torch.equal(nothing.get_submodule("a")(X), bias)
    assert twin.a.weight.all()


def test_a_part_called_model_is_the_part():
    """As of Hugging Face's causal language models; not the network that is masked."""
    outer = nn.Module()
    outer.model = nn.Linear(3, 4)
    assert torch.equal(ms.masked(outer, ms.Mask.empty(ms.layout(outer))).model(X), outer.model.bias.expand(8, 4))


def test_objectives_call_methods_of_the_sampled_network(twin):
    """The gradient is that of the same computation as a forward pass."""

    class Renamed(Twin):
        def __init__(self, other):
            super().__init__()
            self.load_state_dict(other.state_dict())

        def forward(self, x):
            return self.encode(x) * self.heads[0](self.b(x)).sum(1, keepdim=True)

    schedule = ms.Schedule(steps=1, samples=2, clip=1e9)

    def gradient(model, objective):
        (state,) = ms.learning(model, [X], objective, layout=ms.layout(model), schedule=schedule)
        return state.logits.state()["adam_mean"]

    def by_parts(network, x):
        return (network.encode(x) * network.heads[0](network.b(x)).sum(1, keepdim=True)).mean()

    found = gradient(twin, by_parts)
    assert found.all()
    assert torch.equal(found, gradient(Renamed(twin), lambda network, x: network(x).mean()))


def test_metrics_call_methods_in_evaluation_mode(twin):
    under = ms.masked(twin.train(), ms.Mask.full(ms.layout(twin)))
    found = ms.evaluate(under, [X], lambda network, x: network.encode(x).sum(1))
    torch.testing.assert_close(found.value, float(twin.a(X).sum(1).mean().detach()))
    assert twin.drop.training


def test_what_is_not_there_is_no_attribute(twin):
    under = ms.masked(twin, ms.Mask.full(ms.layout(twin)))
    with pytest.raises(AttributeError, match="encoder"):
        under.encoder(X)
    assert not hasattr(under, "_parameters")
    assert torch.equal(copy.copy(under).a(X), twin.a(X))
