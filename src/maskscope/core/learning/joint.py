"""Learning a network's weights and a mask over them at the same time, with some weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from maskscope.core.apply import with_weights
from maskscope.core.batches import Batch, Part, cut
from maskscope.core.checkpoint import restore_training, training_state
from maskscope.core.device import device_of, onto
from maskscope.core.gates import GumbelSigmoid
from maskscope.core.layout import Layout
from maskscope.core.mask import Mask
from maskscope.core.noise import draw, uniform
from maskscope.core.objectives import Objective


@dataclass(frozen=True)
class JointSchedule:
    """Settings of learning weights and mask together.

    Source: the paper's permuted MNIST, as its code runs it: one Adam at 1e-2 for both.

    Raises:
        ValueError: A number out of its range.
    """

    kind: Literal["joint-schedule"] = "joint-schedule"
    steps: int = 30_000
    """Optimisation steps."""
    learning_rate: float = 1e-2
    """Adam's, for logits, and for weights where these have none of their own."""
    weight_learning_rate: float | None = None
    """Adam's, for weights. None: that of logits, as published. At 1e-2 weights that go on from an earlier task grow until nothing
    more is learned, unless what no mask keeps begins anew."""
    samples: int = 8
    """Mask samples per step; the batch is cut into that many parts."""
    clip: float = 1.0
    """Largest norm of the gradient of weights and logits together."""

    def __post_init__(self) -> None:
        """Check ranges."""
        positive = all(number > 0 for number in (self.learning_rate, self.for_weights, self.clip))
        if self.steps < 1 or self.samples < 1 or not positive:
            raise ValueError(f"a joint schedule needs positive numbers, got {self}")

    @property
    def for_weights(self) -> float:
        """The weights' learning rate.

        Examples:
            >>> JointSchedule().for_weights, JointSchedule(weight_learning_rate=1e-3).for_weights
            (0.01, 0.001)
        """
        return self.learning_rate if self.weight_learning_rate is None else self.weight_learning_rate


class Joint:
    """Weights and logits that learn together: the state that a checkpoint holds.

    Args:
        model: Its parameters are changed in place.
        layout: Units over them, float32.
        logits: Where every unit starts.
        frozen: Units whose weights stay as they are; their logits learn all the same.
        schedule: Steps, learning rates, samples, clip.

    Raises:
        ValueError: Logits or frozen units of another layout.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> model = nn.Linear(2, 3)
        >>> over = layout(model)
        >>> Joint(model, over, torch.zeros(over.units), Mask.empty(over), JointSchedule()).step
        0
    """

    def __init__(
        self, model: nn.Module, layout: Layout, logits: Float32[Tensor, " units"], frozen: Mask, schedule: JointSchedule
    ) -> None:
        """Fresh moments."""
        if frozen.layout != layout or logits.shape != (layout.units,):
            raise ValueError(
                f"expected one logit and one frozen bit for each of {layout.units} units, got {tuple(logits.shape)} and "
                f"{frozen.layout!r}"
            )
        self.model = model
        self.layout = layout
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        place = next(iter(self.weights.values())).device
        self.logits = logits.to(place, copy=True)
        self.free = {
            segment.parameter: segment.expanded((~segment.own(frozen.kept)).float()).to(place)
            for segment in layout.segments
        }
        self.step = 0
        self.schedule = schedule
        groups = [
            {"params": [*self.weights.values()], "lr": schedule.for_weights},
            {"params": [self.logits], "lr": schedule.learning_rate},
        ]
        self.adam = torch.optim.Adam(groups, fused=True)

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers, logits, moments and the step, as tensors."""
        return training_state(self.model, self.adam, self._learned(), self.step) | {"logits": self.logits.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned.

        Raises:
            Damaged: The optimiser's moments are missing; nothing is taken over.
        """
        self.step = restore_training(state, self.model, self.adam, self._learned())
        self.logits.copy_(state["logits"])

    def mask(self, gate: GumbelSigmoid) -> Mask:
        """What is kept."""
        return Mask.of(self.layout, gate.harden(self.logits, self.layout))

    def _learned(self) -> dict[str, Tensor]:
        return {**self.weights, "": self.logits}


class JointState(NamedTuple):
    """Where learning stands after a step."""

    step: int
    steps: int
    loss: Tensor
    joint: Joint


