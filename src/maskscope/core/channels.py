"""Channels of convolutions with the normalisation behind them, which would otherwise go on adding what it learned for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from maskscope.core.granularity import PerOutput
from maskscope.core.groups import Group
from maskscope.core.select import is_normalisation, sites

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class PerChannel:
    """One unit per channel of a convolution: its filter and bias, and its scale and shift in the normalisation behind it.

    Without its filter alone (``PerOutput``) a channel is not silent: a batch norm turns 0 into its shift less what it takes for the
    mean. Without its scale and shift as well it is 0.

    A normalisation belongs to the convolution that is registered before it in the same module, as in ``Sequential(conv, bn)``; or to the
    one of its number (``conv1, conv2, bn1, bn2``). It must have as many channels. Convolutions without one are masked by themselves. Look
    at ``print(layout(model, granularity=PerChannel()).table())``; other networks are named by hand with ``Tied``.

    Raises (when laid out):
        ValueError: The network has no convolutions.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> over = layout(model, granularity=PerChannel())
        >>> over.units, over.names
        (8, ('0.weight', '0.bias', '1.weight', '1.bias'))
    """

    kind: Literal["channel"] = "channel"

    def groups(self, model: nn.Module) -> Sequence[Group]:
        """One for each convolution."""
        known = {name: site for site in sites(model) for name in site.names}
        grain, taken, groups = PerOutput(), set[str](), list[Group]()
        for modules in _together(model):
            parts = [
                known[name] for module in modules for name in (f"{module}.weight", f"{module}.bias") if name in known
            ]
            new = {site.name: grain.view(site) for site in parts if site.name not in taken}
            if new:
                taken.update(new)
                groups.append(new)
        if not groups:
            raise ValueError(
                f"no convolutions are found in {type(model).__name__}; name its channels with ms.Tied, or choose another granularity"
            )
        return groups


def _together(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """The names of each convolution and of the normalisation behind it, if there is one."""
    for prefix, parent in model.named_modules():
        children = list(parent.named_children())
        free = {name for name, child in children if is_normalisation(child)}
        for place, (name, child) in enumerate(children):
            if isinstance(child, _CONVOLUTIONS):
                behind = [(n, c) for n, c in children[place + 1 :] if n in free or isinstance(c, _CONVOLUTIONS)]
                found = next((n for n, c in _likely(name, behind) if _channels(c) == child.out_channels), None)
                free.discard(found or "")
                yield tuple(f"{prefix}.{n}" if prefix else n for n in (name, found) if n)


def _likely(name: str, behind: Sequence[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    """What comes next, if it normalises; then what has the same number."""
    if behind and is_normalisation(behind[0][1]):
        yield behind[0]
    numbers = re.findall(r"\d+", name)
    yield from (
        item for item in behind if is_normalisation(item[1]) and numbers and re.findall(r"\d+", item[0]) == numbers
    )


def _channels(norm: nn.Module) -> int | None:
    """How many channels a normalisation scales, if it scales them one by one."""
    weight = getattr(norm, "weight", None)
    return len(weight) if isinstance(weight, nn.Parameter) and weight.ndim == 1 else None
