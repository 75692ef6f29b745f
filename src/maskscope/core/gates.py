"""Gates: how a logit becomes a (sampled) value in [0, 1], and what of it is kept in the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from maskscope.core.layout import Layout
from maskscope.core.noise import logistic


class Ranking(NamedTuple):
    """The best of some units are kept."""

    density: float
    """Which share of them."""
    per: Literal["tensor", "all"]
    """Of each parameter's, or of all."""


@runtime_checkable
class Gate(Protocol):
    """Elementwise functions of logits and uniform noise, from which learning is put together.

    Laws, checked for every gate by ``tests/contracts``: samples lie in [0, 1]; ``slope`` is the derivative of the
    gate's soft value; ``harden`` is the limit of ``sample``: what is kept has probability above 1/2; the penalty never
    falls with the logit and has slope ``penalty_slope``.
    """

    @property
    def sharpening(self) -> float:
        """What logits are multiplied with from the first step of learning to the last, a little at each; 1: nothing."""
        ...

    @property
    def ranking(self) -> Ranking | None:
        """Where a number of units is kept, not those above a logit: logits are moved so that these are above zero."""
        ...

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

    temperature: float = 1.0
    """Divides the noisy logit. Changes the gradient, not the samples."""
    kind: Literal["gumbel-sigmoid"] = "gumbel-sigmoid"

    sharpening = 1.0
    ranking = None

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


