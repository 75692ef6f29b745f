"""Gates: how a logit becomes a (sampled) value in [0, 1], and what of it is kept in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from maskscope.core.layout import Layout
from maskscope.core.noise import logistic


@runtime_checkable
class Gate(Protocol):
    """Elementwise functions of (logit, uniform noise), from which learning is put together.

    Laws, checked for every gate by ``tests/contracts``: samples lie in [0, 1]; ``slope`` is the derivative of the
    gate's soft value; ``harden`` is the limit of ``sample``: what is kept has probability above 1/2; the penalty is
    monotone in the logit with slope ``penalty_slope``.
    """

    @property
    def threshold(self) -> float:
        """Logits above it are kept."""
        ...

    def sample(self, logits: Float32[Tensor, " n"], uniform: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """Gate values for one draw of the noise."""
        ...

    def slope(self, logits: Float32[Tensor, " n"], uniform: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """Derivative of the gate with respect to its logit, as used in backward."""
        ...

    def probability(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """Probability that a sample is kept."""
        ...

    def harden(self, logits: Float32[Tensor, " n"], layout: Layout) -> Bool[Tensor, " n"]:
        """What is kept: the only place where that is decided."""
        ...

    def penalty(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """What each unit costs, before the penalty's weight."""
        ...

    def penalty_slope(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, "*n"]:
        """Derivative of the penalty; may be a scalar tensor where it is the same everywhere."""
        ...


@dataclass(frozen=True)
class GumbelSigmoid:
    r"""Binary concrete samples with a straight-through gradient: the paper's gate.

    With u uniform and l the logit, s = sigmoid((l + log(u / (1 - u))) / temperature); the sample is 1 where s > 1/2,
    that is where u > sigmoid(-l), with probability sigmoid(l). Backward uses ds/dl.

    Source: Csordas et al. 2021, section 2 (equations of the Gumbel-sigmoid); the published code.
    Differs: the noise -log(log U1 / log U0) of the code is Logistic(0, 1); one uniform number gives it, two are drawn
    there. Kept means logit > 0 everywhere; the code has >= 0 in one place.

    Raises:
        ValueError: The temperature is not positive.

    Examples:
        >>> gate = GumbelSigmoid()
        >>> gate.sample(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.4, 0.6, 0.4]))
        tensor([0., 1., 1.])
    """

    kind: Literal["gumbel-sigmoid"] = "gumbel-sigmoid"
    temperature: float = 1.0
    """Divides the noisy logit. Changes the gradient, not the samples."""

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}; the paper's is 1.0")

    @property
    def threshold(self) -> float:
        """Zero: more likely kept than not."""
        return 0.0

    def sample(self, logits: Float32[Tensor, " n"], uniform: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """Hard samples: 1 where u > sigmoid(-l)."""
        return (uniform > torch.sigmoid(-logits)).to(torch.float32)

    def slope(self, logits: Float32[Tensor, " n"], uniform: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """Derivative s (1 - s) / temperature of the soft sample.

        At temperature 1 without logarithms: s = pu / (pu + q(1 - u)) with p = sigmoid(l), q = sigmoid(-l); q and not
        1 - p, which would lose everything for large logits.
        """
        if self.temperature == 1.0:
            on = torch.sigmoid(logits) * uniform
            off = torch.sigmoid(-logits) * (1 - uniform)
            both = on + off
            return on * off / (both * both)
        noisy = (logits + logistic(uniform)) * (1 / self.temperature)
        return torch.sigmoid(noisy) * torch.sigmoid(-noisy) * (1 / self.temperature)

    def probability(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """sigmoid(l)."""
        return torch.sigmoid(logits)

    def harden(self, logits: Float32[Tensor, " n"], layout: Layout) -> Bool[Tensor, " n"]:  # noqa: ARG002 - other gates rank within the layout's tensors
        """Kept where the logit is positive."""
        return logits > self.threshold

    def penalty(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, " n"]:
        """The logit itself: linear and unbounded below, as in the published code."""
        return logits

    def penalty_slope(self, logits: Float32[Tensor, " n"]) -> Float32[Tensor, "*n"]:
        """One everywhere."""
        return torch.ones((), dtype=logits.dtype, device=logits.device)