def learning_jointly(
    joint: Joint,
    batches: Callable[[int], Batch],
    objective: Objective,
    *,
    gate: GumbelSigmoid,
    penalty: float,
    seed: int,
) -> Generator[JointState]:
    r"""Learn weights and mask step by step; yields the state after each.

    With G_k the gradient of the gated weights under sample k, and b_k its gates: weights get the sum of b_k G_k, and
    logits the sum over the weights w of a unit of w G_k, times the slope expected of b_k. Two sums, of G_k and of
    b_k G_k, are all that is kept of the samples.

    Source: Csordas et al. 2021, permuted MNIST; published code. Differs: samples are stratified and slopes expected, as in
    ``learning``; logits of a frozen weight move on as there.

    Args:
        joint: The network, the logits and their optimiser, at any step of their schedule.
        batches: A function of the step.
        objective: The task's mean loss.
        gate: At temperature 1.
        penalty: Added to the mean loss per unit of summed logit.
        seed: Of the noise.

    Raises:
        ValueError: The gate has no expected slope, or a batch has fewer examples than there are samples.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.objectives import cross_entropy
        >>> model = nn.Linear(2, 2)
        >>> batch, schedule = (torch.ones(8, 2), torch.ones(8, dtype=torch.long)), JointSchedule(steps=3)
        >>> joint = Joint(model, layout(model), torch.zeros(4), Mask.empty(layout(model)), schedule)
        >>> states = learning_jointly(
        ...     joint, lambda step: batch, cross_entropy, gate=GumbelSigmoid(), penalty=0.0, seed=0
        ... )
        >>> [state.step for state in states]
        [1, 2, 3]
    """
    layout, weights, schedule = joint.layout, joint.weights, joint.schedule
    some = joint.logits[:1]
    if gate.expected_slope(some, some) is None:
        raise ValueError(f"learning weights and mask together needs a gate with an expected slope, got {gate}")
    place, on = device_of(joint.model), joint.logits.device
    index = {span.name: torch.arange(span.units, dtype=torch.int32, device=on) for span in layout.spans}
    for step in range(joint.step, schedule.steps):
        sums = _Sums.over(weights)
        off, loss = gate.prepare(joint.logits), torch.zeros((), device=on)
        stream = draw(seed, step, 0)  # one draw, moved by k/K for sample k
        noise = torch.cat([uniform(index[span.name], *stream.of(span.name)) for span in layout.spans])
        for part in cut(batches(step), schedule.samples):
            moved = noise + part.sample / schedule.samples
            gates = gate.sample(off, moved.sub_((moved >= 1).float()))
            here = part._replace(batch=onto(part.batch, place))
            loss = loss + _backward(joint, objective, here, gates, sums)
        joint.logits.grad = _gradient(joint, gate, sums) + penalty
        for name, weight in weights.items():
            weight.grad = sums.opened[name].mul_(joint.free[name]) if name in joint.free else sums.opened[name]
        nn.utils.clip_grad_norm_([*weights.values(), joint.logits], schedule.clip)
        joint.adam.step()
        joint.step = step + 1
        yield JointState(step + 1, schedule.steps, loss, joint)


class _Sums(NamedTuple):
    """Over the samples of a step, by parameter."""

    every: dict[str, Tensor]
    """Of G_k."""
    opened: dict[str, Tensor]
    """Of b_k G_k: the gradient of the weights."""

    @staticmethod
    def over(weights: Mapping[str, Tensor]) -> _Sums:
        """Zero."""
        every, opened = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
        return _Sums(every, opened)


def _backward(joint: Joint, objective: Objective, part: Part, gates: Tensor, sums: _Sums) -> Tensor:
    """One sample: adds its gradients; returns its share of the loss."""
    opened = {segment.parameter: segment.expanded(segment.own(gates)) for segment in joint.layout.segments}
    leaves = {
        name: (weight.detach() * opened[name] if name in opened else weight.detach()).requires_grad_()
        for name, weight in joint.weights.items()
    }
    loss = objective(with_weights(joint.model, leaves), part.batch) * part.share
    found = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            continue
        sums.every[name].add_(gradient)
        if name in opened:
            sums.opened[name].addcmul_(gradient, opened[name])
        else:
            sums.opened[name].add_(gradient)
    return loss.detach()


def _gradient(joint: Joint, gate: GumbelSigmoid, sums: _Sums) -> Float32[Tensor, " units"]:
    """d(loss)/d(logit), from the sums over samples."""
    logits, total = joint.logits, torch.zeros_like(joint.logits)
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    open_slope, shut_slope = (cast("Tensor", gate.expected_slope(logits, gates)) for gates in (ones, zeros))
    for segment in joint.layout.segments:
        name = segment.parameter
        weight = joint.weights[name].detach()
        opened = segment.collected(weight * sums.opened[name])
        shut = segment.collected(weight * sums.every[name]) - opened
        segment.own(total).add_(segment.own(open_slope) * opened + segment.own(shut_slope) * shut)
    return total