@dataclass(frozen=True)
class HardConcrete:
    r"""Stretched and clipped concrete samples: gates between 0 and 1, exactly 0 or 1 with positive probability.

    With u uniform and l the logit, s = sigmoid((l + log(u / (1 - u))) / temperature) is stretched to (low, high) and clipped to
    [0, 1]. The penalty of a unit is the probability that its gate is not 0, so that its sum is the expected L0 norm.

    Source: Louizos, Welling, Kingma 2018, equations 10 to 12; their settings. Differs: what is kept in the end is 1, not the
    clipped mean; kept is what has a sample above 1/2 more often than not, a logit above 0.

    Raises:
        ValueError: A temperature that is not positive, or a stretch that does not reach over both ends.

    Examples:
        >>> gate = HardConcrete()
        >>> gate.sample(torch.tensor([-5.0, 0.0, 5.0]), torch.tensor([0.5, 0.5, 0.5])).tolist()
        [0.0, 0.5, 1.0]
    """

    temperature: float = 2 / 3
    """Divides the noisy logit."""
    low: float = -0.1
    """Where the stretched sample begins."""
    high: float = 1.1
    """Where it ends."""
    kind: Literal["hard-concrete"] = "hard-concrete"

    sharpening = 1.0
    ranking = None

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.temperature > 0 or not self.low < 0 or not self.high > 1:
            raise ValueError(
                f"a hard concrete gate needs a positive temperature, low < 0 and high > 1, got {self}; the paper has 2/3, -0.1, 1.1"
            )

    @property
    def threshold(self) -> float:
        """From here on a sample is above 1/2 more often than not: 0, if low and high lie evenly around 1/2."""
        share = (0.5 - self.low) / (self.high - self.low)
        return self.temperature * math.log(share / (1 - share))

    def prepare(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Over the temperature."""
        return logits * (1 / self.temperature)

    def sample(self, prepared: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Stretched and clipped."""
        soft = torch.sigmoid(prepared + logistic(uniform) * (1 / self.temperature))
        return (soft * (self.high - self.low) + self.low).clamp(0, 1)

    def slope(self, logits: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """That of the stretched sample; 0 where it is clipped."""
        noisy = (logits + logistic(uniform)) * (1 / self.temperature)
        soft = torch.sigmoid(noisy)
        stretched = soft * (self.high - self.low) + self.low
        inside = ((stretched > 0) & (stretched < 1)).to(torch.float32)
        return inside * soft * torch.sigmoid(-noisy) * ((self.high - self.low) / self.temperature)

    def expected_slope(
        self,
        logits: Float32[Tensor, "*n"],  # noqa: ARG002
        gates: Float32[Tensor, "*n"],  # noqa: ARG002
    ) -> Float32[Tensor, "*n"] | None:
        """None: the gate's value says which noise it was."""
        return None

    def probability(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """That of a sample above 1/2."""
        return torch.sigmoid(logits - self.threshold)

    def harden(self, logits: Float32[Tensor, "*n"], layout: Layout) -> Bool[Tensor, " n"]:  # noqa: ARG002
        """Kept where a sample above 1/2 is more likely than one below."""
        return logits > self.threshold

    def penalty(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The probability that the gate is not 0 (equation 12)."""
        return torch.sigmoid(logits - self._shut)

    def penalty_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "..."]:
        """Its derivative."""
        return torch.sigmoid(logits - self._shut) * torch.sigmoid(self._shut - logits)

    @property
    def _shut(self) -> float:
        """The logit from which on a gate is more often open than exactly 0."""
        return self.temperature * math.log(-self.low / self.high)


@dataclass(frozen=True)
class Sigmoid:
    """The sigmoid of the logit, without noise; sharpened while it learns, it becomes a hard gate: continuous sparsification.

    With l the logit and b growing from 1 to ``sharpening``, evenly in its logarithm, the gate is sigmoid(b l). What is stored is
    b l, so that learning rate and logits grow together. Nothing ends early while it sharpens.

    Source: Savarese, Silva, Maire 2020 (continuous sparsification), section 4; the penalty is the sum of gates, as there.
    With ``sharpening=1`` a plain soft mask, whose hard form is another network: use it to compare.

    Raises:
        ValueError: Sharpening below 1.

    Examples:
        >>> Sigmoid().sample(Sigmoid().prepare(torch.zeros(1)), torch.tensor([0.9]))
        tensor([0.5000])
    """

    sharpening: float = 200.0
    """The last of the factors b. Source: Savarese et al. 2020."""
    kind: Literal["sigmoid"] = "sigmoid"

    ranking = None

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.sharpening >= 1:
            raise ValueError(
                f"sharpening must be at least 1 (1: none, a soft mask to the end; published 200), got {self.sharpening}"
            )

    @property
    def threshold(self) -> float:
        """Zero: more than half open."""
        return 0.0

    def prepare(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The gate itself."""
        return torch.sigmoid(logits)

    def sample(self, prepared: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:  # noqa: ARG002
        """The same for any noise."""
        return prepared

    def slope(self, logits: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:  # noqa: ARG002
        """Its derivative."""
        return torch.sigmoid(logits) * torch.sigmoid(-logits)

    def expected_slope(
        self,
        logits: Float32[Tensor, "*n"],
        gates: Float32[Tensor, "*n"],  # noqa: ARG002
    ) -> Float32[Tensor, "*n"] | None:
        """The slope: there is no noise."""
        return torch.sigmoid(logits) * torch.sigmoid(-logits)

    def probability(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The gate: how far open it is."""
        return torch.sigmoid(logits)

    def harden(self, logits: Float32[Tensor, "*n"], layout: Layout) -> Bool[Tensor, " n"]:  # noqa: ARG002
        """Kept where more than half open."""
        return logits > self.threshold

    def penalty(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The gate: their sum is the size of the soft mask."""
        return torch.sigmoid(logits)

    def penalty_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "..."]:
        """Its derivative."""
        return torch.sigmoid(logits) * torch.sigmoid(-logits)


@dataclass(frozen=True)
class TopK:
    """A given share of the units, those with the largest logits, kept at every step; gradients pass straight through.

    After each step logits are moved by one number per tensor (or one for all), so that as many as are kept lie above zero. They
    begin as uniform noise around it. There is no penalty.

    Source: Ramanujan et al. 2020 (edge-popup), section 3. Differs: scores are compared with their sign (published code: by
    size), and the share may be of all tensors together.

    Raises:
        ValueError: A density that is not between 0 and 1, or neither of each parameter's units nor of all.

    Examples:
        >>> TopK(0.25).sample(torch.tensor([-1.0, 0.5]), torch.tensor([0.5, 0.5]))
        tensor([0., 1.])
    """

    density: float = 0.5
    """Share of the units that is kept."""
    per: Literal["tensor", "all"] = "tensor"
    """Of each parameter's units, or of all."""
    kind: Literal["top-k"] = "top-k"

    sharpening = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.density < 1:
            raise ValueError(f"density is the share of units to keep, between 0 and 1, got {self.density}")
        if self.per not in ("tensor", "all"):
            raise ValueError(f"per is 'tensor' or 'all', got {self.per!r}")

    @property
    def ranking(self) -> Ranking:
        """Which are kept."""
        return Ranking(self.density, self.per)

    @property
    def threshold(self) -> float:
        """Zero, to which logits are moved."""
        return 0.0

    def prepare(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """The logits themselves."""
        return logits

    def sample(self, prepared: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:  # noqa: ARG002
        """1 above zero, whatever the noise."""
        return (prepared > 0).to(torch.float32)

    def slope(self, logits: Float32[Tensor, "*n"], uniform: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:  # noqa: ARG002
        """One: straight through."""
        return torch.ones_like(logits)

    def expected_slope(
        self,
        logits: Float32[Tensor, "*n"],
        gates: Float32[Tensor, "*n"],  # noqa: ARG002
    ) -> Float32[Tensor, "*n"] | None:
        """One."""
        return torch.ones_like(logits)

    def probability(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """0 or 1."""
        return (logits > 0).to(torch.float32)

    def harden(self, logits: Float32[Tensor, "*n"], layout: Layout) -> Bool[Tensor, " n"]:  # noqa: ARG002
        """Kept where above zero."""
        return logits > self.threshold

    def penalty(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "*n"]:
        """Nothing: the size is given."""
        return torch.zeros_like(logits)

    def penalty_slope(self, logits: Float32[Tensor, "*n"]) -> Float32[Tensor, "..."]:
        """Zero."""
        return torch.zeros((), dtype=logits.dtype, device=logits.device)
