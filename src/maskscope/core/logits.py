"""The trainable state of one mask: a flat vector of logits and its optimiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from maskscope.core.gates import Gate
from maskscope.core.layout import Layout
from maskscope.core.schedules import Schedule


class Logits:
    """One logit per unit of a layout, with Adam's moments and the number of steps taken.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> Logits(layout(nn.Linear(2, 3)), Schedule()).values
        tensor([2., 2., 2., 2., 2., 2.])
    """

    def __init__(self, layout: Layout, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        """Every logit at ``schedule.init``."""
        self.layout = layout
        self.schedule = schedule
        self.step = 0
        self.begun_with = ""
        """Seed, penalty and gate of the learning that moves them, as text; set at its first step."""
        self.values: Float32[Tensor, " units"] = torch.full(
            (layout.units,), schedule.init, dtype=torch.float32, device=device
        )
        self.grad: Float32[Tensor, " units"] = torch.zeros_like(self.values)
        self.values.grad = self.grad
        self._adam = torch.optim.Adam([self.values], lr=schedule.learning_rate, fused=True)
        self._adam.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]

    def descend(self, gate: Gate, penalty: float, fine: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
        """Add the penalty to the collected gradient, clip it and take one Adam step.

        Nothing is taken where the loss or the gradient is not finite; that is decided on the device.

        Args:
            gate: Whose penalty is meant.
            penalty: Added to the mean loss per unit of summed penalty; no other scaling.
            fine: Whether all went well so far.

        Returns:
            Whether it still does.
        """
        self.grad.add_(gate.penalty_slope(self.values) * penalty)
        norm = torch.linalg.vector_norm(self.grad)
        fine = fine & norm.isfinite()
        self.grad.mul_(torch.clamp(self.schedule.clip / (norm + 1e-6), max=1.0))
        # What torch's gradient scaler sets to skip a step on the device: neither values nor moments change.
        self._adam.found_inf = (~fine).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
        self._adam.step()
        self.step += 1
        return fine

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit, as tensors."""
        moments = self._adam.state[self.values]
        state = {"logits": self.values, "step": torch.tensor(self.step)}
        if moments:
            state |= {"adam_mean": moments["exp_avg"], "adam_square": moments["exp_avg_sq"]}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` returned.

        Raises:
            ValueError: Another number of units.
        """
        if state["logits"].shape != self.values.shape:
            raise ValueError(
                f"the checkpoint holds {state['logits'].shape[0]} logits, this layout has {self.layout.units} units; "
                "it belongs to another selection or granularity"
            )
        self.values.copy_(state["logits"])
        self.step = int(state["step"])
        if "adam_mean" in state:
            self._adam.state[self.values] = {
                "step": torch.tensor(float(self.step), device=self.values.device),
                "exp_avg": state["adam_mean"].to(self.values.device, copy=True),
                "exp_avg_sq": state["adam_square"].to(self.values.device, copy=True),
            }
