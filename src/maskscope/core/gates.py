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
    """Elementwise functions of logits and uniform noise, from which learning is put together.

    Laws, checked for every gate by ``tests/contracts``: samples lie in [0, 1]; ``slope`` is the derivative of the
    gate's soft value; ``harden`` is the limit of ``sample``: what is kept has probability above 1/2; the penalty is
    monotone in the logit with slope ``penalty_slope``.
    """

    @property
    def threshold(self) -> float:
        """Logits above it are kept."""
        ...

    def prepare(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """What sampling needs of a logit: computed once a step, however many samples it has."""
        ...

    def sample(self, prepared: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Gate values for one draw of the noise, from prepared logits."""
        ...

    def slope(self, logits: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Derivative of the gate with respect to its logit, as used in backward."""
        ...

    def mean_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"] | None:
        """The mean of ``slope`` over the noise, where there is a closed form; None where there is not."""
        ...

    def probability(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Probability that a sample is kept."""
        ...

    def harden(self, logits: Float32[Tensor, "*n"], layout: Layout) -> Bool[Tensor, " n"]:
        """What is kept: the only place where that is decided."""
        ...

    def penalty(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """What each unit costs, before the penalty's weight."""
        ...

    def penalty_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "..."]:
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
        >>> gate.sample(gate.prepare(torch.tensor([0.0, 0.0, 3.0])), torch.tensor([0.4, 0.6, 0.4]))
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

    def prepare(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The probability sigmoid(-l) that a sample is 0."""
        return torch.sigmoid(-logits)

    def sample(self, prepared: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Hard samples: 1 where u > sigmoid(-l)."""
        return (uniform > prepared).to(torch.float32)

    def slope(self, logits: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
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

    def mean_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"] | None:
        r"""The density of the sum of two logistic variables, at temperature 1; no closed form is known to us elsewhere.

        s is the probability that a second logistic variable lies below l + log(u / (1 - u)), so its mean over u is the
        distribution function of their sum (or difference), and the mean of ds/dl its density: with t = \|l\| / 2,
        (t coth t - 1) / (2 sinh(t)^2). With q = sigmoid(-2t), coth t = 1 / (1 - 2q), and all stays finite.
        """
        if self.temperature != 1.0:
            return None
        size = logits.abs()
        near = size < 0.5
        t = torch.where(near, 1.0, size * 0.5)
        q = torch.sigmoid(-2 * t)
        r = 1 / (1 - 2 * q)
        far = 2 * q * (1 - q) * (t * r - 1) * r * r
        square = size * size * 0.25
        # Close to 0 the quotient cancels; the series is 1/6 (1 - 2/5 t^2 + 2/21 t^4 - ...).
        return torch.where(near, 1 / 6 + square * (square * (1 / 63) - 1 / 15), far)

    def probability(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """sigmoid(l)."""
        return torch.sigmoid(logits)

    def harden(self, logits: Float32[Tensor, "*n"], layout: Layout) -> Bool[Tensor, " n"]:  # noqa: ARG002 - other gates rank within the layout's tensors
        """Kept where the logit is positive."""
        return logits > self.threshold

    def penalty(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The logit itself: linear and unbounded below, as in the published code."""
        return logits

    def penalty_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "..."]:
        """One everywhere."""
        return torch.ones((), dtype=logits.dtype, device=logits.device)
