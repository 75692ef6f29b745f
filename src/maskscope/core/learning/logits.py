"""The trainable state of one mask: logits in rows, and their optimiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from maskscope.core.gates import Gate, Ranking
from maskscope.core.layout import Layout
from maskscope.core.learning.blocks import LARGE, Blocks, Rows
from maskscope.core.learning.kernels import Kernel, Moments
from maskscope.core.learning.schedules import Schedule
from maskscope.core.learning.settling import Settling
from maskscope.core.learning.sizing import Sizing
from maskscope.core.noise import draw, uniform

_ABOVE = 1e-6
"""How far from the threshold equal logits are put, of which only some are kept."""


class Logits:
    """One logit per unit of a layout, with Adam's moments and the number of steps taken.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> Logits(layout(nn.Linear(2, 3)), Schedule()).values
        tensor([2., 2., 2., 2., 2., 2.])
    """

    def __init__(
        self,
        layout: Layout,
        schedule: Schedule,
        device: torch.device | str = "cpu",
        *,
        low_memory: bool = False,
    ) -> None:
        """Every logit at ``schedule.init``."""
        self.layout = layout
        self.schedule = schedule
        self.low_memory = low_memory
        """Keep nothing that can be computed again: 4 bytes a weight less (8 for small parameters)."""
        self.step = 0
        self.begun_with = ""
        """Seed, penalty and gate of the learning that moves them, as text; set at its first step."""
        self.compile_seconds = 0.0
        """What the compiler has taken while they were learned, in this process."""
        self.blocks = Blocks(layout, device, large=1 << 14 if low_memory else LARGE)
        self.rows: Rows = self.blocks.full(schedule.init)
        self.gradient: Rows = self.blocks.full(0.0)
        """d(loss + penalty)/d(logit) of the step; learning fills it, ``descend`` uses it up."""
        self.prepared: Rows | None = None
        """What the gate's samples need of the logits; kept up to date by ``descend``."""
        self.settling = Settling(schedule)
        self.sizing: Sizing | None = None
        """Where a size was asked for."""
        self._rates: Float32[Tensor, " 6"] = torch.zeros(6, dtype=torch.float32, device=self.device)
        self._moments = Moments(self.blocks.full(0.0), self.blocks.full(0.0))

    def prepare(self, kernel: Kernel) -> None:
        """Before the first step: what the gate's samples need."""
        if not self.low_memory:
            self.prepared = kernel.prepare(torch.empty_like(self.rows), self.rows)

    def turned(self, penalty: float) -> float:
        """The penalty of the next step, where a size is aimed at."""
        return penalty if self.sizing is None else penalty * self.sizing.factor

    def begin_at(self, values: Float32[Tensor, " units"]) -> None:
        """Begin elsewhere than at ``schedule.init``.

        Raises:
            ValueError: Another number of units, or values that are not finite.
        """
        if values.shape != (self.layout.units,) or not bool(values.isfinite().all()):
            raise ValueError(
                f"initial takes a finite logit for each of {self.layout.units} units, got shape {tuple(values.shape)} with "
                f"{int((~values.isfinite()).sum())} that are not finite"
            )
        self.blocks.spread(values.to(self.device, torch.float32), self.rows)

    def spread(self, seed: int) -> None:
        """Begin as noise around zero, where equal logits would have no order; the same for the same seed."""
        for span in self.layout.spans:
            index = torch.arange(span.units, dtype=torch.int32, device=self.device)
            self.blocks.own(self.rows, span).copy_(uniform(index, *draw(seed, -1, 0).of(span.name)) - 0.5)

    def rank(self, ranking: Ranking, kernel: Kernel) -> None:
        """Move logits by one number, each parameter's or all, so that as many as are kept lie above zero."""
        spans = [self.blocks.own(self.rows, span) for span in self.layout.spans]
        groups = [[own] for own in spans] if ranking.per == "tensor" else [spans]
        for group in groups:
            whole = group[0] if len(group) == 1 else torch.cat(group)
            left_out = whole.numel() - max(1, round(ranking.density * whole.numel()))
            if left_out:
                best_left_out = whole.kthvalue(left_out).values
                for own in group:
                    own.sub_(best_left_out)
        if self.prepared is not None:
            kernel.prepare(self.prepared, self.rows)

    def cut(self, density: float, threshold: float) -> None:
        """In the end: move all logits by one number, so that so many lie above the threshold; of equal ones the first do."""
        values = self.values
        order = torch.argsort(values, descending=True, stable=True)
        count = max(1, round(density * len(values)))
        if count < len(values):
            values += threshold - values[order[count]]
        kept = torch.zeros_like(values, dtype=torch.bool)
        kept[order[:count]] = True
        values = torch.where(kept, values.clamp(min=threshold + _ABOVE), values.clamp(max=threshold - _ABOVE))
        self.blocks.spread(values, self.rows)

    @property
    def values(self) -> Float32[Tensor, " units"]:
        """The logits in the layout's order; a copy."""
        return self.blocks.gather(self.rows)

    def peek(self) -> Float32[Tensor, " units"]:
        """The logits in the layout's order, between two steps, without memory of their own.

        They lie where the gradient was, and are gone with the next step.
        """
        flat = self.gradient.view(-1)[: self.layout.units]
        return self.blocks.gather(self.rows, flat)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.rows.device

    def begin(self, gate: Gate) -> None:
        """Bring the rates of the step to come to the device; before the first, ranked logits are spread by noise."""
        schedule, betas = self.schedule, self.schedule.betas
        first, second = (1 - beta ** (self.step + 1) for beta in betas)
        grown = gate.sharpening ** (self.step / schedule.steps)
        rate = schedule.rate(self.step, self.settling.end) * grown
        growth = [gate.sharpening ** (1 / schedule.steps), grown]
        rates = [rate / first, second**-0.5, *(1 - beta for beta in betas), *growth]
        self._rates.copy_(torch.tensor(rates, dtype=torch.float32))

    def descend(self, kernel: Kernel, fine: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
        """Clip the gradient and take one step of Adam, at the rates that ``begin`` brought.

        Nothing is taken where the loss or the gradient is not finite; that is decided on the device. The caller counts the step.

        Args:
            kernel: Whose passes to use.
            fine: Whether all went well so far.

        Returns:
            Whether it still does.
        """
        for unused in self.blocks.unused:
            self.gradient.view(-1)[unused].zero_()
        # Adam moves logits before they are sharpened: d/dl = b d/d(b l), with b what they have grown by.
        grown = self._rates[5]
        norm = torch.linalg.vector_norm(self.gradient) * grown
        fine = fine & norm.isfinite()
        clip = torch.clamp(self.schedule.clip / (norm + 1e-6), max=1.0) * grown
        scalars = torch.cat([clip.view(1), self._rates[:2], fine.view(1), self._rates[2:5]])
        kernel.descend(self.rows, self.prepared, self._moments, self.gradient, scalars)
        return fine

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit, as tensors."""
        return {
            "logits": self.values,
            "step": torch.tensor(self.step),
            "adam_mean": self.blocks.gather(self._moments.mean),
            "adam_square": self.blocks.gather(self._moments.square),
            **self.settling.state(),
            **({} if self.sizing is None else self.sizing.state()),
            "begun_with": torch.tensor(list(self.begun_with.encode()), dtype=torch.uint8),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned.

        Raises:
            ValueError: Another number of units.
        """
        if state["logits"].shape != (self.layout.units,):
            raise ValueError(
                f"the checkpoint holds {state['logits'].shape[0]} logits, this layout has {self.layout.units} units; "
                "it belongs to another selection or granularity"
            )
        self.step = int(state["step"])
        self.begun_with = bytes(state["begun_with"].tolist()).decode() if "begun_with" in state else ""
        self.settling.restore(state)
        self.sizing = Sizing.restored(state, self.schedule)
        for name, rows in (
            ("logits", self.rows),
            ("adam_mean", self._moments.mean),
            ("adam_square", self._moments.square),
        ):
            self.blocks.spread(state[name], rows)
