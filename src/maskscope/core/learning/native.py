"""Products with gated weights in C: compiled once on a machine, checked once in a process, and None where it cannot be had."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from maskscope.locate import kept

SOURCE = Path(__file__).with_name("gated.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")

Planes = Int64[Tensor, "samples words"]
"""Gates as bits, a plane for every sample of a step: a word for a row of 64 units, and one more that means nothing."""


class Part(NamedTuple):
    """What one sample adds to a weight's gradient: dy^T x, and the sample's gates."""

    dy: Float32[Tensor, "rows out"]
    x: Float32[Tensor, "rows in"]
    bits: Int64[Tensor, " words"]
    fresh: bool = False
    """Whether dy was made for this, so that nobody else will change it."""


class Library:
    """The functions of ``gated.c`` over tensors: dense float32 on the CPU; nothing is checked here.

    Results do not depend on the number of threads, which is torch's.
    """

    def __init__(self, path: Path) -> None:
        """Load it. torch's OpenMP runtime is in the process already, so its threads are shared."""
        self._c = ctypes.CDLL(str(path))
        self.lanes: int = self._c.lanes()
        """Floats in a vector of this processor."""
        self.seconds = 0.0
        """What compiling took; 0 if it was done before."""

    def draw(
        self,
        planes: Planes,
        prepared: Float32[Tensor, "rows 64"],
        keys: tuple[Int32[Tensor, "rows 1"], Int32[Tensor, "rows 1"]],
        streams: Int32[Tensor, "samples 3"],
    ) -> None:
        """Fill the planes: on where the noise of ``noise.uniform`` exceeds what ``GumbelSigmoid.prepare`` gave."""
        samples, rows = streams.shape[0], prepared.shape[0]
        shared = bool((streams[:, :2] == streams[:1, :2]).all())
        self._call("draw", planes, prepared, *keys, streams, planes.stride(0), rows, samples, ctypes.c_int(shared))

    def gate(self, out: Tensor, weight: Tensor, bits: Tensor) -> None:
        """Weight times gates."""
        self._call("gate", out, weight, bits, weight.numel())

    def forward(
        self, x: Float32[Tensor, "rows in"], weight: Float32[Tensor, "out in"], bits: Tensor, bias: Tensor | None
    ) -> Float32[Tensor, "rows out"]:
        """X (gated weight)^T + bias."""
        (rows, size), out = x.shape, weight.shape[0]
        y = x.new_empty(rows, out)
        self._call("forward", y, x, self._turned(rows, size), weight, bits, bias, rows, out, size)
        return y

    def backward(
        self, dy: Float32[Tensor, "rows out"], weight: Float32[Tensor, "out in"], bits: Tensor
    ) -> Float32[Tensor, "rows in"]:
        """Dy (gated weight)."""
        dx = dy.new_empty(dy.shape[0], weight.shape[1])
        self._call("backward", dx, dy, weight, bits, *dy.shape, weight.shape[1])
        return dx

    def collect(self, total: Tensor, gradient: Tensor, weight: Tensor, logits: Tensor, bits: Tensor) -> None:
        """Total += gradient * weight * ``GumbelSigmoid.expected_slope``."""
        self._call("collect", total, gradient, weight, logits, bits, weight.numel())

    def collect_products(
        self,
        total: Float32[Tensor, "out in"],
        weight: Float32[Tensor, "out in"],
        logits: Float32[Tensor, "out in"],
        parts: Sequence[Part],
        base: float | None,
    ) -> None:
        """Total, or ``base`` where given, + weight * the sum over parts of dy^T x * ``GumbelSigmoid.expected_slope``."""
        out, size = weight.shape
        ends = list(accumulate(part.dy.shape[0] for part in parts))
        sides = [part.dy for part in parts], [part.x for part in parts]
        dy, x = (side[0] if len(side) == 1 else torch.cat(side) for side in sides)
        # upwards to whole tiles, of less than 64 columns
        packed = torch.empty(ends[-1] * (out + size + 128), dtype=torch.float32)
        planes = (ctypes.c_void_p * len(parts))(*(part.bits.data_ptr() for part in parts))
        until = (ctypes.c_int64 * len(parts))(*ends)
        anew, start = ctypes.c_int(base is not None), ctypes.c_float(base or 0.0)
        dy, x = dy.contiguous(), x.contiguous()
        self._call(
            "collect_products", total, dy, x, packed, weight, logits, planes, until, len(parts), out, size, anew, start
        )

    def lstm_forward(
        self,
        gates: Float32[Tensor, "steps rows four_cells"],
        hidden: Float32[Tensor, "steps_and_one rows cells"],
        cells: Float32[Tensor, "steps_and_one rows cells"],
        weight: Float32[Tensor, "four_cells cells"],
        bits: Tensor,
    ) -> None:
        """All steps of a layer, in place: ``gates`` come as the inputs' part; the first states are given."""
        steps, rows, four = gates.shape
        product, turned = gates.new_empty(rows, four), self._turned(rows, four // 4)
        self._call("lstm_forward", gates, hidden, cells, product, turned, weight, bits, steps, rows, four // 4)

    def lstm_backward(
        self,
        gates: Tensor,
        cells: Tensor,
        outer: Float32[Tensor, "steps rows cells"],
        last: tuple[Float32[Tensor, "rows cells"], Float32[Tensor, "rows cells"]],
        weight: Float32[Tensor, "four_cells cells"],
        bits: Tensor,
    ) -> Float32[Tensor, "steps rows four_cells"]:
        """Gradients before the gates' nonlinearities; those in ``last``, of the last states, become the first ones'."""
        steps, rows, four = gates.shape
        slopes = torch.empty_like(gates)
        self._call("lstm_backward", slopes, gates, cells, outer, *last, weight, bits, steps, rows, four // 4)
        return slopes

    def _turned(self, rows: int, size: int) -> Tensor:
        tile = 2 * self.lanes
        return torch.empty(size, -(-rows // tile) * tile, dtype=torch.float32)

    def _call(self, name: str, *arguments: Any) -> None:
        getattr(self._c, name)(*map(_argument, arguments), ctypes.c_int(torch.get_num_threads()))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else value


@cache
def library() -> Library | None:
    """The compiled functions; None, with one warning, where there is no C compiler or it does not do.

    Only on Linux, where torch and the compiler share an OpenMP runtime.
    """
    if sys.platform != "linux":
        return None
    start = time.perf_counter()
    try:
        path, new = build(FLAGS)
        try:
            found = _checked(path)
        except (OSError, RuntimeError):
            if new:
                raise
            path.unlink()  # damaged since, perhaps
            path, new = build(FLAGS)
            found = _checked(path)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"products with gated weights could not be compiled ({error}); going on with torch's: up to twice as slow, "
            "masks as alike as two machines'. A C compiler (gcc or clang) would help; CC says which.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    found.seconds = time.perf_counter() - start if new else 0.0
    return found


def build(flags: tuple[str, ...], folder: Path | None = None) -> tuple[Path, bool]:
    """Compile ``gated.c`` unless that was done before; where it lies, and whether it is new.

    Args:
        flags: Of the compiler.
        folder: Where compiled code is kept; default: ``maskscope`` in the user's cache folder.

    Raises:
        OSError: No compiler, or nowhere to write.
        RuntimeError: It fails.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler: neither cc nor gcc nor clang is on the path")
    processor = next((x for x in _lines("/proc/cpuinfo") if x.startswith(("flags", "Features"))), platform.processor())
    what = "\n".join([SOURCE.read_text(encoding="utf-8"), compiler, *flags, processor])
    name = f"gated-{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    folder = folder or kept()
    path = folder / name
    if path.exists():
        return path, False
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # renamed when whole: another process may look
        fresh = Path(scratch) / name
        ran = subprocess.run([compiler, *flags, "-o", fresh, SOURCE], capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{compiler} failed: {ran.stderr.strip().splitlines()[-1:]}")
        fresh.replace(path)
    return path, True


def _checked(path: Path) -> Library:
    found = Library(path)
    check(found)
    return found


def check(found: Library) -> None:
    """Compare a small product with torch's: a miscompiled one must not learn masks.

    Raises:
        RuntimeError: They differ.
    """
    weight, x = torch.linspace(-1, 1, 37 * 53).view(37, 53), torch.linspace(-1, 1, 5 * 53).view(5, 53)
    bits = torch.arange(37 * 53 // 64 + 2, dtype=torch.int64) * 0x5DEECE66D
    gated, dy = torch.empty_like(weight), torch.linspace(1, -1, 5 * 37).view(5, 37)
    found.gate(gated, weight, bits)
    kept = [int(word) >> j & 1 for word in bits for j in range(64)][: weight.numel()]
    right = torch.equal(gated, weight * torch.tensor(kept, dtype=torch.float32).view_as(weight))
    pairs = ((found.forward(x, weight, bits, None), x @ gated.t()), (found.backward(dy, weight, bits), dy @ gated))
    if not right or not all(torch.allclose(ours, theirs, atol=1e-4) for ours, theirs in pairs):
        raise RuntimeError("its results are wrong on this processor")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
