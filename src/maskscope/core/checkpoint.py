"""A network in training as tensors: weights, buffers, the optimiser's moments by the names of what they move, the step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskscope.core.files import Damaged


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, moved: Mapping[str, Tensor], step: int
) -> dict[str, Tensor]:
    """Everything needed to go on bit for bit; copies.

    Args:
        model: The network.
        optimizer: Of what is moved.
        moved: Its tensors by name.
        step: Steps taken.
    """
    state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, tensor in moved.items():
        for key, value in optimizer.state[tensor].items():
            state[f"optimizer/{name}/{key}"] = value
    return {name: tensor.detach().clone() for name, tensor in (state | {"step": torch.tensor(step)}).items()}


def restore_training(
    state: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, moved: Mapping[str, Tensor]
) -> int:
    """Take over what ``training_state`` returned; returns the steps taken.

    Raises:
        Damaged: Steps were taken, but the optimiser's moments are missing; nothing is taken over.

    Examples:
        >>> def begun():
        ...     model = nn.Linear(2, 1)
        ...     return model, torch.optim.SGD(model.parameters(), momentum=0.9), dict(model.named_parameters())
        >>> restore_training(training_state(*begun(), step=0), *begun())
        0
    """
    step = int(state["step"])
    if step and not any(name.startswith("optimizer/") for name in state):
        raise Damaged("the checkpoint has no moments of the optimiser")
    model.load_state_dict({n.removeprefix("model/"): t for n, t in state.items() if n.startswith("model/")})
    for name, tensor in moved.items():
        prefix = f"optimizer/{name}/"
        moments = {
            n.removeprefix(prefix): t.to(tensor.device, copy=True) for n, t in state.items() if n.startswith(prefix)
        }
        if moments:
            optimizer.state[tensor] = moments
    return step
