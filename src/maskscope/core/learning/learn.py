"""Learning a mask: the loop, and the function that runs it to the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import Tensor, nn

from maskscope.core.batches import Batches, Part, Split, cut, stream
from maskscope.core.device import device_of, onto
from maskscope.core.fingerprint import fingerprint
from maskscope.core.gates import Gate, GumbelSigmoid
from maskscope.core.interrupts import deferred
from maskscope.core.layout import Layout
from maskscope.core.layout import layout as lay_out
from maskscope.core.learning.checks import (
    check_objective,
    check_options,
    check_resume,
    check_settings,
    checked_weights,
)
from maskscope.core.learning.gating import Gating
from maskscope.core.learning.kernels import Kernel, Mode
from maskscope.core.learning.learned import (
    Learned,
    Reading,
    State,
    finish,
    is_reading,
    origin_of,
    probabilities,
    read,
    undecided,
)
from maskscope.core.learning.logits import Logits
from maskscope.core.learning.replay import Replayed
from maskscope.core.learning.schedules import FAST, Schedule
from maskscope.core.learning.sizing import Sizing
from maskscope.core.learning.step import Step
from maskscope.core.modes import evaluating
from maskscope.core.noise import draw
from maskscope.core.objectives import Objective, Weighed, weight_of
from maskscope.core.replacement import Replacement, checked, digest_of

PENALTY = 1e-4 / 128
"""Default weight of the summed logits. Source: the paper's 1e-4 over its batch of 128 (LSTM and add-mul)."""

_CHECK_EVERY = 50
"""Steps between looks at the device for a non-finite loss; on a CPU looking costs nothing and is done every step."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient was NaN or infinite; ``state`` is the last good one."""

    def __init__(self, state: State) -> None:
        """Carry the state for whoever catches this."""
        super().__init__(
            f"the loss or its gradient was not finite at step {state.step + 1} of {state.steps}; the logits are as after "
            f"step {state.step}. Look at that step's batch, the objective (log of 0? a mean over no labels?) or the learning rate"
        )
        self.state = state


class LearningInterrupted(KeyboardInterrupt):
    """Ctrl-C while learning; ``state`` goes on with ``learn_mask(..., resume=state.logits)``."""

    def __init__(self, state: State) -> None:
        """Carry the state for whoever catches this."""
        super().__init__(
            f"stopped after step {state.step} of {state.steps}; go on with learn_mask(..., resume=stop.state.logits)"
        )
        self.state = state


Watch = Callable[[Iterator[State]], Iterable[State]]
"""Wraps the iteration: progress, checkpoints, early stopping. ``maskscope.progress("add")`` is one."""


def learning(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    *,
    layout: Layout,
    gate: Gate | None = None,
    schedule: Schedule = FAST,
    penalty: float = PENALTY,
    density: float | None = None,
    seed: int = 0,
    resume: Logits | None = None,
    split: Split | None = None,
    kernel: Mode = "auto",
    autocast: torch.dtype | None = None,
    low_memory: bool = False,
    cuda_graph: bool = False,
    initial: Tensor | None = None,
    replacement: Replacement | None = None,
    accumulate: int = 1,
    alongside: torch.optim.Optimizer | None = None,
) -> Generator[State]:
    """Learn a mask step by step; yields the state after each.

    Each step cuts a batch into ``schedule.samples`` parts, runs each under its own sample of the mask, and moves the
    logits down the gradient of the mean loss plus ``penalty`` times the summed gate penalty. The network is not
    changed; between steps it is in the mode the caller left it in.

    Batches on the CPU are brought to the network's device.

    Source: Csordas et al. 2021, section 2. Differs: one sample per part however often the objective calls the network
    (published: a fresh one each call); the clip looks at the mask's gradient only; no hidden division of the penalty.

    Args:
        model: Any network; its weights stay as they are.
        batches: A function of the step, or an iterable that is gone through again and again.
        objective: ``objective(network, batch)``: the mean loss of the subtask, a scalar.
        layout: Which units lie over which weights.
        gate: Default: ``GumbelSigmoid()``.
        schedule: Steps, learning rate, samples.
        penalty: Added to the mean loss per unit of summed logit.
        density: Share of all units to keep, exactly: the penalty is turned until the expected size is about that, and in the end
            the logits are moved by one number, so that so many lie above the threshold. None: as many as the penalty leaves.
        seed: Of the mask's noise.
        resume: Logits of an earlier, interrupted call with the same settings.
        split: How to cut a batch whose first dimension is not the batch.
        kernel: Compiled or eager: the same gates. Compiled products sum in another order than torch's, so masks differ as
            between two machines.
        autocast: ``torch.bfloat16`` computes the network's products in that type, where the processor has them: faster,
            and another mask than in float32, by about as much as another seed gives. Logits stay in float32.
        low_memory: Keep nothing that can be computed again, 4 bytes a masked weight less; slower, the same mask.
        cuda_graph: On a GPU, capture a step and replay it: several times faster where steps are short. For objectives that do
            the same each time; what they do in Python beside calling the network is done for the first steps only.
        initial: Where each unit's logit begins, (units,), such as ``learned.logits`` of a mask like it, or what
            ``maskscope.analysis.scores.InTurn`` makes of scores. Default: all at ``schedule.init``.
        replacement: What removed weights become, by parameter (``maskscope.core.replacement``). Default: zero.
        accumulate: Pieces that each part of a batch is cut into again, one after another: less memory for activations, the same
            mask but for rounding.
        alongside: An optimiser over other parameters that the objective uses, those of a probe: it takes a step with every step of
            the mask. To resume, keep its state and theirs yourself.

    Raises:
        ValueError: Non-finite weights, unusable batches, or a loss that no masked weight takes part in.
        NonFiniteLossError: The loss or gradient is not finite; carries the last good state.

    Examples:
        >>> model, batch = nn.Linear(2, 2), (torch.ones(8, 2), torch.ones(8, dtype=torch.long))
        >>> from maskscope.core.objectives import cross_entropy
        >>> from maskscope.core.layout import layout
        >>> states = learning(model, [batch], cross_entropy, layout=layout(model), schedule=Schedule(steps=3))
        >>> [state.step for state in states]
        [1, 2, 3]
    """
    gate = GumbelSigmoid() if gate is None else gate
    check_objective(objective, model)
    check_settings(layout, schedule, gate, penalty, resume)
    check_options(
        kernel=kernel, autocast=autocast, split=split, accumulate=accumulate, alongside=alongside, cuda_graph=cuda_graph
    )
    weights = checked_weights(model, layout)
    penalty, accumulate = float(penalty), int(accumulate)
    logits = resume or Logits(layout, schedule, weights[layout.names[0]].device, low_memory=low_memory)
    settings = repr((seed, penalty, gate, *([] if density is None else [density])))
    check_resume(logits, layout, schedule, settings)
    logits.begun_with = settings
    if density is not None:
        logits.sizing = _sizing(logits, density, penalty, gate)
    weigh = partial(weight_of, objective) if isinstance(objective, Weighed) else None
    start, looks = logits.step, 1 if logits.device.type == "cpu" else _CHECK_EVERY
    fused = Kernel(gate, kernel, float(schedule.steps * layout.units * schedule.samples))
    if not start:
        _begin(logits, gate, fused, initial, seed)
    step_over = Step(
        model,
        objective,
        weights=weights,
        logits=logits,
        kernel=fused,
        penalty=penalty,
        autocast=autocast,
        replacement=checked(replacement, layout, weights),
        alongside=_learned_by(alongside),
    )
    good = torch.zeros((), dtype=torch.int64, device=logits.device)
    fine = torch.ones((), dtype=torch.bool, device=logits.device)
    settling, place = logits.settling, device_of(model)

    def work(parts: Sequence[Part]) -> Tensor:
        loss = step_over.run([part._replace(batch=onto(part.batch, place)) for part in parts])
        fine.copy_(logits.descend(fused, fine & loss.isfinite()))
        if gate.ranking is not None:
            logits.rank(gate.ranking, fused)
        good.add_(fine)
        _step(alongside, fine)
        return loss

    step_over.gating.penalty.fill_(logits.turned(penalty))
    if cuda_graph and logits.device.type == "cuda":
        work = Replayed(work, logits.device)
    for step, batch in zip(range(start, schedule.steps), stream(batches, start), strict=False):
        if step >= settling.end:
            break
        strata = schedule.strata_of_step
        step_over.draw([draw(seed, step, sample, strata=strata) for sample in range(schedule.samples)])
        logits.begin(gate)
        with evaluating(model):
            loss = work(cut(batch, schedule.samples, split, weigh, pieces_each=accumulate))
        logits.step += 1
        logits.compile_seconds = fused.compile_seconds
        if ((step + 1) % looks == 0 or step + 1 == settling.end) and not bool(fine):
            logits.step = start + int(good)
            raise NonFiniteLossError(State(logits.step, schedule.steps, loss, logits, gate))
        _look(logits, gate, step_over.gating, penalty)
        yield State(step + 1, settling.end, loss, logits, gate)


def learn_mask(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    *,
    layout: Layout | None = None,
    gate: Gate | None = None,
    schedule: Schedule = FAST,
    penalty: float = PENALTY,
    density: float | None = None,
    seed: int = 0,
    subtask: str = "",
    resume: Logits | None = None,
    split: Split | None = None,
    kernel: Mode = "auto",
    autocast: torch.dtype | None = None,
    low_memory: bool = False,
    cuda_graph: bool = False,
    initial: Tensor | None = None,
    replacement: Replacement | None = None,
    accumulate: int = 1,
    alongside: torch.optim.Optimizer | None = None,
    watch: Watch | None = None,
) -> Learned:
    """Learn the mask of one subtask over a frozen network: ``learning`` run to its end.

    Args:
        model: Any network; nothing in it is changed.
        batches: A function of the step, or an iterable that is gone through again and again.
        objective: ``objective(network, batch)``: the mean loss of the subtask, a scalar.
        layout: Default: every weight; not embeddings, nor biases outside normalisation layers.
        gate: Default: ``GumbelSigmoid()``.
        schedule: Steps, learning rate, samples.
        penalty: Added to the mean loss per unit of summed logit. Larger: smaller masks.
        density: Share of all units to keep, exactly: the penalty is turned until the expected size is about that, and in the end
            the logits are moved by one number, so that so many lie above the threshold. None: as many as the penalty leaves.
        seed: Of the mask's noise.
        subtask: Its name, kept with the mask.
        resume: Logits of an earlier, interrupted call with the same settings.
        split: How to cut a batch whose first dimension is not the batch.
        kernel: Compiled or eager: the same gates. Compiled products sum in another order than torch's, so masks differ as
            between two machines.
        autocast: ``torch.bfloat16`` computes the network's products in that type, where the processor has them: faster,
            and another mask than in float32, by about as much as another seed gives. Logits stay in float32.
        low_memory: Keep nothing that can be computed again, 4 bytes a masked weight less; slower, the same mask.
        cuda_graph: On a GPU, capture a step and replay it: several times faster where steps are short. For objectives that do
            the same each time; what they do in Python beside calling the network is done for the first steps only.
        initial: Where each unit's logit begins, (units,), such as ``learned.logits`` of a mask like it, or what
            ``maskscope.analysis.scores.InTurn`` makes of scores. Default: all at ``schedule.init``.
        replacement: What removed weights become, by parameter (``maskscope.core.replacement``). Default: zero.
        accumulate: Pieces that each part of a batch is cut into again, one after another: less memory for activations, the same
            mask but for rounding.
        alongside: An optimiser over other parameters that the objective uses, those of a probe: it takes a step with every step of
            the mask. To resume, keep its state and theirs yourself.
        watch: Wraps the iteration; ``maskscope.progress("add")`` shows a progress bar.

    Raises:
        ValueError: Non-finite weights, unusable batches, or a loss that no masked weight takes part in.
        NonFiniteLossError: The loss or gradient is not finite; carries the last good state.
        LearningInterrupted: Ctrl-C; carries the state to go on from.

    Examples:
        >>> from maskscope.core.objectives import cross_entropy
        >>> model = nn.Linear(3, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[9.0, -9.0, 1.0], [-9.0, 9.0, 1.0]]))
        >>> inputs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # the third is never on
        >>> batch = (inputs.repeat(4, 1), torch.tensor([0, 1]).repeat(4))
        >>> learned = learn_mask(model, [batch], cross_entropy, penalty=1e-4, schedule=Schedule(steps=200))
        >>> learned.mask.parameter("weight")[:, 2].tolist()
        [False, False]
    """
    gate = GumbelSigmoid() if gate is None else gate
    layout = lay_out(model) if layout is None else layout
    states = learning(
        model,
        batches,
        objective,
        layout=layout,
        gate=gate,
        schedule=schedule,
        penalty=penalty,
        density=density,
        seed=seed,
        resume=resume,
        split=split,
        kernel=kernel,
        autocast=autocast,
        low_memory=low_memory,
        cuda_graph=cuda_graph,
        initial=initial,
        replacement=replacement,
        accumulate=accumulate,
        alongside=alongside,
    )
    state: State | None = None
    curve: list[Reading] = []
    with closing(states), deferred() as interrupts:
        for state in watch(states) if watch else states:
            if is_reading(state.step, state.steps):
                curve.append(read(state))
            if interrupts.pressed:
                raise LearningInterrupted(state)
    logits = state.logits if state else resume
    if logits is None:
        raise ValueError("watch ended before the first step; it must yield the states it is given")
    origin = origin_of(
        gate=gate,
        steps=logits.step,
        penalty=logits.turned(float(penalty)),
        seed=seed,
        subtask=subtask,
        model=fingerprint(model),
        replaced=digest_of(replacement),
    )
    return finish(logits, gate, origin, curve)


