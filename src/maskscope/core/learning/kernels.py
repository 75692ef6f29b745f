"""Noise, gate and gradient as fused passes over rows of units; compiled where it pays, with identical bits either way."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from maskscope.core.gates import Gate, GumbelSigmoid
from maskscope.core.learning.blocks import WIDTH, Rows
from maskscope.core.learning.native import Library, library
from maskscope.core.noise import Draw, uniform

Mode = Literal["auto", "compiled", "eager"]

BLOCK = 512
"""Rows per eager piece: the dozen temporaries stay in the second-level cache, and torch does not cut it among threads
(a cut off the vector's border gives other last bits there)."""

_SAVED_PER_UNIT = 1.6e-8
"""Seconds the compiled passes save per unit, sample and step (measured on 2 cores)."""
_COMPILE_SECONDS = 15.0
"""What compiling costs at the first use on a machine."""
_READ_SECONDS = 3.0
"""What it costs later processes, which read it from torch's cache; later masks of a process pay nothing."""

# The compiler would otherwise cut a long chain of arithmetic in two and store what lies between.
_ONE_PASS: dict[str, str | int | bool | Callable[..., Any]] = {
    f"realize_{what}_threshold": 1 << 20 for what in ("opcount", "reads", "acc_reads")
}

_EPSILON = 1e-8

_WORTH_IT = 8
"""Floats in a vector from which products with gated weights beat torch's (measured: 16; about equal: 8; slower: 4)."""

Keys = tuple[Int32[Tensor, "rows 1"], Int32[Tensor, "rows 1"]]
Words = Int32[Tensor, " 3"]
_Pass = Callable[..., None]


class Moments(NamedTuple):
    """Adam's moments, in rows."""

    mean: Rows
    square: Rows


def worth_compiling(work: int) -> bool:
    """Whether compiled passes pay for many masks of many networks, so that compiling itself no longer counts.

    Args:
        work: Units times samples times steps of the masks of one network.

    Examples:
        >>> worth_compiling(10**6), worth_compiling(10**9)
        (False, True)
    """
    return work * _SAVED_PER_UNIT > _READ_SECONDS


def words(stream: Draw, device: torch.device) -> Words:
    """A stream's key words and rotation on a device."""
    return torch.tensor(stream, dtype=torch.int32, device=device)


class Kernel:
    """The passes of a step. Each goes over rows once and changes its first argument in place.

    Args:
        gate: The gate.
        mode: ``compiled``, ``eager``, or ``auto``: compiled if the work to come is worth it.
        work: Units times samples times steps to come; used by ``auto``.

    Examples:
        >>> from maskscope.core.learning.blocks import Blocks
        >>> from maskscope.core.gates import GumbelSigmoid
        >>> from maskscope.core.layout import layout
        >>> from maskscope.core.noise import draw
        >>> blocks = Blocks(layout(torch.nn.Linear(2, 2)))
        >>> gated, prepared, weights = blocks.full(0.0), blocks.full(0.5), blocks.full(5.0)
        >>> stream = words(draw(0, 0, 0), blocks.device)
        >>> Kernel(GumbelSigmoid()).sample(gated, prepared, prepared, weights, (blocks.key0, blocks.key1), stream)
        >>> gated.view(-1)[:4]
        tensor([0., 0., 0., 5.])
    """

    def __init__(self, gate: Gate, mode: Mode = "auto", work: float = 0.0) -> None:
        """Compile nothing yet; the first call does."""
        self.gate = gate
        worth_it = work * _SAVED_PER_UNIT > _COMPILE_SECONDS
        self.compiled = mode == "compiled" or (mode == "auto" and worth_it)
        self.compile_seconds = 0.0
        """Spent on compiling so far."""
        self._functions = _known(gate)
        self._triton = mode != "eager" and isinstance(gate, GumbelSigmoid) and find_spec("triton") is not None
        self._begun: set[str] = set()

    def native(self, device: torch.device) -> Library | None:
        """Products with gated weights, where they are to be had and these passes are compiled; None elsewhere."""
        if not self.compiled or type(self.gate) is not GumbelSigmoid or device.type != "cpu":
            return None
        found = library()
        if found is None or found.lanes < _WORTH_IT:
            return None
        self.compile_seconds += found.seconds
        found.seconds = 0.0
        return found

    def prepare(self, out: Rows, logits: Rows) -> Rows:
        """What samples need of the logits."""
        self._run("prepare", (out, logits))
        return out

    def sample(self, out: Rows, logits: Rows, prepared: Rows | None, weights: Rows, keys: Keys, stream: Words) -> None:
        """Weights times gates, for one draw of the noise; from prepared logits, where they are kept."""
        source = logits if prepared is None else prepared
        if self._triton and out.is_cuda:
            _on_cuda(out, source, weights, keys, stream, logits=prepared is None)
        else:
            self._run("sample" if prepared is not None else "prepare_and_sample", (out, source, weights, *keys), stream)

    def penalise(self, out: Rows, logits: Rows, penalty: Float32[Tensor, ""]) -> None:
        """The slope of the penalty: a gradient begins with it."""
        self._run("penalise", (out, logits), penalty)

    def collect(self, out: Rows, gradient: Rows, logits: Rows, weights: Rows, keys: Keys, stream: Words) -> None:
        """Add one sample's d(loss)/d(logit), by the gate's slope at the noise it had: drawn again, not stored."""
        self._run("collect", (out, gradient, logits, weights, *keys), stream)

    def collect_expected(
        self, out: Rows, gradient: Rows, logits: Rows, weights: Rows, keys: Keys, stream: Words
    ) -> None:
        """The same by the slope that is expected of the sample's gates."""
        self._run("collect_expected", (out, gradient, logits, weights, *keys), stream)

    def descend(
        self, logits: Rows, prepared: Rows | None, moments: Moments, gradient: Rows, scalars: Float32[Tensor, " 7"]
    ) -> None:
        """One step of Adam down the gradient, and the new logits prepared.

        ``scalars``: what the gradient is multiplied with (the clip), the learning rate over the first moment's
        correction, one over the root of the second's, 0 if the step is not to be taken, what each moment takes of the
        new, and what the new logits are multiplied with.
        """
        also = () if prepared is None else (prepared,)
        self._run("descend", (logits, *moments, gradient, *also), scalars)

    def _run(self, which: str, rows: tuple[Tensor, ...], *rest: Tensor) -> None:
        if self.compiled and self._compiled(which, (*rows, *rest)):
            return
        count = rows[0].shape[0]
        for start in range(0, count, BLOCK):
            pieces = (tensor[start : start + BLOCK] for tensor in rows)
            self._functions[which](*pieces, *rest)

    def _compiled(self, which: str, arguments: tuple[Any, ...]) -> bool:
        """Run the compiled pass; where the compiler fails, one warning, and eager from then on."""
        new = which not in self._begun
        start = time.perf_counter()
        try:
            _optimised(self._functions[which])(*arguments)
        except Exception as error:
            warnings.warn(
                f"torch.compile does not work here ({type(error).__name__}); going on without it: the same masks, the "
                "gate about 7 times slower. A C++ compiler (g++ or clang) would help.",
                RuntimeWarning,
                stacklevel=2,
            )
            self.compiled = False
            return False
        if new:
            self._begun.add(which)
            self.compile_seconds += time.perf_counter() - start
        return True


@lru_cache(maxsize=64)
def _optimised(function: _Pass) -> _Pass:
    """A compiled pass, once in a process."""
    return torch.compile(function, dynamic=True, options=_ONE_PASS)


def _known(gate: Gate) -> dict[str, _Pass]:
    """The passes of a gate: the same objects for equal gates, so that they are compiled once."""
    try:
        return _kept(gate)
    except TypeError:  # a gate that cannot be hashed
        return _functions(gate)


@lru_cache(maxsize=64)
def _kept(gate: Gate) -> dict[str, _Pass]:
    return _functions(gate)


def _on_cuda(out: Rows, source: Rows, weights: Rows, keys: Keys, stream: Words, *, logits: bool) -> None:
    from maskscope.core.learning import cuda  # noqa: PLC0415 - Triton is not there on every platform

    cuda.sample(out, source, weights, keys, stream, logits=logits)


def _noise(key0: Tensor, key1: Tensor, stream: Tensor) -> Tensor:
    index = torch.arange(WIDTH, dtype=torch.int32, device=key0.device)
    return uniform(index, key0 + stream[0], key1 ^ stream[1], stream[2])


def _expected_slope(gate: Gate, logits: Tensor, *noise: Tensor) -> Tensor:
    slope = gate.expected_slope(logits, gate.sample(gate.prepare(logits), _noise(*noise)))
    if slope is None:
        raise TypeError(f"{gate} has no expected slope in closed form")
    return slope


def _functions(gate: Gate) -> dict[str, _Pass]:
    """What each pass does to a piece of rows."""

    def sample(out: Tensor, prepared: Tensor, weights: Tensor, *noise: Tensor) -> None:
        out.copy_(gate.sample(prepared, _noise(*noise)) * weights)

    def prepare(out: Tensor, logits: Tensor) -> None:
        out.copy_(gate.prepare(logits))

    def prepare_and_sample(out: Tensor, logits: Tensor, weights: Tensor, *noise: Tensor) -> None:
        sample(out, gate.prepare(logits), weights, *noise)

    def collect(out: Tensor, gradient: Tensor, logits: Tensor, weights: Tensor, *noise: Tensor) -> None:
        out.copy_(out + gradient * weights * gate.slope(logits, _noise(*noise)))

    def collect_expected(out: Tensor, gradient: Tensor, logits: Tensor, weights: Tensor, *noise: Tensor) -> None:
        out.copy_(out + gradient * weights * _expected_slope(gate, logits, *noise))

    def penalise(out: Tensor, logits: Tensor, penalty: Tensor) -> None:
        out.copy_(gate.penalty_slope(logits) * penalty)

    def descend(logits: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, *rest: Tensor) -> None:
        *prepared, scalars = rest
        new = _adam(logits, mean, square, gradient, scalars)
        for old, value in zip((logits, mean, square), new, strict=True):
            old.copy_(value)
        for out in prepared:
            out.copy_(gate.prepare(new[0]))

    passes = (prepare, sample, prepare_and_sample, penalise, collect, collect_expected, descend)
    return {function.__name__: function for function in passes}


def _adam(
    logits: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, scalars: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and moments after a step. Source: Kingma and Ba 2015, algorithm 1, as torch has it."""
    clipped = gradient * scalars[0]
    new_mean = mean + (clipped - mean) * scalars[4]
    new_square = square + (clipped * clipped - square) * scalars[5]
    move = new_mean * scalars[1] / (_root(new_square) * scalars[2] + _EPSILON)
    fine = scalars[3] > 0
    return (
        torch.where(fine, (logits - move) * scalars[6], logits),
        torch.where(fine, new_mean, mean),
        torch.where(fine, new_square, square),
    )


def _root(x: Tensor) -> Tensor:
    """The correctly rounded square root, as the compiler makes it; eager single precision may be one off."""
    return x.sqrt() if torch.compiler.is_compiling() else x.double().sqrt().float()
