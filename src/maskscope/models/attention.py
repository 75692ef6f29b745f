"""Attention with several heads; separate linear layers, so that each can be masked and watched by itself."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional


class Ragged(NamedTuple):
    """Where sequences' tokens lie that are kept one after the other, without the padding between them.

    Everything but attention is done to each token by itself, and in a batch of answers most places are padding.

    Examples:
        >>> import torch
        >>> ragged = Ragged.of(torch.tensor([[5, 0], [0, -1]]))
        >>> ragged.spread(torch.tensor([[1.0], [2.0], [3.0]])).squeeze(-1).tolist()
        [[1.0, 2.0], [3.0, 0.0]]
    """

    batch: int
    longest: int
    rows: Int64[Tensor, " tokens"]
    """Their numbers among all places, padding included."""

    @classmethod
    def of(cls, sequences: Int64[Tensor, "batch longest"]) -> Ragged:
        """Those of sequences filled up with negative numbers."""
        batch, longest = sequences.shape
        return cls(batch, longest, (sequences >= 0).flatten().nonzero().squeeze(1))

    def spread(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "batch longest width"]:
        """Every sequence by itself, filled up with zeros."""
        places = x.new_zeros(self.batch * self.longest, x.shape[1])
        return places.index_copy(0, self.rows, x).unflatten(0, (self.batch, self.longest))

    def gathered(self, padded: Shaped[Tensor, "batch longest *width"]) -> Shaped[Tensor, "tokens *width"]:
        """The way back."""
        return padded.flatten(0, 1).index_select(0, self.rows)


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
        >>> ragged, x = Ragged.of(torch.tensor([[5, 4, 0]])), torch.ones(3, 8)
        >>> attention(x, attention.remembered(x, ragged), ragged).shape
        torch.Size([3, 8])
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

    def remembered(self, x: Float[Tensor, "tokens width"], ragged: Ragged) -> Heads:
        """Keys and values of tokens."""
        return Heads(self._split(ragged.spread(self.key(x))), self._split(ragged.spread(self.value(x))))

    def forward(
        self,
        x: Float[Tensor, "tokens width"],
        heads: Heads,
        ragged: Ragged,
        *,
        seen: Bool[Tensor, "batch 1 1 positions"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "tokens width"]:
        """For every token a mixture of the values it attends to.

        Args:
            x: The tokens.
            heads: Keys and values of the positions attended to.
            ragged: Where the tokens lie.
            seen: Which positions may be attended to.
            causal: Token t sees positions up to t only.
        """
        mixed = functional.scaled_dot_product_attention(
            self._split(ragged.spread(self.query(x))),
            heads.keys,
            heads.values,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return self.merge(ragged.gathered(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch heads positions part"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
