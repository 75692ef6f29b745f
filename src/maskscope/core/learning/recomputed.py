"""Layers of Hugging Face models that keep no activations for backward, where the user has asked for that.

They do so in training mode only, in which they would also drop out; a step of learning runs in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

_CACHES = ("past_key_values", "past_key_value", "layer_past")
"""What layers call the keys and values of earlier positions, which a second run would add to a second time."""


def forwards(model: nn.Module) -> dict[nn.Module, Callable[..., Any]]:
    """What stands in for the forward methods of layers that ``gradient_checkpointing_enable()`` was called for.

    Examples:
        >>> forwards(nn.Linear(2, 2))
        {}
    """
    return {
        module: partial(_recomputed, module.forward)
        for module in model.modules()
        if _is_layer(module)
        and any(getattr(module, f"{what}_checkpointing", False) for what in ("gradient", "activation"))
    }


def _is_layer(module: nn.Module) -> bool:
    return any(kind.__name__.endswith("CheckpointingLayer") for kind in type(module).__mro__)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer's outputs, of which backward keeps the inputs only."""
    kwargs |= {name: None for name in _CACHES if name in kwargs}
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False)
