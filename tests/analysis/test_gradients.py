"""Gradients under a mask against autograd by hand."""

import pytest
import torch
from torch import nn

from maskscope.analysis.gradients import EVERYWHERE, gradient_similarity
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import cross_entropy
from maskscope.core.seeded import seeded


@pytest.fixture
def network():
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in (5, 2)]


def by_hand(network, kept):
    """The gradient of the mean over all seven examples, with some weights set to zero."""
    weights = {name: (p.detach() * kept[name]).requires_grad_() for name, p in network.named_parameters()}
    inputs, labels = (torch.cat(columns) for columns in zip(*batches(), strict=True))
    loss = nn.functional.cross_entropy(torch.func.functional_call(network, weights, (inputs,)), labels)
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def test_similarities_are_those_of_gradients_by_hand(network):
    over = layout(network, ["*"])
    mask = Mask.of(over, torch.rand(over.units, generator=torch.Generator().manual_seed(2)) < 0.6)
    found = gradient_similarity(network, mask, batches(), cross_entropy, [["2.*"], ["0.*"]])
    kept = {name: mask.parameter(name) for name in over.names}
    ones = {name: torch.ones_like(value) for name, value in kept.items()}
    reference = by_hand(network, ones)
    for masked, names in ((0, ()), (1, ("2",)), (2, ("2", "0"))):
        ours = by_hand(network, {n: kept[n] if n.startswith(names) and names else ones[n] for n in kept})
        a, b = (torch.cat([g[n][kept[n]] for n in kept]) for g in (reference, ours))
        expected = nn.functional.cosine_similarity(a, b, dim=0)
        (item,) = (item for item in found if (item.masked, item.where) == (masked, EVERYWHERE))
        assert item.cosine == pytest.approx(float(expected), abs=1e-5)


def test_nothing_masked_is_the_same_direction(network):
    found = gradient_similarity(network, Mask.full(layout(network)), batches(), cross_entropy, [["0.*"]])
    assert all(item.cosine == pytest.approx(1.0) for item in found)


def test_the_network_is_left_as_it_was(network):
    network.train()
    gradient_similarity(network, Mask.full(layout(network)), batches(), cross_entropy, [["0.*"]])
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(KeyError):
        gradient_similarity(network, Mask.full(layout(network)), batches(), cross_entropy, [["5.*"]])
