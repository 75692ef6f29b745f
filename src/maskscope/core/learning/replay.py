"""A step's work on a GPU, captured once and replayed: one launch from Python in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskscope.core.batches import Part, flat, rebuilt
from maskscope.core.device import onto

_EAGER = 3
"""Steps of one kind before it is captured: libraries choose their algorithms and passes are compiled in them."""

Work = Callable[[Sequence[Part]], Tensor]
"""All of a step, from the parts of its batch to the logits moved; returns the loss."""


class Replayed:
    """Calls some work, and from its fourth call with batches of one shape on replays what it did as a CUDA graph.

    What is replayed are the operations on the device: whatever Python decides, draws or counts inside stays as it was when
    captured. Batches of other shapes, or with other values that are no tensors, are worked on as they come, and captured in
    their turn.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        """Capture nothing yet."""
        self._work = work
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._kind: object = None
        self._seen = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._parts: list[Part] = []
        self._loss: Tensor | None = None

    def __call__(self, parts: Sequence[Part]) -> Tensor:
        """Do the work.

        Raises:
            RuntimeError: It cannot be captured: it waits for the device or chooses by what it computed.
        """
        kind = tuple((part.sample, part.share, *map(_kind, flat(part.batch))) for part in parts)
        if kind != self._kind:
            self._kind, self._seen, self._graph = kind, 0, None
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):  # for eager steps too: autograd goes on where a leaf was first seen
            if self._seen < _EAGER:
                self._seen += 1
                loss = self._work([part._replace(batch=onto(part.batch, self._device)) for part in parts])
            else:
                loss = self._replay(parts)
        before.wait_stream(self._stream)
        return loss

    def _replay(self, parts: Sequence[Part]) -> Tensor:
        if self._graph is None:
            self._parts = [part._replace(batch=rebuilt(part.batch, self._copied)) for part in parts]
            graph, draws = torch.cuda.CUDAGraph(), _generator(self._device)
            before = draws.clone_state()
            try:
                with torch.cuda.graph(graph, stream=self._stream):
                    self._loss = self._work(self._parts)
            except RuntimeError as error:
                draws.graphsafe_set_state(before)  # or torch would draw no more: it takes the capture for unfinished
                raise RuntimeError(
                    f"the step cannot be captured as a CUDA graph ({str(error).splitlines()[0]}): the network or the "
                    "objective waits for the device (.item(), .cpu(), nonzero) or branches on what it computed; learn "
                    "without cuda_graph=True"
                ) from error
            self._graph = graph
        else:
            for old, new in zip(self._parts, parts, strict=True):
                for here, there in zip(flat(old.batch), flat(new.batch), strict=True):
                    if isinstance(here, Tensor):
                        here.copy_(there, non_blocking=True)
        self._graph.replay()
        assert self._loss is not None
        return self._loss.clone()

    def _copied(self, leaf: Any) -> Any:
        return leaf.to(self._device, copy=True) if isinstance(leaf, Tensor) else leaf


def _generator(device: torch.device) -> torch.Generator:
    """What torch draws with on a GPU where it is not told."""
    with torch.cuda.device(device):
        return torch.cuda.default_generators[torch.cuda.current_device()]


def _kind(leaf: Any) -> object:
    """What must be the same for a replay to be right."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf)
