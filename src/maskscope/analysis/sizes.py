"""Masks at several sizes, each begun where the last ended; and what hardening a mask costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskscope.analysis.evaluate import evaluate
from maskscope.analysis.scores import best
from maskscope.core.apply import masked, with_weights
from maskscope.core.batches import Batch, Batches
from maskscope.core.device import device_of
from maskscope.core.gates import Gate
from maskscope.core.layout import Layout, gated
from maskscope.core.learning.learn import PENALTY, learn_mask
from maskscope.core.learning.learned import Learned
from maskscope.core.learning.schedules import FAST, Schedule
from maskscope.core.mask import Mask
from maskscope.core.noise import draw, uniform
from maskscope.core.objectives import Metric, Objective
from maskscope.core.replacement import Replacement, checked

AGAIN = 0.4
"""Of the steps of the first mask of a sweep: what each of the others takes."""


@dataclass(frozen=True, eq=False)
class Size:
    """A mask of a sweep."""

    density: float
    """Share of the units that was asked for."""
    learned: Learned
    value: float
    """Mean of the metric under it; NaN without tests."""


def sweep(
    model: nn.Module,
    batches: Batches,
    objective: Objective,
    densities: Sequence[float],
    *,
    layout: Layout,
    gate: Gate | None = None,
    schedule: Schedule = FAST,
    penalty: float = PENALTY,
    seed: int = 0,
    replacement: Replacement | None = None,
    tests: Iterable[Batch] = (),
    metric: Metric | None = None,
) -> tuple[Size, ...]:
    """Masks of one subtask at several sizes, from the largest to the smallest: the learned size-performance curve.

    Each begins at the logits and the penalty at which the last one ended, and takes four tenths of the steps; so the smaller masks
    lie mostly inside the larger ones, and ten sizes cost about as much as four to five masks.

    Args:
        model: The network.
        batches: As for ``learn_mask``.
        objective: As for ``learn_mask``.
        densities: Shares of the units to keep.
        layout: Of the masks.
        gate: As for ``learn_mask``; not one with a size of its own.
        schedule: Of the first mask.
        penalty: To begin with.
        seed: Of the first mask's noise.
        replacement: What removed weights become, in learning and in tests. Default: zero.
        tests: What to measure each mask on; none: they are not measured.
        metric: One number per example.

    Raises:
        ValueError: No densities, or some outside of (0, 1); what ``learn_mask`` raises.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.objectives import accuracy, cross_entropy
        >>> model, batch = nn.Linear(2, 2), (torch.randn(8, 2), torch.tensor([0, 1] * 4))
        >>> short = Schedule(steps=40, samples=2, settled=None)
        >>> found = sweep(model, [batch], cross_entropy, [0.5, 0.75], layout=layout(model), schedule=short)
        >>> [(size.density, size.learned.mask.kept_units) for size in found]
        [(0.75, 3), (0.5, 2)]
    """
    if not densities or not all(0 < density < 1 for density in densities):
        raise ValueError(f"densities are shares of the units, between 0 and 1, got {list(densities)}")
    tests, found = list(tests), list[Size]()
    for index, density in enumerate(sorted(set(densities), reverse=True)):
        last = found[-1].learned if found else None
        steps = schedule if last is None else replace(schedule, steps=max(1, round(AGAIN * schedule.steps)), warmup=0.0)
        learned = learn_mask(
            model,
            batches,
            objective,
            layout=layout,
            gate=gate,
            schedule=steps,
            penalty=penalty if last is None or last.mask.origin.penalty is None else last.mask.origin.penalty,
            density=density,
            replacement=replacement,
            seed=seed + index,
            initial=None if last is None else last.logits,
        )
        value = (
            evaluate(masked(model, learned.mask, replacement), tests, metric).value
            if tests and metric
            else float("nan")
        )
        found.append(Size(density, learned, value))
    return tuple(found)


@dataclass(frozen=True)
class Hardening:
    """What becomes of a metric when a mask is hardened."""

    sampled: float
    """Mean under samples of the mask, as it was learned."""
    deviation: float
    """Standard deviation over the samples."""
    samples: int
    hard: float
    """Under the mask: units above the gate's threshold."""
    kept: int
    """Units of that mask."""
    expected: float
    """Under the mask of the expected size: the threshold is where as many lie above it as a sample keeps on average."""
    expected_kept: int

    @property
    def gap(self) -> float:
        """What is lost from sampled to hard; negative where the hard mask is better."""
        return self.sampled - self.hard


def expected_size(learned: Learned) -> Mask:
    """The mask that keeps as many units as a sample does on average: the threshold is searched, not given.

    Examples:
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.objectives import cross_entropy
        >>> model, batch = nn.Linear(2, 2), (torch.randn(8, 2), torch.tensor([0, 1] * 4))
        >>> learned = learn_mask(model, [batch], cross_entropy, schedule=Schedule(steps=40, settled=None), density=0.5)
        >>> expected_size(learned).kept_units == round(float(learned.probability.sum()))
        True
    """
    mask = learned.mask
    found = best(mask.layout, learned.logits, float(learned.probability.double().mean()))
    return Mask.of(mask.layout, found.kept, replace(mask.origin, label=f"{mask.origin.label}, expected size"))


def hardening(
    model: nn.Module,
    learned: Learned,
    gate: Gate,
    tests: Iterable[Batch],
    metric: Metric,
    samples: int = 8,
    seed: int = 0,
    replacement: Replacement | None = None,
) -> Hardening:
    """A metric under samples of a mask, under the hard mask, and under the mask of the expected size.

    Args:
        model: The network.
        learned: The mask with its logits.
        gate: With which it was learned.
        tests: What to measure on.
        metric: One number per example.
        samples: How many to draw.
        seed: Of the noise.
        replacement: What removed weights become. Default: zero.

    Raises:
        ValueError: No samples, or nothing to test on.

    Examples:
        >>> from maskscope.core.gates import GumbelSigmoid
        >>> from maskscope.core.objectives import accuracy, cross_entropy
        >>> model, batch = nn.Linear(2, 2), (torch.randn(8, 2), torch.tensor([0, 1] * 4))
        >>> learned = learn_mask(model, [batch], cross_entropy, schedule=Schedule(steps=40, settled=None), density=0.5)
        >>> hardening(model, learned, GumbelSigmoid(), [batch], accuracy).kept
        2
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    tests, mask = list(tests), learned.mask
    values = [
        evaluate(_under(model, mask.layout, _sample(learned, gate, seed, index), replacement), tests, metric).value
        for index in range(samples)
    ]
    sized = expected_size(learned)
    return Hardening(
        sampled=mean(values),
        deviation=stdev(values) if samples > 1 else float("nan"),
        samples=samples,
        hard=evaluate(masked(model, mask, replacement), tests, metric).value,
        kept=mask.kept_units,
        expected=evaluate(masked(model, sized, replacement), tests, metric).value,
        expected_kept=sized.kept_units,
    )


def _sample(learned: Learned, gate: Gate, seed: int, index: int) -> Float[Tensor, " units"]:
    """The gates of one sample."""
    layout, gates = learned.mask.layout, torch.empty_like(learned.logits)
    stream = draw(seed, index, 0)
    for span in layout.spans:
        units = torch.arange(span.units, dtype=torch.int32)
        noise = uniform(units, *stream.of(span.name))
        span.own(gates).copy_(gate.sample(gate.prepare(span.own(learned.logits)), noise))
    return gates


def _under(
    model: nn.Module, layout: Layout, gates: Float[Tensor, " units"], replacement: Replacement | None
) -> Callable[..., object]:
    """The network with its weights times gates, and what replaces them times one minus the gates."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights = gated(gates.to(device_of(model)), layout, parameters, checked(replacement, layout, parameters))
    return with_weights(model, weights)
