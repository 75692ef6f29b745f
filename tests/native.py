"""Products with gated weights in tests, whose passes are not compiled: annotations that are checked at run time cannot be."""

import sys

import pytest

from maskscope.core.learning.kernels import Kernel
from maskscope.core.learning.native import library


def with_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, learning on the CPU uses them."""
    if sys.platform != "linux":
        pytest.skip("compiled on Linux only")
    monkeypatch.setattr(Kernel, "native", lambda _kernel, device: library() if device.type == "cpu" else None)
