"""The LSTM encoder-decoder of the SCAN experiment: one reads a sequence, one writes the answer, no attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from maskscope.models.lstm import start

State = tuple[Tensor, Tensor]
"""Hidden and cell values, each of shape (layers, batch, hidden)."""

_END = 0
"""Ends a sequence, and is what the decoder is given first."""


class EncoderDecoder(nn.Module):
    """A stacked LSTM that reads a sequence and another that goes on from its state and writes the answer.

    Tokens are numbers; 0 ends a sequence and is the first the decoder is shown, and any negative one is padding, which
    changes nothing. Dropout lies on embeddings and between layers, in training only.

    Source: Csordas et al. 2021, SCAN; published code (task ``scan``). Differs: its decoder drops embeddings in
    validation too while it answers itself.

    Examples:
        >>> model = EncoderDecoder(14, 7, hidden=200, layers=2, embedding=16, dropout=0.5)
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        990543
        >>> model(torch.tensor([[3, 1, 0], [2, 0, -1]]), torch.tensor([[4, 0], [0, -1]])).shape
        torch.Size([2, 2, 7])
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, layers: int, embedding: int, dropout: float) -> None:
        """Build and initialise."""
        super().__init__()
        between = dropout if layers > 1 else 0.0  # torch warns where there is no between
        self.dropout = dropout
        self.source_embedding = nn.Embedding(inputs, embedding)
        self.encoder = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.target_embedding = nn.Embedding(outputs, embedding)
        self.decoder = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.output = nn.Linear(hidden, outputs)
        start(self.encoder)
        start(self.decoder)

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
            target: The right answer: as many steps are taken, and gradients go through all. None: the network answers
                itself, without gradients, until every answer has ended.
            forced: Show the decoder the right token of the step before, not its own.
            limit: Most steps to take without a target.

        Raises:
            ValueError: Neither a target nor a limit.
        """
        state = self._read(source)
        if target is None:
            if limit is None:
                raise ValueError("without a target, say how long answers may get: limit=50")
            with torch.no_grad():
                return self._write(state, limit, stop=True)
        if not forced:
            return self._write(state, target.shape[1], stop=False)
        shown = functional.pad(target[:, :-1].clamp(min=_END), (1, 0), value=_END)
        states, _ = self.decoder(self._embedded(self.target_embedding, shown), state)
        return self.output(states)

    def _read(self, source: Int64[Tensor, "batch length"]) -> State:
        """The state after each sequence's own last token."""
        lengths = (source >= 0).sum(1).cpu()
        shown = self._embedded(self.source_embedding, source.clamp(min=_END))
        _, state = self.encoder(pack_padded_sequence(shown, lengths, batch_first=True, enforce_sorted=False))
        return state

    def _write(self, state: State, steps: int, *, stop: bool) -> Float[Tensor, "batch written outputs"]:
        """The decoder on its own most likely tokens."""
        token = torch.full((state[0].shape[1],), _END, device=state[0].device)
        running = torch.ones_like(token, dtype=torch.bool)
        logits: list[Tensor] = []
        for _ in range(steps):
            hidden, state = self.decoder(self._embedded(self.target_embedding, token.unsqueeze(1)), state)
            logits.append(self.output(hidden))
            token = logits[-1].squeeze(1).argmax(-1)
            running &= token != _END
            if stop and not bool(running.any()):
                break
        return torch.cat(logits, 1)

    def _embedded(
        self, embedding: nn.Embedding, tokens: Int64[Tensor, "batch steps"]
    ) -> Float[Tensor, "batch steps width"]:
        return functional.dropout(embedding(tokens), self.dropout, self.training)


@dataclass(frozen=True)
class EncoderDecoderSettings:
    """An LSTM encoder-decoder by its sizes; defaults are the paper's for SCAN."""

    kind: Literal["encoder-decoder"] = "encoder-decoder"
    hidden: int = 200
    """Cells per layer."""
    layers: int = 2
    """Of the encoder, and of the decoder."""
    embedding: int = 16
    """Numbers per token."""
    dropout: float = 0.5
    """Share of embeddings, and of values between layers, zeroed in training."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The masked parameters that read the input and write the output."""
        return ("encoder.weight_ih_l0", "output.weight")

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test: the encoder. Differs: the paper takes random halves."""
        return tuple(f"encoder.weight_{part}_l{layer}" for layer in range(self.layers) for part in ("ih", "hh"))

    def build(self, inputs: int, outputs: int) -> EncoderDecoder:
        """A freshly initialised network; draws from torch's global generator."""
        return EncoderDecoder(
            inputs,
            outputs,
            hidden=self.hidden,
            layers=self.layers,
            embedding=self.embedding,
            dropout=self.dropout,
        )
