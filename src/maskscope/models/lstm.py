"""The LSTM of the arithmetic experiments: torch's own, with the paper's initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn


def start(lstm: nn.LSTM) -> None:
    """Give an LSTM the paper's initial weights; draws from torch's global generator.

    Gates start Xavier-uniform, the cell gate's recurrence orthogonal, forget biases at 1. The published cell has one
    bias; torch's second one is held at zero and frozen.

    Source: Csordas et al. 2021; published code.

    Examples:
        >>> lstm = nn.LSTM(3, 1)
        >>> start(lstm)
        >>> lstm.bias_ih_l0.tolist(), lstm.bias_hh_l0.requires_grad
        ([0.0, 1.0, 0.0, 0.0], False)
    """
    hidden = lstm.hidden_size
    with torch.no_grad():
        for layer in range(lstm.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                cast("nn.Parameter", getattr(lstm, f"{name}_l{layer}"))
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            for gate in range(4):  # torch's order: input, forget, cell, output
                rows = slice(gate * hidden, (gate + 1) * hidden)
                nn.init.xavier_uniform_(weight_ih[rows])
                if gate == 2:
                    nn.init.orthogonal_(weight_hh[rows])
                else:
                    nn.init.xavier_uniform_(weight_hh[rows])
            bias_ih.zero_()
            bias_ih[hidden : 2 * hidden] = 1.0
            bias_hh.zero_()
            bias_hh.requires_grad = False


class LSTM(nn.Module):
    """A stacked LSTM and a linear read-out of its last layer at every step.

    It starts as ``start`` says.

    Source: Csordas et al. 2021, arithmetic experiments; published code.

    Examples:
        >>> sum(p.numel() for p in LSTM(80, 256, 2, 40).parameters() if p.requires_grad)
        880680
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        """Build and initialise."""
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, outputs)
        start(self.lstm)

    def forward(self, x: Float[Tensor, "batch steps inputs"]) -> Float[Tensor, "batch steps outputs"]:
        """The read-out at every step."""
        states, _ = self.lstm(x)
        return self.output(states)


@dataclass(frozen=True)
class LSTMSettings:
    """A stacked LSTM by its sizes."""

    kind: Literal["lstm"] = "lstm"
    hidden: int = 256
    """Cells per layer. Source: the paper's arithmetic experiments."""
    layers: int = 2

    @property
    def ends(self) -> tuple[str, ...]:
        """The masked parameters that read the input and write the output."""
        return ("lstm.weight_ih_l0", "output.weight")

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return "output.weight"

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test. Source: the paper takes the whole first layer."""
        return ("lstm.weight_ih_l0", "lstm.weight_hh_l0")

    def build(self, inputs: int, outputs: int) -> LSTM:
        """A freshly initialised network; draws from torch's global generator."""
        return LSTM(inputs, self.hidden, self.layers, outputs)
