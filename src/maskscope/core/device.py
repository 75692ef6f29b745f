"""Where a network is, and batches brought there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskscope.core.batches import Batch, rebuilt

CPU = torch.device("cpu")


def device_of(model: nn.Module) -> torch.device | None:
    """The one device that all parameters of a network are on; None if there are none, or they are on several.

    Examples:
        >>> device_of(nn.Linear(2, 2)), device_of(nn.ReLU())
        (device(type='cpu'), None)
    """
    found = {parameter.device for parameter in model.parameters()}
    return found.pop() if len(found) == 1 else None


def onto(batch: Batch, device: torch.device | None) -> Batch:
    """A batch with its tensors on a network's device, if they came on the CPU; whoever put them elsewhere knows why.

    Args:
        batch: Tensors, or tuples, lists, mappings and dataclasses of them.
        device: The network's; None: as they are.

    Examples:
        >>> moved = onto({"x": torch.ones(2), "texts": ["a", "b"]}, torch.device("meta"))
        >>> moved["x"].device, moved["texts"]
        (device(type='meta'), ['a', 'b'])
    """
    if device is None or device.type == "cpu":
        return batch

    def moved(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) and leaf.device.type == "cpu" else leaf

    return rebuilt(batch, moved)