def _sizing(logits: Logits, density: float, penalty: float, gate: Gate) -> Sizing:
    """Of these logits: what they were begun with, or a new one.

    Raises:
        ValueError: Nothing can be turned.
    """
    if gate.ranking is not None or not penalty > 0:
        raise ValueError(
            f"density={density} turns the penalty: it needs one above 0 to begin with and a gate without a size of its own, got "
            f"penalty={penalty}, {gate}"
        )
    return logits.sizing or Sizing(density, logits.schedule)


def _begin(logits: Logits, gate: Gate, kernel: Kernel, initial: Tensor | None, seed: int) -> None:
    """Bring the logits to where they start; those of a ranking gate get an order, and a threshold between them."""
    if initial is not None:
        logits.begin_at(initial)
    if gate.ranking is not None:
        if initial is None:
            logits.spread(seed)
        logits.rank(gate.ranking, kernel)


def _step(optimizer: torch.optim.Optimizer | None, fine: Tensor) -> None:
    """Of what is learned beside the mask, unless the step was no good."""
    if optimizer is not None:
        if bool(fine):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _look(logits: Logits, gate: Gate, gating: Gating, penalty: float) -> None:
    """After a step, when due: has the mask settled, has it the size that was asked for? In the end it gets that size."""
    settling, sizing, units = logits.settling, logits.sizing, logits.layout.units
    if settling.due(logits.step):
        between = sum(map(undecided, probabilities(logits, gate)))
        may_end = gate.sharpening == 1.0 and (sizing is None or sizing.arrived)
        settling.look(logits.step, gate.harden(logits.peek(), logits.layout), between / units, may_end=may_end)
    if sizing is None:
        return
    if sizing.due(logits.step):
        expected = sum(float(part.sum(dtype=torch.float64)) for part in probabilities(logits, gate))
        sizing.look(logits.step, expected / units)
        gating.penalty.fill_(logits.turned(penalty))
    if logits.step == settling.end:
        logits.cut(sizing.density, gate.threshold)


def _learned_by(alongside: torch.optim.Optimizer | None) -> list[Tensor]:
    return [parameter for group in alongside.param_groups for parameter in group["params"]] if alongside else []
