"""The Transformer encoder-decoder of the SCAN and Mathematics experiments: torch's layers, the paper's arrangement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from maskscope.models.attention import Attention, Heads

_END = 0
"""Ends a sequence, and is what the decoder is given first."""


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between them, at every position."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        """Build and initialise; Xavier-uniform."""
        super().__init__()
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.expand.weight, gain=nn.init.calculate_gain("relu"))
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(self, x: Float[Tensor, "batch steps width"]) -> Float[Tensor, "batch steps width"]:
        """The same size again."""
        return self.contract(self.dropout(self.expand(x).relu()))


class Layer(nn.Module):
    """Attention to itself, for a decoder attention to what was read, and a feed-forward network.

    Each is added to what it got, and the sum normalised.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, *, decodes: bool) -> None:
        """Build and initialise."""
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width)
        if decodes:
            self.reading = Attention(width, heads, dropout)
            self.reading_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, inner, dropout)
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch steps width"],
        own: Heads,
        read: Heads | None = None,
        *,
        seen: Bool[Tensor, "batch 1 1 length"] | None,
        causal: bool = False,
    ) -> Float[Tensor, "batch steps width"]:
        """The next layer's input.

        Args:
            x: This layer's.
            own: Keys and values of the positions it attends to itself.
            read: A decoder's keys and values of what was read.
            seen: Which positions of what was read are no padding.
            causal: A position sees those up to itself only.
        """
        mixed = self.attention(x, own, seen=seen if read is None else None, causal=causal)
        x = self.attention_norm(x + self.dropout(mixed))
        if read is not None:
            x = self.reading_norm(x + self.dropout(self.reading(x, read, seen=seen)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class Transformer(nn.Module):
    """An encoder that reads a sequence and a decoder that writes the answer.

    Layers normalise after each sum, not once more at the end. Positions are sines, added to embeddings. Tokens are
    numbers; 0 ends a sequence and is the first the decoder is shown, and any negative one is padding, which changes
    nothing. Dropout in training only.

    Source: Vaswani et al. 2017; Csordas et al. 2021, SCAN and Mathematics; published code (``TransformerEncDecModel``).
    Differs: keys and values have a matrix each, not one together.

    Examples:
        >>> model = Transformer(14, 7, width=100, heads=4, encoder=3, decoder=3, feedforward=200, dropout=0.1)
        >>> sum(p.numel() for p in model.parameters())
        607607
        >>> model(torch.tensor([[3, 1, 0], [2, 0, -1]]), torch.tensor([[4, 0], [0, -1]])).shape
        torch.Size([2, 2, 7])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        heads: int,
        encoder: int,
        decoder: int,
        feedforward: int,
        dropout: float,
        tied: bool = False,
    ) -> None:
        """Build and initialise.

        Raises:
            ValueError: Tied embeddings of two vocabularies.
        """
        super().__init__()
        if tied and inputs != outputs:
            raise ValueError(f"one embedding for both sides needs one vocabulary, got {inputs} inputs, {outputs} outputs")
        self.source_embedding = nn.Embedding(inputs, width)
        self.target_embedding = self.source_embedding if tied else nn.Embedding(outputs, width)
        sizes = (width, heads, feedforward, dropout)
        self.encoder = nn.ModuleList(Layer(*sizes, decodes=False) for _ in range(encoder))
        self.decoder = nn.ModuleList(Layer(*sizes, decodes=True) for _ in range(decoder))
        self.output = None if tied else nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)
        if self.output is not None:
            nn.init.xavier_uniform_(self.output.weight)

    def forward(
        self,
        source: Int64[Tensor, "batch length"],
        target: Int64[Tensor, "batch steps"] | None = None,
        *,
        forced: bool = True,
        limit: int | None = None,
    ) -> Float[Tensor, "batch written outputs"]:
        """Logits of every step of the answer.

        Args:
            source: What is read, ended by 0.
            target: The right answer, which the decoder is shown up to the step before. None: the network answers
                itself, without gradients, until every answer has ended.
            forced: False is for recurrent networks.
            limit: Most steps to take without a target.

        Raises:
            ValueError: Neither a target nor a limit, or not forced.
        """
        seen = (source >= 0)[:, None, None]
        if target is None:
            if limit is None:
                raise ValueError("without a target, say how long answers may get: limit=50")
            with torch.no_grad():
                return self._write(self._read(source, seen), seen, limit)
        if not forced:
            raise ValueError("a Transformer is trained with the right tokens shown; use batches with forced=True")
        shown = functional.pad(target[:, :-1].clamp(min=_END), (1, 0), value=_END)
        x = self._embedded(self.target_embedding, shown, positions(shown.shape[1], like=self.source_embedding.weight))
        for layer, read in zip(self._decoder, self._read(source, seen), strict=True):
            x = layer(x, layer.attention.remembered(x), read, seen=seen, causal=True)
        return self._logits(x)

    @property
    def _decoder(self) -> list[Layer]:
        return cast("list[Layer]", list(self.decoder))

    def _read(self, source: Int64[Tensor, "batch length"], seen: Bool[Tensor, "batch 1 1 length"]) -> list[Heads]:
        """Keys and values of the source for each layer of the decoder."""
        at = positions(source.shape[1], like=self.source_embedding.weight)
        x = self._embedded(self.source_embedding, source.clamp(min=_END), at)
        for layer in cast("list[Layer]", list(self.encoder)):
            x = layer(x, layer.attention.remembered(x), seen=seen)
        return [layer.reading.remembered(x) for layer in self._decoder]

    def _write(
        self, read: list[Heads], seen: Bool[Tensor, "batch 1 1 length"], limit: int
    ) -> Float[Tensor, "batch written outputs"]:
        """The decoder on its own most likely tokens; keys and values of past steps are kept, not computed again."""
        at = positions(limit, like=self.source_embedding.weight)
        token = torch.full((len(seen),), _END, device=seen.device)
        running = torch.ones_like(token, dtype=torch.bool)
        kept = [Heads(*(each.new_empty(*each.shape[:2], limit, each.shape[3]) for each in heads)) for heads in read]
        logits: list[Tensor] = []
        for step in range(limit):
            x = self._embedded(self.target_embedding, token.unsqueeze(1), at[step : step + 1])
            for layer, past, heads in zip(self._decoder, kept, read, strict=True):
                for all_steps, this in zip(past, layer.attention.remembered(x), strict=True):
                    all_steps[:, :, step : step + 1] = this
                x = layer(x, Heads(*(each[:, :, : step + 1] for each in past)), heads, seen=seen)
            logits.append(self._logits(x))
            token = logits[-1].squeeze(1).argmax(-1)
            running &= token != _END
            if not bool(running.any()):
                break
        return torch.cat(logits, 1)

    def _embedded(
        self, embedding: nn.Embedding, tokens: Int64[Tensor, "batch steps"], at: Float[Tensor, "steps width"]
    ) -> Float[Tensor, "batch steps width"]:
        return self.dropout(embedding(tokens) + at)

    def _logits(self, x: Float[Tensor, "batch steps width"]) -> Float[Tensor, "batch steps outputs"]:
        if self.output is not None:
            return self.output(x)
        return functional.linear(x, self.target_embedding.weight) * math.sqrt(1 / x.shape[-1])


def positions(steps: int, *, like: Float[Tensor, "tokens width"]) -> Float[Tensor, "steps width"]:
    """Sines and cosines of every position, interleaved, with wavelengths from 2 pi to 20,000 pi.

    Source: Vaswani et al. 2017, section 3.5.

    Examples:
        >>> positions(2, like=torch.zeros(1, 4)).round(decimals=4).tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.8415, 0.5403, 0.01, 1.0]]
    """
    width = like.shape[1]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000) / width))
    angles = torch.arange(steps, device=like.device).unsqueeze(1) * rate
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width].to(like.dtype)


@dataclass(frozen=True)
class TransformerSettings:
    """A Transformer encoder-decoder by its sizes; defaults are the paper's for SCAN.

    Examples:
        >>> mathematics = TransformerSettings(512, 8, encoder=6, decoder=6, feedforward=2048, tied=True)
    """

    width: int = 100
    """Numbers per token."""
    heads: int = 4
    """Of every attention."""
    encoder: int = 3
    """Layers that read."""
    decoder: int = 3
    """Layers that write."""
    feedforward: int = 200
    """Units of the feed-forward networks."""
    dropout: float = 0.1
    """Share of values zeroed in training. Source: published code, which ignores its own option."""
    tied: bool = False
    """One embedding for both sides, which is the output map too, scaled by ``sqrt(1 / width)``; for Mathematics."""
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} do not divide width={self.width}")

    @property
    def ends(self) -> tuple[str, ...]:
        """The masked parameters that read the input and write the output; a tied output map is not masked."""
        first = tuple(f"encoder.0.attention.{part}.weight" for part in ("query", "key", "value"))
        return first if self.tied else (*first, "output.weight")

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test.

        Source: published code: the first half of the layers, rounded up, of encoder and decoder, and the output map.
        """
        with torch.device("meta"):
            model = self.build(1, 1)
        first = {id(layer) for part in (model.encoder, model.decoder) for layer in part[: (len(part) + 1) // 2]}
        return tuple(
            f"{name}.{leaf}"
            for name, module in model.named_modules()
            if id(module) in first or name == "output"
            for leaf, _ in module.named_parameters()
            if "norm" in leaf or not leaf.endswith("bias")
        )

    def build(self, inputs: int, outputs: int) -> Transformer:
        """A freshly initialised network; draws from torch's global generator."""
        return Transformer(
            inputs,
            outputs,
            width=self.width,
            heads=self.heads,
            encoder=self.encoder,
            decoder=self.decoder,
            feedforward=self.feedforward,
            dropout=self.dropout,
            tied=self.tied,
        )
