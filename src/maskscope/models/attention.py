"""Attention with several heads; separate linear layers, so that each can be masked and watched by itself."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class Heads(NamedTuple):
    """What positions offer to those that attend to them."""

    keys: Float[Tensor, "batch heads positions part"]
    values: Float[Tensor, "batch heads positions part"]


class Attention(nn.Module):
    """Scaled dot products of queries with keys, softmax, the mean of the values, mixed over heads; no biases.

    Source: Vaswani et al. 2017, section 3.2; published code (``MultiHeadAttention``): dropout on the weights of the mean.

    Examples:
        >>> import torch
        >>> attention = Attention(8, heads=2, dropout=0.0)
        >>> x = torch.ones(1, 3, 8)
        >>> attention(x, attention.remembered(x)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Build and initialise; Xavier-uniform."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key, self.value, self.merge):
            nn.init.xavier_uniform_(linear.weight)

    def remembered(self, x: Float[Tensor, "batch positions width"]) -> Heads:
        """Keys and values of positions."""
        return Heads(self._split(self.key(x)), self._split(self.value(x)))

    def forward(
        self,
        x: Float[Tensor, "batch steps width"],
        heads: Heads,
        *,
        seen: Bool[Tensor, "batch 1 1 positions"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch steps width"]:
        """For every step a mixture of the values it attends to.

        Args:
            x: The steps.
            heads: Keys and values of the positions attended to.
            seen: Which of them may be.
            causal: Step t sees positions up to t only.
        """
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(x)),
            heads.keys,
            heads.values,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return self.merge(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch heads positions part"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
