"""A positive control for reuse: a network made to use one module for both halves of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from maskscope.models.mlp import MLP


@dataclass(frozen=True)
class CopySecondHalf:
    """After training, copy the second half of the input columns and output rows over the first.

    For double addition: pair 2's over pair 1's, so that both pairs go through the hidden layers in the same way and
    must use one adder. A tool that cannot see that reuse proves nothing when it finds none.

    Source: published code, ``tuple_ff_copyweight``. Differs: the output bias is copied too, without which pair 1 would
    be read with another offset.
    """

    kind: Literal["copy-second-half"] = "copy-second-half"

    def apply(self, model: MLP) -> None:
        """Change the first and the last layer in place.

        Examples:
            >>> model = MLP(4, (3,), 2)
            >>> CopySecondHalf().apply(model)
            >>> torch.equal(model.layers[0].weight[:, :2], model.layers[0].weight[:, 2:])
            True
        """
        first, last = model.layers[0], model.layers[-1]
        with torch.no_grad():
            for name, parameter in (*first.named_parameters(), *last.named_parameters()):
                if parameter is first.weight:
                    half = parameter.shape[1] // 2
                    parameter[:, :half] = parameter[:, half:].clone()
                elif parameter is last.weight or (name == "bias" and parameter is last.bias):
                    half = parameter.shape[0] // 2
                    parameter[:half] = parameter[half:].clone()
