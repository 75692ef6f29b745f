"""The LSTM encoder-decoder of the SCAN experiment: one reads a sequence, one writes the answer, no attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

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
        """Logits of every step of the answer; zeros after its end.

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
                return self._write(state, limit)
        lengths = (target >= 0).sum(1)
        if not forced:
            return self._write(state, target.shape[1], lengths)
        shown = functional.pad(target[:, :-1].clamp(min=_END), (1, 0), value=_END)
        packed, _ = self.decoder(_packed(self._embedded(self.target_embedding, shown), lengths), state)
        logits = packed._replace(data=self.output(packed.data))
        return pad_packed_sequence(logits, batch_first=True, total_length=target.shape[1])[0]

    def _read(self, source: Int64[Tensor, "batch length"]) -> State:
        """The state after each sequence's own last token."""
        shown = self._embedded(self.source_embedding, source.clamp(min=_END))
        return self.encoder(_packed(shown, (source >= 0).sum(1)))[1]

    def _write(
        self, state: State, steps: int, lengths: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch written outputs"]:
        """The decoder on its own most likely tokens: as many as ``lengths`` say, else until it says 0."""
        batch = state[0].shape[1]
        rows = torch.arange(batch, device=state[0].device)
        token = torch.full_like(rows, _END)
        said: list[Tensor] = []
        for step in range(steps):
            hidden, state = self.decoder(self._embedded(self.target_embedding, token.unsqueeze(1)), state)
            logits = self.output(hidden.squeeze(1))
            said.append(logits.new_zeros(batch, logits.shape[1]).index_copy(0, rows, logits))
            token = logits.argmax(-1)
            left = (token != _END if lengths is None else lengths[rows] > step + 1).nonzero().squeeze(1)
            if not len(left):
                break
            if len(left) < len(rows):
                rows, token = rows[left], token[left]
                state = state[0].index_select(1, left), state[1].index_select(1, left)
        logits = torch.stack(said, 1)
        return logits if lengths is None else functional.pad(logits, (0, 0, 0, steps - len(said)))

    def _embedded(
        self, embedding: nn.Embedding, tokens: Int64[Tensor, "batch steps"]
    ) -> Float[Tensor, "batch steps width"]:
        return functional.dropout(embedding(tokens), self.dropout, self.training)


def _packed(x: Float[Tensor, "batch steps width"], lengths: Int64[Tensor, " batch"]) -> PackedSequence:
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


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
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return "output.weight"

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
