"""Training a network on its full task: the loop, resumable bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskscope.core.batches import Batch
from maskscope.core.files import Damaged
from maskscope.core.objectives import Objective
from maskscope.core.seeded import derive, seeded
from maskscope.runs.study import Training


class Trainee:
    """A network in training with its optimiser: the state that a checkpoint holds."""

    def __init__(self, model: nn.Module, training: Training) -> None:
        """An optimiser over the parameters that require a gradient."""
        self.model = model
        self.step = 0
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = training.optimizer.over(self.parameters.values(), training.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers, moments and the step, as tensors."""
        state = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer/{name}/{key}"] = value
        return {name: tensor.detach().clone() for name, tensor in (state | {"step": torch.tensor(self.step)}).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned.

        Raises:
            Damaged: Steps were taken, but the optimiser's moments are missing; nothing is taken over.
        """
        if int(state["step"]) and not any(name.startswith("optimizer/") for name in state):
            raise Damaged("the checkpoint has no moments of the optimiser")
        self.model.load_state_dict({n.removeprefix("model/"): t for n, t in state.items() if n.startswith("model/")})
        for name, parameter in self.parameters.items():
            prefix = f"optimizer/{name}/"
            moments = {n.removeprefix(prefix): t.clone() for n, t in state.items() if n.startswith(prefix)}
            if moments:
                self.optimizer.state[parameter] = moments
        self.step = int(state["step"])


class TrainingState(NamedTuple):
    """Where training stands after a step."""

    step: int
    steps: int
    loss: Tensor
    trainee: Trainee


class DivergedError(RuntimeError):
    """The training loss became NaN or infinite."""


def training(
    trainee: Trainee,
    batches: Callable[[int], Batch],
    objective: Objective,
    settings: Training,
    seed: int,
) -> Generator[TrainingState]:
    """Train step by step; yields the state after each.

    Dropout draws from a generator seeded by (seed, step), so a resumed run goes on as if never stopped.

    Args:
        trainee: The network and its optimiser, at any step.
        batches: A function of the step.
        objective: The full task's mean loss.
        settings: Steps, learning rate, clip.
        seed: Of dropout.

    Raises:
        DivergedError: The loss is not finite; the weights are those before that step.
    """
    trainee.model.train()
    steps, parameters = settings.steps, list(trainee.parameters.values())
    for step in range(trainee.step, steps):
        trainee.optimizer.zero_grad()
        with seeded(derive(seed, "dropout", step)):
            loss = objective(trainee.model, batches(step))
        if not bool(loss.isfinite()):
            raise DivergedError(
                f"the training loss is {float(loss.detach())} at step {step + 1} of {steps}; lower the learning rate"
            )
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(parameters, settings.clip)
        for group in trainee.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        trainee.optimizer.step()
        trainee.step = step + 1
        yield TrainingState(step + 1, steps, loss.detach(), trainee)
