"""Other tensors in place of a network's own parameters, and the network's own back, whatever interrupts it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn


class Swap:
    """Other tensors in place of some of a network's parameters, for the length of a ``with`` block; may nest.

    Parameters that the network holds under several names are replaced under all of them, and every module gets its own
    Parameter objects back, whatever interrupts it. Other threads wait that would put theirs into the same network, except
    while it is ``shared``: then they may enter this very swap.

    Examples:
        >>> import torch
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
        modules = list(model.modules())
        self._lock = lock_of(model)
        with self._lock:
            by_identity = {id(p): tensors[name] for name, p in model.named_parameters() if name in tensors}
            self._sites = [
                (home, name, by_identity[id(parameter)], parameter)
                for home in map(_home, modules)
                for name, parameter in home.items()
                if parameter is not None and id(parameter) in by_identity
            ]
            self._recurrent = [(module, *_flat(module)) for module in modules if isinstance(module, nn.RNNBase)]
        self._forwards = dict(forwards or {})
        self._before = {module: vars(module).get("forward") for module in self._forwards}
        self._hooked = [module for module in modules if module._forward_pre_hooks]  # pyright: ignore[reportPrivateUsage]
        self._derived: list[tuple[dict[str, Any], dict[str, Tensor]]] = []
        self._depth = 0
        self._owner = 0
        self._guests = threading.local()
        self.shared = False
        """Whether other threads work for the one that has entered, as those of backward do."""

    def __enter__(self) -> None:
        """Replace them."""
        if self.shared and self._owner != threading.get_ident():
            self._guests.depth = getattr(self._guests, "depth", 0) + 1
            return
        self._lock.acquire()
        try:
            if self._depth == 0:
                self._derived = [(vars(module), _tensors(module)) for module in self._hooked]
                self._replace()
            self._depth, self._owner = self._depth + 1, threading.get_ident()
        except BaseException:
            if self._depth == 0:
                self._restore()
            self._lock.release()
            raise

    def __exit__(self, *error: object) -> None:
        """Put the network's own back."""
        if getattr(self._guests, "depth", 0):
            self._guests.depth -= 1
            return
        try:
            self._depth -= 1
            if self._depth == 0:
                self._restore()
        except BaseException:
            self._restore()
            raise
        finally:
            self._lock.release()

    def _replace(self) -> None:
        for home, name, tensor, _parameter in self._sites:
            home[name] = cast("nn.Parameter", tensor)
        for module, forward in self._forwards.items():
            vars(module)["forward"] = forward
        for module, _weights, _references in self._recurrent:
            _set_flat(module, *_flat(module))

    def _restore(self) -> None:
        """As it was; may be done twice."""
        for home, name, _tensor, parameter in self._sites:
            home[name] = parameter
        for module, forward in self._before.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward
        for module, weights, references in self._recurrent:
            _set_flat(module, weights, references)
        for attributes, tensors in self._derived:
            attributes.update(tensors)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """What hooks before a call have computed from the weights: pruning and norms put ``weight`` beside ``weight_orig``, ``weight_g``."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and any(parameter.startswith(f"{name}_") for parameter in _home(module))
    }


_LOCKS: dict[int, tuple[weakref.ref[nn.Module], threading.RLock]] = {}
_LOOKING = threading.Lock()


def lock_of(model: nn.Module) -> threading.RLock:
    """One for each network, in none of its attributes: networks are copied and pickled."""
    with _LOOKING:
        known = _LOCKS.get(id(model))
        if known is None or known[0]() is not model:
            key = id(model)
            known = _LOCKS[key] = weakref.ref(model, lambda _: _LOCKS.pop(key, None)), threading.RLock()
        return known[1]


def _home(module: nn.Module) -> Any:
    """Where a module keeps its parameters: a tensor that is no Parameter can only be put in here. A scripted module's is no dict."""
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
