"""What a mask cannot be learned from is said before the first step: what was given, what was expected, what to do."""

from __future__ import annotations

from numbers import Integral, Real
from typing import get_args

import torch
from torch import Tensor, nn

from maskscope.core.gates import Gate
from maskscope.core.layout import Layout
from maskscope.core.learning.kernels import Mode
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.schedules import Schedule
from maskscope.core.select import expect_network


def check_settings(layout: object, schedule: object, gate: object, penalty: object, resume: object) -> None:
    """Objects of the right kind, and a penalty that is none below zero.

    Raises:
        TypeError: Something else than a layout, a schedule, a gate, a number or logits.
        ValueError: A negative penalty.
    """
    if not isinstance(layout, Layout):
        raise TypeError(f"layout takes what ms.layout(model) returns, got {type(layout).__name__}")
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule takes a Schedule, such as ms.Schedule(steps=500), got {schedule!r}")
    if isinstance(gate, type):
        raise TypeError(f"gate takes an object such as ms.HardConcrete(), got the class {gate.__name__}")
    if missing := [name for name in vars(Gate) if not name.startswith("_") and not hasattr(gate, name)]:
        raise TypeError(
            f"gate takes an object such as ms.HardConcrete(), got {gate!r}, which has no {', '.join(missing)}"
        )
    if not isinstance(penalty, Real):
        raise TypeError(f"penalty takes a number, got {penalty!r}")
    if not float(penalty) >= 0:
        raise ValueError(f"penalty must not be negative, got {penalty}")
    if not isinstance(resume, Logits | None):
        raise TypeError(f"resume takes the logits of a state (stop.state.logits), got {type(resume).__name__}")


def check_objective(objective: object, model: object) -> None:
    """A loss of outputs and labels is the commonest mistake, the network itself the next.

    Raises:
        TypeError: It is one of torch's losses, the network, or nothing that can be called.
    """
    if not callable(objective) or objective is model:
        got = "the network itself" if objective is model else repr(objective)
        raise TypeError(f"an objective is a function of (network, batch), such as ms.cross_entropy, got {got}")
    module = (
        objective.__class__.__module__ if isinstance(objective, nn.Module) else getattr(objective, "__module__", "")
    )
    if module in ("torch.nn.functional", "torch.nn.modules.loss"):
        raise TypeError(
            f"an objective is a function of (network, batch), got a loss of outputs and labels ({objective}); take ms.cross_entropy, "
            "or write: lambda network, batch: loss(network(batch[0]), batch[1])"
        )


def check_options(
    *, kernel: str, autocast: object, split: object, accumulate: object, alongside: object, cuda_graph: bool
) -> None:
    """How to compute: names and types that there are, pieces that can be counted, an optimiser that can step.

    Raises:
        TypeError: Not a function, a whole number or an optimiser.
        ValueError: An unknown kernel or type, no pieces, or a captured step with an optimiser in it.
    """
    if kernel not in get_args(Mode):
        raise ValueError(f"kernel is one of {', '.join(map(repr, get_args(Mode)))}, got {kernel!r}")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(
            f"autocast takes torch.bfloat16 (or float16), or None for the network's own type, got {autocast!r}"
        )
    if split is not None and not callable(split):
        raise TypeError(f"split takes a function of (batch, parts) that returns the parts, got {split!r}")
    if not isinstance(accumulate, Integral):
        raise TypeError(f"accumulate takes a whole number, got {accumulate!r}")
    if int(accumulate) < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")
    if not isinstance(alongside, torch.optim.Optimizer | None):
        raise TypeError(
            f"alongside takes an optimiser, such as torch.optim.Adam(probe.parameters()), got {type(alongside).__name__}"
        )
    if alongside is not None and cuda_graph:
        raise ValueError("a step with an optimiser alongside cannot be captured; learn without cuda_graph=True")


def check_resume(logits: Logits, layout: Layout, schedule: Schedule, settings: str) -> None:
    """Logits begun with the same settings over the same layout.

    Raises:
        ValueError: They were begun with others.
    """
    if logits.begun_with not in ("", settings):
        raise ValueError(
            f"the logits to resume from were begun with (seed, penalty, gate) = {logits.begun_with}, got {settings}"
        )
    if logits.layout != layout:
        raise ValueError("the logits to resume from lie over another layout; pass the one they were begun with")
    if logits.schedule != schedule:
        raise ValueError(f"the logits to resume from were begun with {logits.schedule}, got {schedule}")


def checked_weights(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """All parameters, detached (or those outside the layout would collect a ``.grad``), checked against the layout.

    Raises:
        TypeError: Not a network.
        ValueError: Other names or shapes than the layout's, values that are not finite or not there, or no gradients.
    """
    weights = {name: parameter.detach() for name, parameter in expect_network(model).named_parameters()}
    layout.check({name: weight.shape for name, weight in weights.items()})
    if torch.is_inference_mode_enabled() or any(weight.is_inference() for weight in weights.values()):
        raise ValueError("learning needs gradients: make the network and learn outside torch.inference_mode()")
    missing = [name for name in layout.names if weights[name].is_meta]
    if missing:
        raise ValueError(f"{missing[0]!r} is on the meta device, without values: load the weights first")
    layout.check_values(weights)
    return weights
