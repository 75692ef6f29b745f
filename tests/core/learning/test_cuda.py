"""The Triton kernel against the eager passes, in Triton's interpreter on the CPU."""

import subprocess
import sys

import pytest

SCRIPT = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from torch import nn
from maskscope.core.learning import cuda
from maskscope.core.learning.blocks import WIDTH, Blocks
from maskscope.core.gates import GumbelSigmoid
from maskscope.core.learning.kernels import Kernel, words
from maskscope.core.layout import layout
from maskscope.core.noise import draw, uniform

gate, units = GumbelSigmoid(), 3000
blocks = Blocks(layout(nn.Linear(1, units)))
keys = (blocks.key0, blocks.key1)
gen = torch.Generator().manual_seed(0)
logits = torch.randn(blocks.count, WIDTH, generator=gen) * 4
weights = torch.randn(blocks.count, WIDTH, generator=gen)
for sample in range(4):
    stream = words(draw(3, 5, sample, strata=4), blocks.device)
    index = torch.arange(WIDTH, dtype=torch.int32)
    u = uniform(index, keys[0] + stream[0], keys[1] ^ stream[1], stream[2])
    # Integer noise equal: thresholds at the numbers themselves and one grid step below decide every one of them.
    for shift, kept in ((0.0, 0.0), (2.0**-23, 1.0)):
        gates = blocks.full(0.5)
        cuda.sample(gates, u - shift, torch.ones(1, 1).expand(blocks.count, WIDTH), keys, stream, logits=False)
        assert bool((gates == kept).all()), (sample, shift)
    eager, found = blocks.full(0.0), blocks.full(0.0)
    Kernel(gate, "eager").sample(eager, logits, gate.prepare(logits), weights, keys, stream)
    cuda.sample(found, gate.prepare(logits), weights, keys, stream, logits=False)
    assert torch.equal(found, eager)
    cuda.sample(found, logits, weights, keys, stream, logits=True)
    threshold = gate.prepare(logits)
    ulp = torch.nextafter(threshold, torch.tensor(2.0)) - threshold
    near = (u - threshold).abs() <= 2 * ulp
    assert torch.equal(found[~near], eager[~near])
    assert near.sum() < 5
print("same")
"""


def test_the_triton_kernel_draws_the_same_gates():
    pytest.importorskip("triton", reason="Triton is made for Linux only")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr
