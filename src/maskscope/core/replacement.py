"""What removed weights become, where that is not zero: a mean, another network's weights, fresh ones."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskscope.core.fingerprint import take_in
from maskscope.core.layout import Layout
from maskscope.core.seeded import seeded
from maskscope.core.select import nearest

Replacement = Mapping[str, Tensor]
"""By parameter name: a tensor of its shape, or one that broadcasts to it. Parameters that are not named are removed to zero."""


def means(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """The mean of each masked parameter: removal leaves it its average.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 3.0]]))
        >>> means(model, layout(model))
        {'weight': tensor(2.)}
    """
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().mean() for name in layout.names}


def values_of(other: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Another network's weights: before training or fine-tuning, a donor's. Removal grafts them in.

    Args:
        other: A network with the same parameters.
        layout: What is masked.

    Raises:
        KeyError, ValueError: It lacks parameters, or has them in other shapes.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model, pretrained = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> bool((values_of(pretrained, layout(model))["weight"] == pretrained.weight).all())
        True
    """
    layout.check({name: parameter.shape for name, parameter in other.named_parameters()})
    parameters = dict(other.named_parameters())
    return {name: parameters[name].detach().clone() for name in layout.names}


def reinitialised(model: nn.Module, layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """Fresh weights, as the network draws them itself: removal leaves it untrained.

    That is ``reset_parameters`` of each layer, or for Hugging Face models their own initialisation. What a network's constructor does
    besides is not repeated: build it anew for that, and pass ``values_of`` it.

    Args:
        model: The network; it is not changed.
        layout: What is masked.
        seed: Of the draw.

    Raises:
        ValueError: A masked parameter's layer cannot draw its weights; ``values_of`` a network that was just built will do.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 1)
        >>> fresh = reinitialised(model, layout(model), seed=1)
        >>> bool((fresh["weight"] != model.weight).all())
        True
    """
    fresh = copy.deepcopy(model)
    own = getattr(fresh, "_init_weights", None)  # how Hugging Face models draw theirs
    drawn: set[nn.Parameter] = set()

    def draw(module: nn.Module) -> None:
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if callable(own):
            for parameter in module.parameters():
                vars(parameter).pop("_is_hf_initialized", None)
            own(module)
        elif callable(reset):
            reset()
            drawn.update(module.parameters(recurse=False))

    with seeded(seed):
        fresh.apply(draw)  # parts first: some networks draw anew what their parts drew
    before, after = dict(model.named_parameters()), dict(fresh.named_parameters())
    same = [name for name in layout.names if after[name] not in drawn and torch.equal(before[name], after[name])]
    missing = [
        name for name in same if before[name].min() < before[name].max()
    ]  # ones and zeros are drawn as they were
    if missing:
        kind = type(fresh.get_submodule(missing[0].rpartition(".")[0])).__name__
        raise ValueError(
            f"{len(missing)} masked parameters cannot be drawn again, first {missing[0]!r}: {kind} has no reset_parameters() of its own; "
            "build the network anew and pass values_of(fresh_network, layout)"
        )
    return values_of(fresh, layout)


def digest_of(replacement: Replacement | None) -> str:
    """Sixteen hexadecimal digits over names and values; empty where nothing is replaced.

    Examples:
        >>> digest_of(None), len(digest_of({"weight": torch.zeros(1)}))
        ('', 16)
    """
    if not replacement:
        return ""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(replacement):
        found.update(f"{name} ".encode())
        take_in(replacement[name], found)
    return found.hexdigest()


def checked(replacement: Replacement | None, layout: Layout, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The replacement in the type and on the device of the weights.

    Raises:
        KeyError: It names a parameter that is not masked; the message has the nearest names.
        ValueError: A shape that does not fit, or values that are not finite.
    """
    found: dict[str, Tensor] = {}
    for name, value in (replacement or {}).items():
        segment = layout.by_name.get(name)
        if segment is None:
            raise KeyError(f"{name!r} is replaced but not masked; nearest: {nearest(name, layout.names)}")
        try:
            value.expand(segment.shape)
        except RuntimeError:
            raise ValueError(
                f"the replacement of {name!r} has shape {tuple(value.shape)}, expected {segment.shape} or one that broadcasts to it"
            ) from None
        if not bool(value.isfinite().all()):
            raise ValueError(f"the replacement of {name!r} holds NaN or infinite values")
        found[name] = value.detach().to(weights[name])
    return found
