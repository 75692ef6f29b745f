"""A network under a mask: as another callable, for a while in place, or as a pruned copy."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, ItemsView, Iterable, Mapping, ValuesView
from contextlib import contextmanager
from functools import partial
from types import FunctionType, GeneratorType, MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from maskscope.core.device import device_of
from maskscope.core.layout import gated
from maskscope.core.mask import Mask, expect_mask
from maskscope.core.replacement import Replacement, checked
from maskscope.core.select import expect_network
from maskscope.core.swap import Swap, lock_of


class Within:
    """Something that belongs to a network, called and looked at while other weights stand in for its own.

    A method, a function or a part of the network is again something within it, also in lists, dicts and what is iterated over; any
    other attribute is what it is then.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> ones = Within(model, lambda: Swap(model, {"0.weight": torch.ones(1, 2)}))
        >>> ones(torch.ones(1, 2)).item(), ones.get_submodule("0")(torch.ones(1, 2)).item(), ones.training
        (2.0, 2.0, True)
    """

    def __init__(self, target: Callable[..., Any], inside: Callable[[], Swap]) -> None:
        """Keep them."""
        self._target, self._inside = target, inside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it with the other weights; a part of the network that it returns is seen with them too."""
        with self._inside():
            return self._seen(self._target(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        """Its attribute, with the other weights."""
        if name.startswith("_"):
            raise AttributeError(f"a network under a mask has no {name!r}")
        with self._inside():
            return self._seen(getattr(self._target, name))

    def __getitem__(self, index: Any) -> Any:
        """A part of a container of parts."""
        with self._inside():
            return self._seen(cast("Any", self._target)[index])

    def __len__(self) -> int:
        """How many parts a container has."""
        return len(cast("Any", self._target))

    def __bool__(self) -> bool:
        """A network is one, however many parts it has."""
        return True

    @property
    def _itself(self) -> nn.Module | None:
        """The module that is called, if it is one."""
        return self._target if isinstance(self._target, nn.Module) else None

    def _seen(self, found: Any) -> Any:
        if isinstance(found, _CALLED):
            return Within(found, self._inside)
        if isinstance(found, GeneratorType):
            return self._within(found)
        if isinstance(found, ValuesView | ItemsView):
            found = list(cast("Iterable[Any]", found))
        if type(found) in (list, tuple) and _has_parts(found):
            return type(found)(map(self._seen, found))
        if type(found) is dict and any(isinstance(item, _CALLED) for item in found.values()):
            return {key: self._seen(item) for key, item in found.items()}
        return found

    def _within(self, found: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """One after another, each computed with the other weights."""
        go_on: Callable[[], Any] = partial(next, found)
        while True:
            try:
                with self._inside():
                    item = go_on()
            except StopIteration as end:
                return self._seen(end.value)
            try:
                sent = yield self._seen(item)
                go_on = partial(found.send, sent)
            except GeneratorExit:
                found.close()
                raise
            except BaseException as error:
                go_on = partial(found.throw, error)


_CALLED = (nn.Module, MethodType, FunctionType, partial)
"""What is called with a network's weights in it."""


def _has_parts(found: Iterable[Any]) -> bool:
    """Whether there are any among some things, alone or with their names; what holds none is not copied."""
    return any(
        isinstance(item, _CALLED) or (type(item) is tuple and any(isinstance(one, _CALLED) for one in item))
        for item in found
    )


class Masked(Within):
    """A network under a mask, called like the network itself. Make it with ``masked``."""

    def __init__(self, model: nn.Module, mask: Mask, replacement: Mapping[str, Tensor]) -> None:
        """Keep them; the weights are not copied."""
        self._model, self._mask, self._replacement = model, mask, replacement
        self._gates = mask.gates.to(device_of(model))  # unpacked and brought there once, not at every call
        super().__init__(model, self._swap)

    def _swap(self) -> Swap:
        """``weight * gate`` in place of each masked weight."""
        with lock_of(self._model):  # or another thread's would be taken for the network's own
            parameters = dict(self._model.named_parameters())
            return Swap(self._model, gated(self._gates, self._mask.layout, parameters, self._replacement))

    def complement(self, *args: Any, **kwargs: Any) -> Any:
        """The same with the weights that the mask removes, as objectives with a term about it call it."""
        return Masked(self._model, ~self._mask, self._replacement)(*args, **kwargs)


def masked(model: nn.Module, mask: Mask, replacement: Replacement | None = None) -> Masked:
    """The network under a mask: a callable with the network's own signature.

    Its methods and parts may be called as well (``masked(model, mask).encode(text)``), and are under the mask then.

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


def module_of(network: Callable[..., Any]) -> nn.Module | None:
    """The module behind a network, whether masked or not; None for any other function.

    Examples:
        >>> model = nn.Linear(2, 1)
        >>> module_of(model) is module_of(with_weights(model, {})) is model, module_of(len)
        (True, None)
    """
    if isinstance(network, Within):
        return network._itself  # pyright: ignore[reportPrivateUsage]
    return network if isinstance(network, nn.Module) else None


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Within:
    """A network with other tensors in place of some of its parameters; calls leave nothing behind in it."""
    return Within(model, lambda: Swap(model, weights))


def _checked(model: object, made: object, replacement: Replacement | None) -> dict[str, Tensor]:
    """The replacement, after a look at whether mask and replacement fit the network."""
    parameters, mask = dict(expect_network(model).named_parameters()), expect_mask(made)
    layout = mask.layout
    layout.check({name: parameter.shape for name, parameter in parameters.items()})
    layout.check_values(parameters)
    if replacement is None and mask.origin.replaced and not mask.is_full:
        warnings.warn(
            "while this mask was learned, what it removes became other values, here it becomes zero; pass the same replacement= (or {}, "
            "if zero is meant)",
            stacklevel=3,
        )
    return checked(replacement, layout, parameters)
