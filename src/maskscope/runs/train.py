"""Training a network on its full task: the loop, resumable bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from maskscope.core.batches import Batch
from maskscope.core.checkpoint import restore_training, training_state
from maskscope.core.device import device_of, onto
from maskscope.core.objectives import Objective
from maskscope.core.seeded import derive, seeded
from maskscope.runs.experiment import Training


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
        return training_state(self.model, self.optimizer, self.parameters, self.step)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned.

        Raises:
            Damaged: The optimiser's moments are missing; nothing is taken over.
        """
        self.step = restore_training(state, self.model, self.optimizer, self.parameters)


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
    place = device_of(trainee.model)
    steps, parameters = settings.steps, list(trainee.parameters.values())
    for step in range(trainee.step, steps):
        trainee.optimizer.zero_grad()
        with seeded(derive(seed, "dropout", step)):
            loss = objective(trainee.model, onto(batches(step), place))
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
