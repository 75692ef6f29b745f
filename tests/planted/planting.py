"""Networks whose answer is known: two trained nets side by side in one, with nothing between them."""

from itertools import count

import torch
from torch import Tensor, nn

from maskscope.core.seeded import seeded
from maskscope.models.lstm import LSTM
from maskscope.models.mlp import MLP

DIGITS = 8


def problems(seed: int, n: int = 64) -> tuple[Tensor, Tensor]:
    """Two digits, one-hot, to be added modulo 8."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(0, DIGITS, (n, 2), generator=generator)
    return nn.functional.one_hot(digits, DIGITS).flatten(1).float(), digits.sum(1) % DIGITS


def both(step: int, n: int = 64) -> tuple[Tensor, Tensor]:
    """Problems for both halves at once: inputs side by side, two targets."""
    (x, y), (z, t) = problems(2 * step, n), problems(2 * step + 1, n)
    return torch.cat([x, z], 1), torch.stack([y, t], 1)


def answer(network, x: Tensor, *, recurrent: bool) -> Tensor:
    """Outputs; a recurrent network sees the input three times."""
    return network(x.unsqueeze(1).expand(-1, 3, -1))[:, -1] if recurrent else network(x)


def trained(seed: int, *, recurrent: bool) -> nn.Module:
    """A small network that adds two digits without error."""
    with seeded(seed):
        model = LSTM(2 * DIGITS, 16, 1, DIGITS) if recurrent else MLP(2 * DIGITS, (32, 32), DIGITS)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in count():
        x, y = problems(1000 * seed + step)
        outputs = answer(model, x, recurrent=recurrent)
        loss = nn.functional.cross_entropy(outputs, y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if float(loss.detach()) < 0.003 or step > 3000:
            break
    assert float((outputs.argmax(-1) == y).float().mean()) == 1
    return model


def side_by_side(a: nn.Module, b: nn.Module, *, recurrent: bool) -> nn.Module:
    """One network that contains both, block-diagonally."""
    whole = LSTM(4 * DIGITS, 32, 1, 2 * DIGITS) if recurrent else MLP(4 * DIGITS, (64, 64), 2 * DIGITS)
    parts = dict(a.named_parameters()), dict(b.named_parameters())
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            first, second = (part[name] for part in parts)
            gates = 4 if name.startswith("lstm.") else 1  # an LSTM's rows are four gates, each with both blocks
            chunks = zip(first.chunk(gates), second.chunk(gates), strict=True)
            parameter.copy_(torch.cat([block(x, y) for x, y in chunks]))
    return whole


def block(x: Tensor, y: Tensor) -> Tensor:
    """Vectors one after the other, matrices block-diagonally."""
    return torch.cat([x, y]) if x.ndim == 1 else torch.block_diag(x, y)


def rows_of(half: int, rows: int, *, gates: int) -> Tensor:
    """Which rows of a parameter belong to a half."""
    size = rows // gates // 2
    mine = torch.arange(rows).reshape(gates, 2, size)[:, half].flatten()
    return torch.zeros(rows, dtype=torch.bool).index_fill(0, mine, value=True)
