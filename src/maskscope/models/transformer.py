"""The Transformer encoder-decoder of the SCAN and Mathematics experiments: torch's layers, the paper's arrangement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from maskscope.models.attention import Attention, Heads, Ragged

_END = 0
"""Ends a sequence, and is what the decoder is given first."""


class FeedForward(nn.Module):
    """Two linear layers with ReLU and dropout between them, for every token."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        """Build and initialise; Xavier-uniform."""
        super().__init__()
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.expand.weight, gain=nn.init.calculate_gain("relu"))
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
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
        x: Float[Tensor, "tokens width"],
        ragged: Ragged,
        own: Heads,
        read: Heads | None = None,
        *,
        seen: Bool[Tensor, "batch 1 1 length"],
    ) -> Float[Tensor, "tokens width"]:
        """The next layer's input.

        Args:
            x: This layer's.
            ragged: Where its tokens lie.
            own: Keys and values of the positions it attends to itself: an encoder to all, a decoder to those before.
            read: A decoder's keys and values of what was read.
            seen: Which positions of what was read are no padding.
        """
        if read is None:
            x = self.attention_norm(x + self.dropout(self.attention(x, own, ragged, seen=seen)))
        else:
            causal = ragged.longest > 1  # a single step is the last, and sees all there are
            x = self.attention_norm(x + self.dropout(self.attention(x, own, ragged, causal=causal)))
            x = self.reading_norm(x + self.dropout(self.reading(x, read, ragged, seen=seen)))
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
            raise ValueError(
                f"one embedding for both sides needs one vocabulary, got {inputs} inputs, {outputs} outputs"
            )
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
        """Logits of every step of the answer; zeros after its end.

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
        ragged, at = Ragged.of(target), positions(target.shape[1], like=self.source_embedding.weight)
        x = self._embedded(self.target_embedding, shown, ragged, at)
        for layer, read in zip(self._decoder, self._read(source, seen), strict=True):
            x = layer(x, ragged, layer.attention.remembered(x, ragged), read, seen=seen)
        return ragged.spread(self._logits(x))

    @property
    def _decoder(self) -> list[Layer]:
        return cast("list[Layer]", list(self.decoder))

    def _read(self, source: Int64[Tensor, "batch length"], seen: Bool[Tensor, "batch 1 1 length"]) -> list[Heads]:
        """Keys and values of the source for each layer of the decoder."""
        ragged, at = Ragged.of(source), positions(source.shape[1], like=self.source_embedding.weight)
        x = self._embedded(self.source_embedding, source, ragged, at)
        for layer in cast("list[Layer]", list(self.encoder)):
            x = layer(x, ragged, layer.attention.remembered(x, ragged), seen=seen)
        return [layer.reading.remembered(x, ragged) for layer in self._decoder]

    def _write(
        self, read: list[Heads], seen: Bool[Tensor, "batch 1 1 length"], limit: int
    ) -> Float[Tensor, "batch written outputs"]:
        """The decoder on its own most likely tokens; keys and values of past steps are kept, not computed again."""
        at = positions(limit, like=self.source_embedding.weight)
        ragged = Ragged(len(seen), 1, torch.arange(len(seen), device=seen.device))
        token = torch.full_like(ragged.rows, _END)
        running = torch.ones_like(token, dtype=torch.bool)
        kept = [Heads(*(each.new_empty(*each.shape[:2], limit, each.shape[3]) for each in heads)) for heads in read]
        said: list[Tensor] = []
        for step in range(limit):
            x = self._embedded(self.target_embedding, token.unsqueeze(1), ragged, at[step : step + 1])
            for layer, past, heads in zip(self._decoder, kept, read, strict=True):
                for all_steps, this in zip(past, layer.attention.remembered(x, ragged), strict=True):
                    all_steps[:, :, step : step + 1] = this
                x = layer(x, ragged, Heads(*(each[:, :, : step + 1] for each in past)), heads, seen=seen)
            said.append(self._logits(x) * running.unsqueeze(1))
            token = said[-1].argmax(-1)
            running &= token != _END
            if not bool(running.any()):
                break
        return torch.stack(said, 1)

    def _embedded(
        self,
        embedding: nn.Embedding,
        tokens: Int64[Tensor, "batch steps"],
        ragged: Ragged,
        at: Float[Tensor, "steps width"],
    ) -> Float[Tensor, "tokens width"]:
        return self.dropout(embedding(ragged.gathered(tokens)) + at[ragged.rows % ragged.longest])

    def _logits(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens outputs"]:
        if self.output is not None:
            return self.output(x)
        return functional.linear(x, self.target_embedding.weight) * math.sqrt(1 / x.shape[-1])


def positions(steps: int, *, like: Float[Tensor, "tokens width"]) -> Float[Tensor, "steps width"]:
    """Sines and cosines of every position, interleaved, with wavelengths from 2 pi to 20,000 pi.

    Source: Vaswani et al. 2017, section 3.5.

    Examples:
        >>> positions(2, like=torch.zeros(1, 4))
        tensor([[0.0000, 1.0000, 0.0000, 1.0000],
                [0.8415, 0.5403, 0.0100, 0.9999]])
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
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs; not masked if tied."""
        return "source_embedding.weight" if self.tied else "output.weight"

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
