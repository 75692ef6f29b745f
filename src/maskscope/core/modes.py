"""Evaluation mode for a while, with every module's own flag put back."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
"""Exactly these: what a subclass does in training mode is not known."""


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Run a network without dropout and with fixed normalisation statistics; restores every module's own flag.

    torch's own recurrent layers instead stay in training mode with dropout 0, which computes the same: cuDNN refuses their
    backward pass in evaluation mode.

    Examples:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    flags = [(module, module.training) for module in model.modules()]
    dropouts = [
        (module, module.dropout)
        for module in model.modules()
        if isinstance(module, nn.RNNBase) and type(module) in _RECURRENT
    ]
    try:
        # Flags, not model.eval(): a user's own train() or eval() may do more than set them.
        for module, _ in flags:
            module.training = type(module) in _RECURRENT
        for module, _ in dropouts:
            module.dropout = 0.0
        yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, dropout in dropouts:
            module.dropout = dropout
