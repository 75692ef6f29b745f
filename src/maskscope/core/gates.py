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

    def expected_slope(
        self, logits: Float32[Tensor, "*n"], gates: Float32[Tensor, "*n"]
    ) -> Float32[Tensor, "*n"] | None:
        """The mean of ``slope`` over all noise that gives these gates; None if there is no closed form.

        The network sees the gate alone, so with it the gradient has the same mean as with ``slope``, and less noise.
        """
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


_UNLIKELY = (0.19314398, -0.033979587, -0.027370421, 0.0020911586, -0.046456523)
_FIRST = (0.9998135, 5.6920195, 9.3087854, -14.419935)
_SECOND = (-2.1910871, -6.5640225, 15.698677, 28.814816, -27.521187)
"""Coefficients of the expected slope, lowest power first; also in ``learning/gated.c``."""


def _series(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    *lower, total = coefficients
    value = torch.full_like(x, total)
    for coefficient in reversed(lower):
        value = value * x + coefficient
    return value


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

    def expected_slope(
        self, logits: Float32[Tensor, "*n"], gates: Float32[Tensor, "*n"]
    ) -> Float32[Tensor, "*n"] | None:
        r"""At temperature 1, to 5e-5 of its value; no closed form is known to us elsewhere.

        With n = \|l\|, a = exp(-n), f the logistic density: the mean of s (1 - s) over x = l + log(u / (1 - u)) > 0 is the
        integral of f(x) f(x - l) over x > 0, divided by sigmoid(l). For the less likely of the two gates that is
        (1 + a) / (1 - a)^2 [log 2 - 1/2 + log(1 + a) - a / (1 + a) - 2a / (1 - a) (log(1 + a) / a - log 2)]; both together
        are the density a [(1 + a) n - 2 (1 - a)] / (1 - a)^3 of a sum of two logistic variables. Near l = 0 these
        quotients cancel; what is computed are the nearest polynomials in q = sigmoid(-n), times n where a logarithm is.
        """
        if self.temperature != 1.0:
            return None
        size = logits.abs().clamp(max=87.0)
        q = torch.sigmoid(-size)
        likely = q * (size * _series(q, _FIRST) + _series(q, _SECOND))
        return torch.where((gates > 0) == (logits >= 0), likely, _series(q, _UNLIKELY))

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
