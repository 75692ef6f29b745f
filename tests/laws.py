"""What contract tests share: a mask to try, and everything in a network that must be as it was before."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskscope.core.layout import Layout
from maskscope.core.mask import Mask


class Checkpointed(nn.Module):
    """A network that runs again in backward."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def some(over: Layout, seed: int = 0) -> Mask:
    """A mask of about half of the units."""
    generator = torch.Generator().manual_seed(seed)
    return Mask.of(over, torch.rand(over.units, generator=generator) < 0.5)


def traces(model: nn.Module) -> dict:
    """Everything that must be as before."""
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    return {
        "parameters": [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()],
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": [p.grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "dropout": [module.dropout for module in recurrent],
        "flat": [[id(weight) for weight in module._flat_weights] for module in recurrent],
        "buffers": [(name, id(b)) for name, b in model.named_buffers()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


def assert_untouched(model: nn.Module, before: dict) -> None:
    """The network is as it was when its traces were taken."""
    after, before = traces(model), dict(before)
    values, values_before = after.pop("values"), before.pop("values")
    assert after == before
    assert values.keys() == values_before.keys()
    assert all(torch.equal(values[name], value) for name, value in values_before.items())
