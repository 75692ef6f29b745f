"""A network under a mask: as another callable, for a while in place, or as a pruned copy."""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from maskscope.core.layout import gated
from maskscope.core.mask import Mask, expect_mask


class Masked:
    """A network under a mask, called like the network itself. Make it with ``masked``."""

    def __init__(self, model: nn.Module, mask: Mask) -> None:
        """Keep both; the weights are not copied."""
        self.model = model
        self.mask = mask
        self._gates = mask.gates  # unpacked once, not at every call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward pass with ``weight * gate`` in place of each masked weight."""
        parameters = dict(self.model.named_parameters())
        weights = gated(self._gates, self.mask.layout, parameters)
        return call_with(self.model, weights, *args, **kwargs)


def masked(model: nn.Module, mask: Mask) -> Masked:
    """The network under a mask: a callable with the network's own signature.

    The network is not wrapped or changed, and later changes of its weights are seen. Gradients reach the kept weights
    (nothing is detached), so it can be trained under the mask; but not with gradient checkpointing, which runs the
    network again in backward, when its own weights are back (``learn_mask`` takes care of that, ``bake`` avoids it).

    Args:
        model: The network the mask was made for.
        mask: What to keep.

    Raises:
        KeyError, ValueError: The mask is for another network (names and shapes are compared here, values by
            ``Mask.load`` and ``Mask.check``).

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3, bias=False)
        >>> masked(model, Mask.empty(layout(model)))(torch.ones(1, 2)).tolist()
        [[0.0, 0.0, 0.0]]
    """
    _check(model, mask)
    return Masked(model, mask)


@contextmanager
def applied(model: nn.Module, mask: Mask) -> Generator[nn.Module]:
    """The network itself under a mask, for ``generate`` and other methods that are not its forward pass.

    The Parameter objects stay; their data is swapped for the gated copy and put back at the end, also after an error.
    Not for training: steps taken inside are lost with the copy.

    Args:
        model: The network the mask was made for.
        mask: What to keep.

    Raises:
        KeyError, ValueError: The mask is for another network.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3, bias=False)
        >>> with applied(model, Mask.empty(layout(model))) as silent:
        ...     int(silent.weight.count_nonzero())
        0
    """
    _check(model, mask)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        replaced = gated(mask.gates, mask.layout, parameters)
    kept = {name: parameters[name].data for name in replaced}
    try:
        for name, tensor in replaced.items():
            parameters[name].data = tensor
        yield model
    finally:
        for name, tensor in kept.items():
            parameters[name].data = tensor


def bake(model: nn.Module, mask: Mask) -> nn.Module:
    """A copy of the network with the removed weights set to zero: a plain model for other tools.

    Args:
        model: The network the mask was made for.
        mask: What to keep.

    Raises:
        KeyError, ValueError: The mask is for another network.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3)
        >>> int(bake(model, Mask.empty(layout(model))).weight.count_nonzero())
        0
    """
    _check(model, mask)
    pruned = copy.deepcopy(model)
    parameters = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, tensor in gated(mask.gates, mask.layout, parameters).items():
            parameters[name].copy_(tensor)
    return pruned


def call_with(model: nn.Module, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call a network with other tensors in place of some parameters, and leave nothing behind in it."""
    try:
        return functional_call(model, dict(weights), args, kwargs)
    finally:
        forget_replaced(model)


def forget_replaced(model: nn.Module) -> None:
    """Make recurrent layers let go of tensors that stood in for their parameters.

    torch's RNNs keep a list of their weights beside the parameters and refresh it only at the next call; until then
    it would hold the gated tensors (memory, and deepcopy or pickle of the network fail). Assigning a parameter to its
    own name refreshes the list.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                setattr(module, name, parameter)


def _check(model: nn.Module, mask: object) -> None:
    expect_mask(mask).layout.check({name: parameter.shape for name, parameter in model.named_parameters()})
