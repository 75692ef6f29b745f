"""A network under a mask: as another callable, for a while in place, or as a pruned copy."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskscope.core.device import device_of
from maskscope.core.layout import gated
from maskscope.core.mask import Mask, expect_mask
from maskscope.core.replacement import Replacement, checked


class Masked:
    """A network under a mask, called like the network itself. Make it with ``masked``."""

    def __init__(self, model: nn.Module, mask: Mask, replacement: Mapping[str, Tensor]) -> None:
        """Keep them; the weights are not copied."""
        self.model = model
        self.mask = mask
        self.replacement = replacement
        self._gates = mask.gates.to(device_of(model))  # unpacked and brought there once, not at every call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward pass with ``weight * gate`` in place of each masked weight."""
        parameters = dict(self.model.named_parameters())
        weights = gated(self._gates, self.mask.layout, parameters, self.replacement)
        return call_with(self.model, weights, *args, **kwargs)

    def complement(self, *args: Any, **kwargs: Any) -> Any:
        """The same with the weights that the mask removes, as objectives with a term about it call it."""
        return Masked(self.model, ~self.mask, self.replacement)(*args, **kwargs)


def masked(model: nn.Module, mask: Mask, replacement: Replacement | None = None) -> Masked:
    """The network under a mask: a callable with the network's own signature.

    The network is not wrapped or changed, and later changes of its weights are seen. Gradients reach the kept weights
    (nothing is detached), so it can be trained under the mask; but not with gradient checkpointing, which runs the
    network again in backward, when its own weights are back (``learn_mask`` takes care of that, ``bake`` avoids it).

    Args:
        model: The network the mask was made for.
        mask: What to keep.
        replacement: What removed weights become, by parameter (``maskscope.core.replacement``). Default: zero.

    Raises:
        KeyError, ValueError: The mask is for another network (names and shapes are compared here, values by
            ``Mask.load`` and ``Mask.check``).

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3, bias=False)
        >>> masked(model, Mask.empty(layout(model)))(torch.ones(1, 2)).tolist()
        [[0.0, 0.0, 0.0]]
    """
    return Masked(model, mask, _checked(model, mask, replacement))


@contextmanager
def applied(model: nn.Module, mask: Mask, replacement: Replacement | None = None) -> Generator[nn.Module]:
    """The network itself under a mask, for ``generate`` and other methods that are not its forward pass.

    The Parameter objects stay; their data is swapped for the gated copy and put back at the end, also after an error.
    Not for training: steps taken inside are lost with the copy.

    Args:
        model: The network the mask was made for.
        mask: What to keep.
        replacement: What removed weights become, by parameter (``maskscope.core.replacement``). Default: zero.

    Raises:
        KeyError, ValueError: The mask is for another network.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3, bias=False)
        >>> with applied(model, Mask.empty(layout(model))) as silent:
        ...     int(silent.weight.count_nonzero())
        0
    """
    becomes = _checked(model, mask, replacement)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        replaced = gated(mask.gates, mask.layout, parameters, becomes)
    kept = {name: parameters[name].data for name in replaced}
    try:
        for name, tensor in replaced.items():
            parameters[name].data = tensor
        yield model
    finally:
        for name, tensor in kept.items():
            parameters[name].data = tensor


def bake(model: nn.Module, mask: Mask, replacement: Replacement | None = None) -> nn.Module:
    """A copy of the network with the removed weights set to zero, or replaced: a plain model for other tools.

    Args:
        model: The network the mask was made for.
        mask: What to keep.
        replacement: What removed weights become, by parameter (``maskscope.core.replacement``). Default: zero.

    Raises:
        KeyError, ValueError: The mask is for another network.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3)
        >>> int(bake(model, Mask.empty(layout(model))).weight.count_nonzero())
        0
    """
    becomes = _checked(model, mask, replacement)
    pruned = copy.deepcopy(model)
    parameters = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, tensor in gated(mask.gates, mask.layout, parameters, becomes).items():
            parameters[name].copy_(tensor)
    return pruned


class Swap:
    """Other tensors in place of some of a network's parameters, for the length of a ``with`` block; may nest.

    Parameters that the network holds under several names are replaced under all of them, and every module gets its own
    Parameter objects back.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> with Swap(model, {"weight": torch.ones(1, 2)}):
        ...     model(torch.ones(1, 2)).item()
        2.0
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        forwards: Mapping[nn.Module, Callable[..., Any]] | None = None,
    ) -> None:
        """Look up where the parameters live; nothing is replaced yet.

        Args:
            model: The network.
            tensors: What stands in for its parameters, by their names.
            forwards: What stands in for the forward methods of some of its modules.
        """
        by_identity = {id(p): tensors[name] for name, p in model.named_parameters() if name in tensors}
        modules = list(model.modules())
        self._sites = [
            (home, name, by_identity[id(parameter)], parameter)
            for home in map(_home, modules)
            for name, parameter in home.items()
            if parameter is not None and id(parameter) in by_identity
        ]
        self._recurrent = [(module, *_flat(module)) for module in modules if isinstance(module, nn.RNNBase)]
        self._forwards = dict(forwards or {})
        self._depth = 0

    def __enter__(self) -> None:
        """Replace them."""
        self._depth += 1
        if self._depth == 1:
            for home, name, tensor, _parameter in self._sites:
                home[name] = cast("nn.Parameter", tensor)
            for module, forward in self._forwards.items():
                vars(module)["forward"] = forward
            for module, _weights, _references in self._recurrent:
                _set_flat(module, *_flat(module))

    def __exit__(self, *error: object) -> None:
        """Put the network's own back."""
        self._depth -= 1
        if self._depth == 0:
            for home, name, _tensor, parameter in self._sites:
                home[name] = parameter
            for module in self._forwards:
                del vars(module)["forward"]
            for module, weights, references in self._recurrent:
                _set_flat(module, weights, references)


def call_with(model: nn.Module, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call a network with other tensors in place of some parameters, and leave nothing behind in it."""
    with Swap(model, weights):
        return model(*args, **kwargs)


def _home(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Where a module keeps its parameters: a tensor that is no Parameter can only be put in here."""
    return module._parameters  # pyright: ignore[reportPrivateUsage]


# torch's recurrent layers keep a list of their weights beside the parameters, with weak references by which they notice
# that parameters were replaced. Left alone it would outlive the swap: the layer would go on with the tensors that stood
# in, or miss that they are back.


def _flat(module: nn.RNNBase) -> tuple[list[Tensor], list[Any]]:
    weights = [getattr(module, name) for name in module._flat_weights_names]  # pyright: ignore[reportPrivateUsage]
    return weights, [weakref.ref(weight) for weight in weights]


def _set_flat(module: nn.RNNBase, weights: list[Tensor], references: list[Any]) -> None:
    module._flat_weights = weights  # pyright: ignore[reportPrivateUsage]
    module._flat_weight_refs = references  # pyright: ignore[reportPrivateUsage]


def _checked(model: nn.Module, made: object, replacement: Replacement | None) -> dict[str, Tensor]:
    """The replacement, after a look at whether mask and replacement fit the network."""
    parameters, mask = dict(model.named_parameters()), expect_mask(made)
    layout = mask.layout
    layout.check({name: parameter.shape for name, parameter in parameters.items()})
    if replacement is None and mask.origin.replaced:
        warnings.warn(
            "while this mask was learned, what it removes became other values, here it becomes zero; pass the same replacement= (or {}, "
            "if zero is meant)",
            stacklevel=3,
        )
    return checked(replacement, layout, parameters)
