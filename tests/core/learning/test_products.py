"""Linear layers with collected gradients compute what torch's do."""

import copy

import pytest
import torch
from torch import nn

from maskscope.core.learning.gated import WrittenWeight
from maskscope.core.learning.products import Collecting, forwards
from maskscope.core.swap import Swap


def weights_of(leaves):
    return {name: WrittenWeight(name, leaf) for name, leaf in leaves.items()}


def leaves_of(model):
    found = {}
    for name, parameter in model.named_parameters():
        leaf = parameter.detach().clone().requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
        found[name] = leaf
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 7), (300, 7), (7,)], ids=str)
def test_values_and_gradients_are_those_of_torch(shape, bias):
    torch_layer = nn.Sequential(nn.Linear(7, 4, bias=bias), nn.Tanh(), nn.Linear(4, 6, bias=bias))
    model, x = copy.deepcopy(torch_layer), torch.randn(shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    leaves, collecting = leaves_of(model), Collecting()
    with Swap(model, leaves, forwards(model, weights_of(leaves), collecting)):
        for _ in range(2):  # gradients add up
            collecting.on = True
            found = model(ours)
            found.square().sum().backward()
            collecting.on = False
    for _ in range(2):
        expected = torch_layer(theirs)
        expected.square().sum().backward()
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    for name, parameter in torch_layer.named_parameters():
        torch.testing.assert_close(leaves[name].grad, parameter.grad)
    assert collecting.reached == {"0.weight", "2.weight"}
    assert "forward" not in vars(model[0])
    assert model[0].weight.grad is None


def test_a_gradient_asked_for_outside_the_steps_backward_is_returned_and_not_collected():
    model = nn.Linear(3, 2)
    leaves, collecting = leaves_of(model), Collecting()
    with Swap(model, leaves, forwards(model, weights_of(leaves), collecting)):
        loss = model(torch.ones(4, 3)).sum()
        (gradient,) = torch.autograd.grad(loss, leaves["weight"])
    assert torch.equal(gradient, torch.full((2, 3), 4.0))
    assert not leaves["weight"].grad.any()


def test_functorch_transforms_still_work():
    model = nn.Linear(3, 2)
    leaves = leaves_of(model)
    with Swap(model, leaves, forwards(model, weights_of(leaves), Collecting())):
        found = torch.func.vmap(model)(torch.ones(5, 3))
    torch.testing.assert_close(found, model(torch.ones(5, 3)))


def test_recurrent_layers_see_what_stands_in_again_and_again():
    """They remember their weights beside the parameters."""
    model, x = nn.LSTM(3, 4), torch.randn(2, 1, 3)
    before = model(x)[0]
    zeros = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    swap = Swap(model, zeros)
    for _ in range(2):
        with swap:
            assert not model(x)[0].any()
        assert torch.equal(model(x)[0], before)
    with swap, swap:  # nested: only the outermost exit puts back
        pass
    assert torch.equal(model(x)[0], before)
    copy.deepcopy(model)
